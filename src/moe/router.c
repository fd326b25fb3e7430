/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/router.h"

void slc_router_carve(struct slc_router *r, const struct slc_moe_shape *s, bool renorm,
                      bool training, struct slc_arena *device)
{
    size_t n = training ? (size_t)(s->T * s->E) : 0;

    r->shape = s;
    r->renorm = renorm;
    r->dlogits = slc_arena_take(device, "moe scratch", n * sizeof(float));
    r->dlogits_low = NULL;
    if (s->dtype != SLC_F32)
        r->dlogits_low =
            slc_arena_take(device, "moe scratch", n * slc_dtype_size(s->dtype));
}

int slc_router_prepare(const struct slc_router *r, struct slc_backend *b, int64_t pools,
                       struct slc_err *e)
{
    const struct slc_moe_shape *s = r->shape;

    if (SLC_PREPARE(b, matmul, e, .M = s->T, .N = s->E, .K = s->H, .trans_b = true,
                    .dtype = s->dtype, .c_dtype = SLC_F32) < 0 ||
        SLC_PREPARE(b, router_forward, e, .T = s->T, .E = s->E, .K = s->K, .P = pools,
                    .renorm = r->renorm) < 0)
        return -1;
    if (!r->dlogits)
        return 0;
    if (SLC_PREPARE(b, matmul, e, .M = s->T, .N = s->H, .K = s->E, .acc = true,
                    .dtype = s->dtype, .c_dtype = s->dtype) < 0 ||
        SLC_PREPARE(b, matmul, e, .M = s->E, .N = s->H, .K = s->T, .trans_a = true,
                    .acc = true, .dtype = s->dtype, .c_dtype = SLC_F32) < 0 ||
        SLC_PREPARE(b, router_backward, e, .T = s->T, .E = s->E, .K = s->K, .P = pools,
                    .renorm = r->renorm) < 0)
        return -1;
    return 0;
}

void slc_router_forward(const struct slc_router *r, struct slc_queue *q,
                        struct slc_moe_saved *s, const void *w, const void *x,
                        const int32_t *pool, int64_t n_pools, const int32_t *forced)
{
    const struct slc_moe_shape *n = r->shape;

    SLC_RUN(q, matmul, .c = s->probs, .a = x, .b = w, .M = n->T, .N = n->E, .K = n->H,
            .trans_b = true, .dtype = n->dtype, .c_dtype = SLC_F32);
    SLC_RUN(q, router_forward, .probs = s->probs, .weights = s->weights, .lse = s->lse,
            .ids = s->ids, .count = s->pool_count, .prob_sum = s->pool_prob,
            .z_sum = s->z_sum, .logits = s->probs, .pool = pool, .forced = forced,
            .T = n->T, .E = n->E, .K = n->K, .P = n_pools, .renorm = r->renorm);
}

void slc_router_backward(const struct slc_router *r, struct slc_queue *q,
                         const struct slc_moe_saved *s, const void *w, float *dw,
                         const void *x, void *dx, const float *dweights,
                         const int32_t *pool, int64_t n_pools, const float *prob_grad,
                         float z_coef)
{
    const struct slc_moe_shape *n = r->shape;
    const void *dlogits = r->dlogits;

    SLC_RUN(q, router_backward, .dlogits = r->dlogits, .probs = s->probs,
            .weights = s->weights, .lse = s->lse, .dweights = dweights,
            .prob_grad = prob_grad, .ids = s->ids, .pool = pool, .z_coef = z_coef,
            .T = n->T, .E = n->E, .K = n->K, .P = n_pools, .renorm = r->renorm);
    if (r->dlogits_low) {
        SLC_RUN(q, cast, .dst = r->dlogits_low, .dst_dtype = n->dtype,
                .src = r->dlogits, .src_dtype = SLC_F32, .n = n->T * n->E);
        dlogits = r->dlogits_low;
    }
    SLC_RUN(q, matmul, .c = dx, .a = dlogits, .b = w, .M = n->T, .N = n->H, .K = n->E,
            .acc = true, .dtype = n->dtype, .c_dtype = n->dtype);
    if (dw)
        SLC_RUN(q, matmul, .c = dw, .a = dlogits, .b = x, .M = n->E, .N = n->H,
                .K = n->T, .trans_a = true, .acc = true, .dtype = n->dtype,
                .c_dtype = SLC_F32);
}
