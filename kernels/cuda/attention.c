/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#ifdef SLC_HAVE_CUDNN

#include <math.h>
#include <string.h>

#include "kernels/cuda/attention_job.h"

/*
 * bf16 attention by cuDNN. Rows that are whole sequences have a plan of their own,
 * without masks of padding. Packed documents are cut by length into calls of plans with
 * room for B sequences of S tokens (packing.h); which of them are meant is read on the
 * GPU. All plans that a packing can need are made at set-up: for each S, every size B
 * up to slc_packing_most. Calls go to two streams in turn, so that one's end, where
 * blocks run out, is filled by another; nothing that two calls write is the same
 * memory. What cuDNN has no engine for runs on attention_plain.cu, and the first such
 * shape is named on stderr.
 */

/* Pointers of the call for sequences from slot (whole rows: row) b0, query heads from
 * hq. */
static void arrays_of(void *arrays[SLC_SDPA_ARRAYS], const struct slc_attention_job *j,
                      char *scratch, const struct slc_attention_parts *x, int64_t b0,
                      int64_t hq)
{
    const struct slc_attention_backward_args *a = j->a;
    const struct slc_sdpa_shape *s = &j->shape;
    const int64_t hk = hq / (s->NQ / s->NK);
    /* without offsets, sequences are reached by pointer */
    const int64_t t0 = s->ragged ? 0 : b0 * s->S;
    const size_t q = (size_t)((t0 * s->NQ + hq) * s->D) * 2;
    const size_t k = (size_t)((t0 * s->NK + hk) * s->D) * 2;
    const size_t row = (size_t)(t0 * s->NQ + hq) * sizeof(float);
    const size_t b = (size_t)b0 * sizeof(int32_t);

#define AT(p, n) ((void *)((char *)(uintptr_t)(p) + (n)))
    arrays[SLC_SDPA_Q] = AT(a->q, q);
    arrays[SLC_SDPA_K] = AT(a->k, k);
    arrays[SLC_SDPA_V] = AT(a->v, k);
    arrays[SLC_SDPA_O] = AT(a->o, q);
    arrays[SLC_SDPA_STATS] = AT(a->lse, row);
    arrays[SLC_SDPA_D_O] = AT(a->d_o, q);
    arrays[SLC_SDPA_DQ] = AT(a->dq, q);
    arrays[SLC_SDPA_DK] = s->split ? scratch + x->dk + q : AT(a->dk, k);
    arrays[SLC_SDPA_DV] = s->split ? scratch + x->dv + q : AT(a->dv, k);
    arrays[SLC_SDPA_LENGTHS] = scratch + x->length + b;
    arrays[SLC_SDPA_OFFSETS_Q] = scratch + x->off_q + b;
    arrays[SLC_SDPA_OFFSETS_K] = scratch + x->off_k + b;
    arrays[SLC_SDPA_OFFSETS_STATS] = scratch + x->off_stats + b;
    arrays[SLC_SDPA_SUM] = scratch + x->sum + row;
    arrays[SLC_SDPA_DK_FULL] = scratch + x->dk + q;
    arrays[SLC_SDPA_DV_FULL] = scratch + x->dv + q;
#undef AT
}

/* Where the calls of a job run, in turn. */
struct lanes {
    cudaStream_t stream[SLC_ATTENTION_LANES];
    char *workspace[SLC_ATTENTION_LANES];
    int n, next;
};

/* All calls of a part. */
static cudnnStatus_t run_part(struct slc_cuda *c, struct slc_attention_job *j,
                              const struct slc_packing_part *part, char *scratch,
                              const struct slc_attention_parts *x, struct lanes *l)
{
    float scale = j->a->scale, inf = -INFINITY, one = 1, window = (float)j->a->window;
    void *arrays[SLC_SDPA_ARRAYS] = {
        [SLC_SDPA_SCALE] = &scale,
        [SLC_SDPA_MINUS_INFINITY] = &inf,
        [SLC_SDPA_ONE] = &one,
        [SLC_SDPA_WINDOW] = &window,
    };
    const struct slc_sdpa_plan *p =
        slc_cuda_attention_plan(c, slc_attention_shape(j, part->B, part->S));
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;

    for (int64_t i = 0; i < part->calls; i++)
        for (int64_t h = 0; h < j->shape.NQ; h += j->shape.heads) {
            const int64_t b =
                j->shape.ragged ? part->slot + i * part->stride : i * part->B;
            const int lane = l->next++ % l->n;

            arrays_of(arrays, j, scratch, x, b, h);
            if (s == CUDNN_STATUS_SUCCESS)
                s = cudnnSetStream(c->attention->handle[0], l->stream[lane]);
            if (s == CUDNN_STATUS_SUCCESS)
                s = slc_sdpa_plan_run(p, c->attention->handle[0], arrays,
                                      l->workspace[lane]);
        }
    return s;
}

static bool is_one_call(const struct slc_attention_job *j)
{
    const struct slc_packing_part *p = &j->packing.part[0];

    return j->packing.n == 1 && p->calls == 1 &&
           slc_packing_heads(&j->rule, p->B, p->S) == j->a->NQ;
}

/* dK and dV of the parts that computed one head at a time. */
static void sum_parts(struct slc_queue *q, struct slc_attention_job *j, char *scratch,
                      const struct slc_attention_parts *x)
{
    const struct slc_attention_backward_args *a = j->a;
    struct slc_cuda_groups g = {.dk = a->dk, .dv = a->dv, .all_dk = scratch + x->dk,
                                .all_dv = scratch + x->dv, .slots = 1, .most = a->T,
                                .NQ = a->NQ, .NK = a->NK, .D = a->D};

    for (int i = 0; i < j->packing.n; i++) {
        const struct slc_packing_part *p = &j->packing.part[i];

        if (!slc_attention_shape(j, p->B, p->S)->split)
            continue;
        if (j->shape.ragged) {
            g.length = (const int32_t *)(scratch + x->length) + p->slot;
            g.off_k = (const int32_t *)(scratch + x->off_k) + p->slot;
            g.slots = p->calls * p->stride;
            g.most = p->S;
        }
        slc_cuda_sum_groups(q, &g);
    }
}

/* What comes in `stream` waits for what is in `before` now. */
static cudaError_t after(cudaStream_t stream, cudaEvent_t event, cudaStream_t before)
{
    const cudaError_t err = cudaEventRecord(event, before);

    return err == cudaSuccess ? cudaStreamWaitEvent(stream, event, 0) : err;
}

static void run_parts(struct slc_queue *q, struct slc_attention_job *j, char *scratch,
                      const struct slc_attention_parts *x)
{
    struct slc_cuda *c = slc_cuda_queue_of(q)->cuda;
    struct slc_cuda_attention *state = c->attention;
    cudaStream_t own = slc_cuda_queue_of(q)->stream;
    struct lanes l = {
        .stream = {own, state->side},
        .workspace = {scratch + x->workspace, scratch + x->second},
        .n = x->second == x->workspace || is_one_call(j) ? 1 : SLC_ATTENTION_LANES};
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    cudaError_t err = cudaSuccess;

    if (l.n > 1)
        err = after(state->side, state->fork, own);
    for (int i = 0; i < j->packing.n && s == CUDNN_STATUS_SUCCESS; i++)
        s = run_part(c, j, &j->packing.part[i], scratch, x, &l);
    if (l.n > 1 && err == cudaSuccess)
        err = after(own, state->join, state->side);
    sum_parts(q, j, scratch, x);
    if (s != CUDNN_STATUS_SUCCESS)
        slc_cuda_fail_text(q, SLC_EXIT_BUG, cudnnGetErrorString(s));
    slc_cuda_fail(q, err, "attention");
}

/* true: done by cuDNN (or the queue has failed). */
static bool run(struct slc_queue *q, const struct slc_attention_backward_args *a,
                bool backward)
{
    struct slc_cuda *c = slc_cuda_queue_of(q)->cuda;
    struct slc_err e = SLC_ERR_INIT;
    struct slc_attention_need need = {0};
    struct slc_attention_job j;

    if (!slc_attention_job_init(&j, c, a, backward))
        return false;
    slc_attention_cut(&j);
    if (backward && j.packing.n > 0 &&
        slc_attention_check_room(c, j.packing.part[0].S, &e) != 0) {
        slc_cuda_fail_text(q, e.code, e.text);
        return true;
    }
    for (int i = 0; i < j.packing.n; i++)
        if (!slc_attention_add_need(&need, c, &j, j.packing.part[i].B,
                                    j.packing.part[i].S))
            return false;
    const struct slc_attention_parts x =
        slc_attention_scratch(c, a, j.packing.slots, &need);
    char *scratch = slc_cuda_scratch(q, x.end);
    if (!scratch)
        return true;
    if (j.shape.ragged) {
        const struct slc_cuda_sequences to = {
            (int32_t *)(scratch + x.length), (int32_t *)(scratch + x.off_q),
            (int32_t *)(scratch + x.off_k), (int32_t *)(scratch + x.off_stats)};

        slc_cuda_sequences(q, &to, &j.packing, a->seg, a->n_seg, a->NQ, a->NK, a->D);
    }
    run_parts(q, &j, scratch, &x);
    return true;
}

/* What all plans ask for that packings of rows of max_len tokens can need. need NULL:
 * they are wanted first, so that they are made together. */
static void all_plans(struct slc_cuda *c, struct slc_attention_job *j, int64_t max_len,
                      struct slc_attention_need *need)
{
    int64_t S = 0;

    do {
        S = slc_packing_room(&j->rule, S + 1);
        for (int64_t B = slc_packing_size(&j->rule, 1, S);
             B <= slc_packing_most(&j->rule, S);
             B = slc_packing_size(&j->rule, B + 1, S))
            if (need)
                slc_attention_add_need(need, c, j, B, S);
            else
                slc_cuda_attention_plan_want(c, slc_attention_shape(j, B, S));
    } while (S < max_len);
}

/* Plans of one pass of rows of max_len tokens; the most scratch that it can take. */
static size_t prepare(struct slc_cuda *c, const struct slc_attention_backward_args *a,
                      bool backward)
{
    const int64_t rows = a->max_len > 0 ? a->T / a->max_len : 0;
    struct slc_attention_backward_args one = *a; /* whole rows */
    struct slc_attention_need need = {0};
    struct slc_attention_job j, packed;

    if (a->dtype != SLC_BF16 || rows == 0 || rows * a->max_len != a->T ||
        !slc_cuda_attention_state(c))
        return 0;
    c->attention->whole = slc_most(c->attention->whole, a->max_len);
    one.n_seg = rows;
    if (!slc_attention_job_init(&j, c, &one, backward)) {
        slc_cuda_attention_say_plain(
            c, a->max_len, a->D,
            "cuDNN's takes heads of at most 128 in steps of 8, on Hopper");
        return 0;
    }
    slc_attention_cut(&j);
    packed = j;
    packed.shape.ragged = true;
    all_plans(c, &packed, a->max_len, NULL);
    if (!j.shape.ragged)
        slc_attention_add_need(&need, c, &j, j.packing.part[0].B, a->max_len);
    all_plans(c, &packed, a->max_len, &need);
    return slc_attention_scratch(c, a, 8 * a->T, &need).end;
}

static struct slc_attention_backward_args
as_backward(const struct slc_attention_forward_args *f)
{
    return (struct slc_attention_backward_args){
        .o = f->o, .lse = f->lse, .q = f->q, .k = f->k, .v = f->v, .seg = f->seg,
        .seg_host = f->seg_host, .T = f->T, .NQ = f->NQ, .NK = f->NK, .D = f->D,
        .n_seg = f->n_seg, .max_len = f->max_len, .window = f->window,
        .scale = f->scale, .dtype = f->dtype};
}

size_t slc_cuda_attention_prepare_forward(struct slc_cuda *c,
                                          const struct slc_attention_forward_args *f)
{
    const struct slc_attention_backward_args a = as_backward(f);

    return prepare(c, &a, false);
}

size_t slc_cuda_attention_prepare_backward(struct slc_cuda *c,
                                           const struct slc_attention_backward_args *a)
{
    return prepare(c, a, true);
}

void slc_cuda_attention_forward(struct slc_queue *q,
                                const struct slc_attention_forward_args *f)
{
    const struct slc_attention_backward_args a = as_backward(f);

    if (f->T > 0 && !run(q, &a, false))
        slc_cuda_attention_forward_plain(q, f);
}

void slc_cuda_attention_backward(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    if (a->T > 0 && !run(q, a, true))
        slc_cuda_attention_backward_plain(q, a);
}

#else

int slc_cuda_attention_check(const struct slc_cuda *c,
                             const struct slc_attention_backward_args *a,
                             struct slc_err *e)
{
    (void)c;
    (void)a;
    (void)e;
    return 0;
}

size_t slc_cuda_attention_prepare_forward(struct slc_cuda *c,
                                          const struct slc_attention_forward_args *a)
{
    (void)c;
    (void)a;
    return 0;
}

size_t slc_cuda_attention_prepare_backward(struct slc_cuda *c,
                                           const struct slc_attention_backward_args *a)
{
    (void)c;
    (void)a;
    return 0;
}

void slc_cuda_attention_forward(struct slc_queue *q,
                                const struct slc_attention_forward_args *a)
{
    slc_cuda_attention_forward_plain(q, a);
}

void slc_cuda_attention_backward(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    slc_cuda_attention_backward_plain(q, a);
}

#endif
