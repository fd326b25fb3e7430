/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/op_meter.h"

#include <string.h>

#include "base/clock.h"

static struct slc_backend *metered;
static struct slc_ops own;
static struct slc_op_cost costs[SLC_OP_COUNT];

/* Arithmetic and traffic of one call. */
struct work {
    double flop, bytes;
};

static double size_of(enum slc_dtype t)
{
    return (double)slc_dtype_size(t);
}

/* One int32 of backend memory. */
static int64_t read_one(struct slc_queue *q, const int32_t *p)
{
    int32_t value = 0;

    return slc_fetch(q, &value, p, sizeof(value), NULL) < 0 ? 0 : value;
}

static int64_t rows_of(struct slc_queue *q, int64_t rows, const int32_t *rows_dev)
{
    const int64_t n = rows_dev ? read_one(q, rows_dev) : rows;

    return n < rows ? n : rows;
}

/* Pairs of a query and a key that it sees. */
static double pairs(struct slc_queue *q, const int32_t *seg, int64_t n_seg,
                    int64_t window)
{
    double sum = 0;
    int64_t from = read_one(q, seg);

    for (int64_t s = 0; s < n_seg; s++) {
        const int64_t to = read_one(q, seg + s + 1);
        const double n = (double)(to - from);
        const double w = window > 0 && window < to - from ? (double)window : n;

        sum += w * (w + 1) / 2 + (n - w) * w;
        from = to;
    }
    return sum;
}

#define WORK(op) static struct work work_##op(struct slc_queue *q, const struct slc_##op##_args *a)
#define UNUSED (void)q, (void)a

WORK(copy)
{
    UNUSED;
    return (struct work){0, 2.0 * (double)a->bytes};
}
WORK(zero)
{
    UNUSED;
    return (struct work){0, (double)a->bytes};
}
WORK(cast)
{
    UNUSED;
    return (struct work){0, (double)a->n * (size_of(a->dst_dtype) + size_of(a->src_dtype))};
}
WORK(add)
{
    UNUSED;
    return (struct work){0, 3.0 * (double)a->n * size_of(a->dtype)};
}
WORK(scale)
{
    UNUSED;
    return (struct work){0, 2.0 * (double)a->n * size_of(a->dtype)};
}
WORK(sum_squares)
{
    UNUSED;
    return (struct work){0, (double)a->n * size_of(a->dtype)};
}
WORK(sum)
{
    UNUSED;
    return (struct work){0, 4.0 * (double)a->n};
}
WORK(embedding_forward)
{
    UNUSED;
    return (struct work){0, 2.0 * (double)(a->T * a->H) * size_of(a->dtype)};
}
WORK(embedding_backward)
{
    UNUSED;
    return (struct work){0, (double)(a->T * a->H) * (8 + size_of(a->dtype))};
}
WORK(rmsnorm_forward)
{
    UNUSED;
    return (struct work){0, (a->add ? 4.0 : 2.0) * (double)(a->T * a->H) * size_of(a->dtype)};
}
WORK(rmsnorm_backward)
{
    UNUSED;
    return (struct work){0, (a->dres ? 4.0 : 3.0) * (double)(a->T * a->H) * size_of(a->dtype)};
}
WORK(matmul)
{
    const double M = (double)a->M, N = (double)a->N, K = (double)a->K;

    UNUSED;
    return (struct work){2 * M * N * K, (M * K + K * N) * size_of(a->dtype) +
                                            (a->acc ? 2 : 1) * M * N * size_of(a->c_dtype)};
}
WORK(qkv_rope_forward)
{
    UNUSED;
    return (struct work){0, 2.0 * (double)(a->T * (a->NQ + 2 * a->NK) * a->D) *
                                size_of(a->dtype)};
}
WORK(qkv_rope_backward)
{
    UNUSED;
    return (struct work){0, 3.0 * (double)(a->T * (a->NQ + 2 * a->NK) * a->D) *
                                size_of(a->dtype)};
}
WORK(attention_forward)
{
    const double n = pairs(q, a->seg, a->n_seg, a->window);

    return (struct work){4 * n * (double)(a->NQ * a->D),
                         2.0 * (double)(a->T * (a->NQ + a->NK) * a->D) * size_of(a->dtype)};
}
WORK(attention_backward)
{
    const double n = pairs(q, a->seg, a->n_seg, a->window);

    return (struct work){10 * n * (double)(a->NQ * a->D),
                         4.0 * (double)(a->T * (a->NQ + a->NK) * a->D) * size_of(a->dtype)};
}
WORK(swiglu_forward)
{
    return (struct work){
        0, 3.0 * (double)(rows_of(q, a->rows, a->rows_dev) * a->F) * size_of(a->dtype)};
}
WORK(swiglu_backward)
{
    return (struct work){0, (a->aw ? 6.0 : 5.0) *
                                (double)(rows_of(q, a->rows, a->rows_dev) * a->F) *
                                size_of(a->dtype)};
}
WORK(router_forward)
{
    UNUSED;
    return (struct work){0, 8.0 * (double)(a->T * a->E)};
}
WORK(router_backward)
{
    UNUSED;
    return (struct work){0, 8.0 * (double)(a->T * a->E)};
}
WORK(dispatch_index)
{
    UNUSED;
    return (struct work){0, 4.0 * (double)(a->T * (a->K + 2 * a->S))};
}
WORK(dispatch_pack)
{
    UNUSED;
    return (struct work){0, 2.0 * (double)(a->T * a->H) * size_of(a->dtype)};
}
WORK(expert_index)
{
    UNUSED;
    return (struct work){0, 4.0 * (double)(3 * (int64_t)a->src.count * a->M + 2 * a->rows_cap)};
}
WORK(expert_gather)
{
    return (struct work){
        0, 2.0 * (double)(read_one(q, a->off + a->El) * a->H) * size_of(a->dtype)};
}
WORK(grouped_matmul)
{
    const double R = (double)read_one(q, a->off + a->El), N = (double)a->N,
                 K = (double)a->Kd;

    return (struct work){2 * R * N * K,
                         (R * (N + K) + (double)a->El * N * K) * size_of(a->dtype)};
}
WORK(grouped_wgrad)
{
    const double R = (double)read_one(q, a->off + a->El), N = (double)a->N,
                 K = (double)a->Kd;

    return (struct work){2 * R * N * K, R * (N + K) * size_of(a->dtype) +
                                            (a->acc ? 2 : 1) * (double)a->El * N * K *
                                                size_of(a->dw_dtype)};
}
WORK(expert_sum)
{
    UNUSED;
    return (struct work){0, (double)(a->n * a->H * (a->M + (a->add ? 2 : 1))) *
                                size_of(a->dtype)};
}
WORK(combine_sum)
{
    UNUSED;
    return (struct work){0, (double)(a->T * a->H * (a->S + (a->add ? 2 : 1))) *
                                size_of(a->dtype)};
}
WORK(cross_entropy)
{
    UNUSED;
    return (struct work){0, (a->grad ? 2.0 : 1.0) * (double)(a->rows * a->V) *
                                size_of(a->dtype)};
}
WORK(adamw)
{
    UNUSED;
    return (struct work){0, (double)a->n * (a->p_low ? 30 : 28)};
}
WORK(adamw_low)
{
    UNUSED;
    return (struct work){0, (double)a->n * (12 + size_of(a->g_dtype))};
}
WORK(balance)
{
    UNUSED;
    return (struct work){0, (double)(4 * a->rows * a->E)};
}

static void begin(struct slc_queue *q, struct work w, struct slc_op_cost *c)
{
    slc_queue_sync(q, NULL);
    c->flop += w.flop;
    c->bytes += w.bytes;
    c->calls++;
    c->seconds -= slc_now();
}

static void end(struct slc_queue *q, struct slc_op_cost *c)
{
    slc_queue_sync(q, NULL);
    c->seconds += slc_now();
}

#define METERED(op)                                                                    \
    static void metered_##op(struct slc_queue *q, const struct slc_##op##_args *a)     \
    {                                                                                  \
        begin(q, work_##op(q, a), &costs[SLC_OP_##op]);                                \
        own.op(q, a);                                                                  \
        end(q, &costs[SLC_OP_##op]);                                                   \
    }
SLC_OPS(METERED)

void slc_op_meter_start(struct slc_backend *b)
{
    if (!metered) {
        metered = b;
        own = b->ops;
    }
    memset(costs, 0, sizeof(costs));
#define PUT(op) b->ops.op = metered_##op;
    SLC_OPS(PUT)
}

void slc_op_meter_stop(void)
{
    if (metered)
        metered->ops = own;
    metered = NULL;
}

const struct slc_op_cost *slc_op_meter_cost(enum slc_op op)
{
    return &costs[op];
}

const char *slc_op_name(enum slc_op op)
{
#define NAME(op) #op,
    static const char *const names[] = {SLC_OPS(NAME)};

    return names[op];
}
