/* SPDX-License-Identifier: Apache-2.0 */
#include "optim/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "optim/shard.h"

enum { DENSE, EXPERT, CLASSES };

struct slc_optim {
    struct slc_params *ps;
    struct slc_optim_options o;
    struct slc_shard shard[CLASSES];
    struct slc_bucket bucket;
    struct slc_optim_extent *extent; /* ascending `at`: dense ones, then experts */
    int n;
    int64_t own; /* elements of all extents */
    void *master, *m, *v; /* fp32; low: master NULL, m and v bf16 */
    enum slc_dtype dtype; /* of these */
    double *squares; /* one sum, backend memory */
    int64_t updates;
    struct slc_err failed; /* of the sum in the background */
};

/* The own share of bucket b. One extent may go on where the one before ended. */
static void list_share(struct slc_optim *o, const struct slc_shard *s, int b)
{
    int64_t at = slc_shard_cut(s, b, s->index), end = slc_shard_cut(s, b, s->index + 1);
    struct slc_piece p;

    while (slc_shard_next(s, &at, end, &p)) {
        int64_t start = o->ps->p[p.param].start + p.local;
        struct slc_optim_extent *last = o->n ? &o->extent[o->n - 1] : NULL;

        if (last && last->param == p.param && last->start + last->count == start)
            last->count += p.n;
        else
            o->extent[o->n++] =
                (struct slc_optim_extent){p.param, start, p.n, o->own};
        o->own += p.n;
    }
}

static int list_extents(struct slc_optim *o, struct slc_err *e)
{
    int room = 0;

    for (int c = 0; c < CLASSES; c++)
        room += o->shard[c].n + o->shard[c].n_buckets;
    o->extent = calloc((size_t)room + 1, sizeof(*o->extent));
    if (!o->extent)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the optimizer's extents");
    for (int c = 0; c < CLASSES; c++)
        for (int b = o->shard[c].n_buckets - 1; b >= 0; b--)
            list_share(o, &o->shard[c], b);
    return 0;
}

static int alloc_state(struct slc_optim *o, struct slc_err *e)
{
    struct slc_backend *b = o->ps->b;
    const int64_t bytes = o->own * (int64_t)slc_dtype_size(o->dtype);

    if (!o->o.low)
        o->master = slc_mem_alloc(b, (size_t)bytes, SLC_MEM_DEVICE, e);
    o->m = o->master || o->o.low ? slc_mem_alloc(b, (size_t)bytes, SLC_MEM_DEVICE, e)
                                 : NULL;
    o->v = o->m ? slc_mem_alloc(b, (size_t)bytes, SLC_MEM_DEVICE, e) : NULL;
    o->squares = o->v ? slc_mem_alloc(b, sizeof(double), SLC_MEM_DEVICE, e) : NULL;
    struct slc_queue *q = o->squares ? slc_queue_create(b, e) : NULL;
    if (!q)
        return slc_err_prefix(e, "optimizer state of %lld parameters", (long long)o->own);
    if (o->master)
        SLC_RUN(q, zero, .dst = o->master, .bytes = bytes);
    slc_optim_zero_moments(o, q);
    int rc = slc_queue_sync(q, e);
    slc_queue_destroy(q);
    return rc;
}

struct slc_optim *slc_optim_create(struct slc_params *ps, const struct slc_optim_options *oo,
                                   struct slc_err *e)
{
    struct slc_optim *o = calloc(1, sizeof(*o));

    if (!o) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the optimizer");
        return NULL;
    }
    SLC_ASSERT(ps->g && (oo->dense || !oo->expert));
    SLC_ASSERT(!oo->low || ps->dtype == SLC_BF16);
    o->ps = ps;
    o->o = *oo;
    o->dtype = oo->low ? SLC_BF16 : SLC_F32;
    const bool in_place = ps->b->immediate;
    if (slc_shard_init(&o->shard[DENSE], ps, false, oo->dense, oo->bucket, in_place, e) <
            0 ||
        slc_shard_init(&o->shard[EXPERT], ps, true, oo->expert, oo->bucket, in_place,
                       e) < 0 ||
        (!oo->host && (slc_shard_join(&o->shard[DENSE], e) < 0 ||
                       slc_shard_join(&o->shard[EXPERT], e) < 0)) ||
        list_extents(o, e) < 0 || alloc_state(o, e) < 0 ||
        slc_bucket_init(&o->bucket, ps->b, o->shard, CLASSES, e) < 0) {
        slc_optim_destroy(o);
        return NULL;
    }
    return o;
}

void slc_optim_destroy(struct slc_optim *o)
{
    if (!o)
        return;
    void *memory[] = {o->master, o->m, o->v, o->squares};
    for (size_t i = 0; i < sizeof(memory) / sizeof(*memory); i++)
        if (memory[i])
            slc_mem_free(o->ps->b, memory[i], SLC_MEM_DEVICE);
    slc_bucket_release(&o->bucket);
    slc_shard_release(&o->shard[DENSE]);
    slc_shard_release(&o->shard[EXPERT]);
    free(o->extent);
    free(o);
}

void slc_optim_zero_grad(struct slc_optim *o, struct slc_queue *q)
{
    SLC_RUN(q, zero, .dst = o->ps->g, .bytes = (int64_t)o->ps->grad_added);
}

/* Elements of an extent in this rank's part of its parameter. */
static int64_t local_of(const struct slc_optim *o, const struct slc_optim_extent *x)
{
    return x->start - o->ps->p[x->param].start;
}

/* The gradient of an extent. */
static void *grad_of(struct slc_optim *o, const struct slc_optim_extent *x,
                     enum slc_dtype *dtype)
{
    char *g = slc_param_grad_of(o->ps, x->param, dtype);

    return g + (size_t)local_of(o, x) * slc_dtype_size(*dtype);
}

static void *state_at(void *state, const struct slc_optim_extent *x)
{
    return (float *)state + x->at;
}

enum way { MASTER_TO_WEIGHT, WEIGHT_TO_MASTER };

static void convert(struct slc_optim *o, struct slc_queue *q, enum way way)
{
    enum slc_dtype dtype = o->ps->dtype;

    for (int i = 0; i < o->n && !o->o.low; i++) {
        const struct slc_optim_extent *x = &o->extent[i];
        char *w = (char *)slc_param_acquire(o->ps, x->param, q) +
                  (size_t)local_of(o, x) * slc_dtype_size(dtype);
        if (way == MASTER_TO_WEIGHT)
            SLC_RUN(q, cast, .dst = w, .dst_dtype = dtype, .src = state_at(o->master, x),
                    .src_dtype = SLC_F32, .n = x->count);
        else
            SLC_RUN(q, cast, .dst = state_at(o->master, x), .dst_dtype = SLC_F32, .src = w,
                    .src_dtype = dtype, .n = x->count);
        slc_param_release(o->ps, x->param, q);
    }
}

int slc_optim_adopt_weights(struct slc_optim *o, struct slc_queue *q, struct slc_err *e)
{
    convert(o, q, WEIGHT_TO_MASTER);
    return slc_queue_sync(q, e);
}

int slc_optim_adopt_gradients(struct slc_optim *o, struct slc_queue *q, struct slc_err *e)
{
    for (int i = 0; i < o->n; i++) {
        const struct slc_optim_extent *x = &o->extent[i];
        SLC_RUN(q, copy, .dst = state_at(o->master, x),
                .src = slc_param_grad(o->ps, x->param) + local_of(o, x),
                .bytes = x->count * (int64_t)sizeof(float));
    }
    return slc_queue_sync(q, e);
}

static int gather(struct slc_optim *o, struct slc_queue *q, struct slc_err *e)
{
    for (int c = 0; c < CLASSES; c++)
        if (slc_shard_gather(&o->shard[c], &o->bucket, q, e) < 0)
            return -1;
    return slc_queue_sync(q, e);
}

int slc_optim_publish_weights(struct slc_optim *o, struct slc_queue *q, struct slc_err *e)
{
    convert(o, q, MASTER_TO_WEIGHT);
    return gather(o, q, e);
}

/*
 * Norm of the whole gradient: each rank adds the squares of its own extents, so that each
 * parameter counts once. A loss that is not finite makes the norm so on all ranks.
 */
static int global_norm(struct slc_optim *o, struct slc_queue *q, bool finite_loss,
                       double *norm, struct slc_err *e)
{
    double sum;

    SLC_RUN(q, zero, .dst = o->squares, .bytes = sizeof(double));
    for (int i = 0; i < o->n; i++) {
        const struct slc_optim_extent *x = &o->extent[i];
        enum slc_dtype dtype;
        const void *g = grad_of(o, x, &dtype);
        SLC_RUN(q, sum_squares, .out = o->squares, .x = g, .n = x->count, .dtype = dtype,
                .acc = true);
    }
    if (slc_fetch(q, &sum, o->squares, sizeof(sum), e) < 0)
        return -1;
    if (!finite_loss)
        sum = NAN;
    if (o->shard[DENSE].size > 1 && slc_allreduce(o->o.dense, &sum, 1, SLC_F64, e) < 0)
        return -1;
    *norm = sqrt(sum);
    return 0;
}

/* Weights and moments in bf16. */
static void update_low(struct slc_optim *o, struct slc_queue *q, double lr, double scale)
{
    struct slc_params *ps = o->ps;
    double t = (double)o->updates;

    for (int i = 0; i < o->n; i++) {
        const struct slc_optim_extent *x = &o->extent[i];
        const struct slc_param *p = &ps->p[x->param];
        uint16_t *w = (uint16_t *)slc_param_acquire(ps, x->param, q) + local_of(o, x);
        enum slc_dtype dtype;
        const void *g = grad_of(o, x, &dtype);

        SLC_RUN(q, adamw_low, .p = w, .m = (uint16_t *)o->m + x->at,
                .v = (uint16_t *)o->v + x->at, .g = g, .g_dtype = dtype, .n = x->count,
                .first = x->start,
                .key = slc_rng_u64(o->o.seed, SLC_RNG_ROUND,
                                   slc_hash64(p->name, strlen(p->name)),
                                   (uint64_t)o->updates),
                .lr = lr, .beta1 = o->o.beta1, .beta2 = o->o.beta2, .eps = o->o.eps,
                .wd = p->decay ? o->o.weight_decay : 0, .grad_scale = (float)scale,
                .bc1 = 1 - pow(o->o.beta1, t), .bc2 = 1 - pow(o->o.beta2, t));
        slc_param_release(ps, x->param, q);
    }
}

static void update(struct slc_optim *o, struct slc_queue *q, double lr, double scale)
{
    struct slc_params *ps = o->ps;
    double t = (double)o->updates;

    if (o->o.low) {
        update_low(o, q, lr, scale);
        return;
    }
    for (int i = 0; i < o->n; i++) {
        const struct slc_optim_extent *x = &o->extent[i];
        SLC_RUN(q, adamw, .p = state_at(o->master, x), .m = state_at(o->m, x),
                .v = state_at(o->v, x),
                .g = slc_param_grad(ps, x->param) + local_of(o, x), .n = x->count,
                .lr = lr, .beta1 = o->o.beta1, .beta2 = o->o.beta2, .eps = o->o.eps,
                .wd = ps->p[x->param].decay ? o->o.weight_decay : 0,
                .grad_scale = (float)scale, .bc1 = 1 - pow(o->o.beta1, t),
                .bc2 = 1 - pow(o->o.beta2, t));
    }
    convert(o, q, MASTER_TO_WEIGHT);
}

static void on_ready(void *ctx, int param, struct slc_queue *q)
{
    struct slc_optim *o = ctx;
    struct slc_shard *s = &o->shard[o->ps->p[param].expert ? EXPERT : DENSE];

    (void)q;
    if (o->failed.code == 0)
        slc_shard_grad_ready(s, param, &o->failed);
}

void slc_optim_reduce_begin(struct slc_optim *o)
{
    if (!o->ps->b->immediate)
        return;
    o->failed = (struct slc_err)SLC_ERR_INIT;
    for (int c = 0; c < CLASSES; c++)
        slc_shard_reduce_begin(&o->shard[c]);
    o->ps->ready = on_ready;
    o->ps->ready_ctx = o;
}

/* What backward did not hide. */
static int reduce(struct slc_optim *o, struct slc_queue *q, struct slc_err *e)
{
    if (o->ps->ready == on_ready)
        o->ps->ready = NULL;
    if (o->failed.code) {
        *e = o->failed;
        return -1;
    }
    for (int c = 0; c < CLASSES; c++)
        if (slc_shard_reduce(&o->shard[c], &o->bucket, q, e) < 0)
            return -1;
    return 0;
}

int slc_optim_step(struct slc_optim *o, struct slc_queue *q, double lr, bool finite_loss,
                   struct slc_optim_report *r, struct slc_err *e)
{
    double scale = 1, started = slc_now();

    *r = (struct slc_optim_report){0};
    if (reduce(o, q, e) < 0)
        return -1;
    if (global_norm(o, q, finite_loss, &r->grad_norm, e) < 0)
        return -1;
    double reduced = slc_now();
    r->reduce_s = reduced - started;
    r->skipped = !isfinite(r->grad_norm);
    if (r->skipped)
        return 0;
    /* As torch.nn.utils.clip_grad_norm_. */
    if (o->o.clip > 0 && o->o.clip / (r->grad_norm + 1e-6) < 1)
        scale = o->o.clip / (r->grad_norm + 1e-6);
    o->updates++;
    update(o, q, lr, scale);
    if (slc_queue_sync(q, e) < 0)
        return -1;
    double updated = slc_now();
    r->update_s = updated - reduced;
    int rc = gather(o, q, e);
    r->gather_s = slc_now() - updated;
    return rc;
}

enum slc_dtype slc_optim_dtype(const struct slc_optim *o)
{
    return o->dtype;
}

void *slc_optim_kept(struct slc_optim *o, int kind, int param, int64_t start, int64_t at)
{
    const struct slc_param *p = &o->ps->p[param];
    char *base = kind == SLC_OPTIM_WEIGHT ? o->master : kind == SLC_OPTIM_M ? o->m : o->v;

    if (kind == SLC_OPTIM_WEIGHT && o->o.low) {
        base = o->ps->w;
        at = p->at + start - p->start;
    }
    return base + (size_t)at * slc_dtype_size(o->dtype);
}

void slc_optim_zero_moments(struct slc_optim *o, struct slc_queue *q)
{
    const int64_t bytes = o->own * (int64_t)slc_dtype_size(o->dtype);

    SLC_RUN(q, zero, .dst = o->m, .bytes = bytes);
    SLC_RUN(q, zero, .dst = o->v, .bytes = bytes);
}

const struct slc_optim_extent *slc_optim_extents(const struct slc_optim *o, int *n)
{
    *n = o->n;
    return o->extent;
}

float *slc_optim_master(struct slc_optim *o)
{
    return o->master;
}

float *slc_optim_m(struct slc_optim *o)
{
    return o->m;
}

float *slc_optim_v(struct slc_optim *o)
{
    return o->v;
}

int64_t slc_optim_updates(const struct slc_optim *o)
{
    return o->updates;
}

void slc_optim_set_updates(struct slc_optim *o, int64_t n)
{
    o->updates = n;
}

int64_t slc_optim_bytes(const struct slc_optim *o)
{
    return (o->o.low ? 2 : 3) * o->own * (int64_t)slc_dtype_size(o->dtype);
}
