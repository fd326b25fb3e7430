/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/experts.h"

void slc_experts_carve_results(struct slc_experts *x, bool training,
                               struct slc_arena *device)
{
    const struct slc_moe_shape *s = x->shape;
    size_t rows = (size_t)s->rows_cap, H = (size_t)s->H;

    x->y = slc_arena_take(device, "moe scratch", rows * H * slc_dtype_size(s->dtype));
    x->dweight = NULL;
    if (training)
        x->dweight = slc_arena_take(device, "moe scratch", rows * sizeof(float));
}

void slc_experts_carve(struct slc_experts *x, const struct slc_moe_shape *s,
                       bool training, struct slc_arena *device)
{
    size_t rows = (size_t)s->rows_cap, ds = slc_dtype_size(s->dtype);
    size_t F = (size_t)s->F, H = (size_t)s->H;

    x->shape = s;
    slc_experts_carve_results(x, training, device);
    x->a = slc_arena_take(device, "moe scratch", rows * F * ds);
    x->load =
        slc_arena_take(device, "moe scratch", (size_t)s->El_max * sizeof(int32_t));
    x->x = x->h = x->aw = NULL;
    if (training) {
        x->aw = slc_arena_take(device, "moe scratch", rows * F * ds);
    } else {
        x->x = slc_arena_take(device, "moe scratch", rows * H * ds);
        x->h = slc_arena_take(device, "moe scratch", rows * 2 * F * ds);
    }
}

int slc_experts_prepare(const struct slc_experts *x, struct slc_backend *b,
                        bool training, struct slc_err *e)
{
    const struct slc_moe_shape *s = x->shape;
    int64_t n = s->rows_cap;

    if (SLC_PREPARE(b, grouped_matmul, e, .El = s->El, .N = 2 * s->F, .Kd = s->H,
                    .rows_cap = n, .trans_w = true, .dtype = s->dtype) < 0 ||
        SLC_PREPARE(b, grouped_matmul, e, .El = s->El, .N = s->H, .Kd = s->F,
                    .rows_cap = n, .trans_w = true, .dtype = s->dtype) < 0)
        return -1;
    if (!training)
        return 0;
    if (SLC_PREPARE(b, grouped_matmul, e, .El = s->El, .N = s->F, .Kd = s->H,
                    .rows_cap = n, .dtype = s->dtype) < 0 ||
        SLC_PREPARE(b, grouped_matmul, e, .El = s->El, .N = s->H, .Kd = 2 * s->F,
                    .rows_cap = n, .dtype = s->dtype) < 0 ||
        SLC_PREPARE(b, grouped_wgrad, e, .El = s->El, .N = s->H, .Kd = s->F,
                    .rows_cap = n, .acc = true, .dtype = s->dtype,
                    .dw_dtype = SLC_F32) < 0 ||
        SLC_PREPARE(b, grouped_wgrad, e, .El = s->El, .N = 2 * s->F, .Kd = s->H,
                    .rows_cap = n, .acc = true, .dtype = s->dtype,
                    .dw_dtype = SLC_F32) < 0)
        return -1;
    return 0;
}

void slc_experts_load(const struct slc_experts *x, struct slc_queue *q,
                      struct slc_moe_saved *s, const struct slc_rows *view,
                      int32_t *load)
{
    const struct slc_moe_shape *n = x->shape;

    SLC_RUN(q, expert_index, .off = s->off, .row_of = s->row_of, .rec_of = s->rec_of,
            .load = load, .row_weight = s->row_weight, .src = *view, .El = n->El,
            .M = n->M, .rows_cap = n->rows_cap, .row_align = n->align);
    SLC_RUN(q, expert_gather, .x = s->x, .src = *view, .rec_of = s->rec_of,
            .off = s->off, .El = n->El, .H = n->H, .rows_cap = n->rows_cap,
            .dtype = n->dtype);
}

void slc_experts_up(const struct slc_experts *x, struct slc_queue *q,
                    struct slc_moe_saved *s, const struct slc_moe_weights *w)
{
    const struct slc_moe_shape *n = x->shape;

    SLC_RUN(q, grouped_matmul, .y = s->h, .x = s->x, .w = w->up, .off = s->off,
            .rec_of = s->rec_of, .El = n->El, .N = 2 * n->F, .Kd = n->H,
            .rows_cap = n->rows_cap, .trans_w = true, .dtype = n->dtype);
}

void slc_experts_forward(const struct slc_experts *x, struct slc_queue *q,
                         struct slc_moe_saved *s, const struct slc_moe_weights *w)
{
    const struct slc_moe_shape *n = x->shape;

    slc_experts_up(x, q, s, w);
    SLC_RUN(q, swiglu_forward, .a = x->a, .h = s->h, .rows_dev = s->off + n->El,
            .rows = n->rows_cap, .F = n->F, .dtype = n->dtype);
    SLC_RUN(q, grouped_matmul, .y = x->y, .x = x->a, .w = w->down, .off = s->off,
            .rec_of = s->rec_of, .El = n->El, .N = n->H, .Kd = n->F,
            .rows_cap = n->rows_cap, .trans_w = true, .dtype = n->dtype);
}

void slc_experts_load_grad(const struct slc_experts *x, struct slc_queue *q,
                           const struct slc_moe_saved *s, const struct slc_rows *view)
{
    const struct slc_moe_shape *n = x->shape;

    SLC_RUN(q, expert_gather, .x = x->y, .src = *view, .rec_of = s->rec_of,
            .off = s->off, .El = n->El, .H = n->H, .rows_cap = n->rows_cap,
            .dtype = n->dtype);
}

/*
 * With o = w * (a W_down^T), d = gradient by o: da0 = d W_down; d(w) = <da0, a>;
 * dW_down = d^T (w a); dh = swiglu'(w da0); dW_up = dh^T x; dX = dh W_up.
 */
void slc_experts_backward(const struct slc_experts *x, struct slc_queue *q,
                          struct slc_moe_saved *s, const struct slc_moe_weights *w,
                          const struct slc_moe_grads *g)
{
    const struct slc_moe_shape *n = x->shape;

    SLC_RUN(q, grouped_matmul, .y = x->a, .x = x->y, .w = w->down, .off = s->off,
            .rec_of = s->rec_of, .El = n->El, .N = n->F, .Kd = n->H,
            .rows_cap = n->rows_cap,
            .dtype = n->dtype);
    SLC_RUN(q, swiglu_backward, .dh = s->h, .aw = x->aw, .dw = x->dweight, .da0 = x->a,
            .h = s->h, .w = s->row_weight, .rows_dev = s->off + n->El,
            .rows = n->rows_cap, .F = n->F, .dtype = n->dtype);
    if (g->down)
        SLC_RUN(q, grouped_wgrad, .dw = g->down, .dy = x->y, .x = x->aw, .off = s->off,
                .rec_of = s->rec_of, .El = n->El, .N = n->H, .Kd = n->F,
                .rows_cap = n->rows_cap,
                .acc = g->dtype == SLC_F32, .dtype = n->dtype, .dw_dtype = g->dtype);
    if (g->up)
        SLC_RUN(q, grouped_wgrad, .dw = g->up, .dy = s->h, .x = s->x, .off = s->off,
                .rec_of = s->rec_of, .El = n->El, .N = 2 * n->F, .Kd = n->H,
                .rows_cap = n->rows_cap,
                .acc = g->dtype == SLC_F32, .dtype = n->dtype, .dw_dtype = g->dtype);
    SLC_RUN(q, grouped_matmul, .y = x->y, .x = s->h, .w = w->up, .off = s->off,
            .rec_of = s->rec_of, .El = n->El, .N = n->H, .Kd = 2 * n->F,
            .rows_cap = n->rows_cap,
            .dtype = n->dtype);
}
