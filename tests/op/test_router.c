/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t T, E, K, P;
    bool renorm, forced, pools, aux, in_place;
    bool ties; /* logits take three values only */
};

static const float z_coef = 0.01f;

/* Documents of uneven length, in order; every 11th token is padding. */
static int32_t *pools_of(const struct shape *s)
{
    int32_t *pool = op_ints(s->T, 2, 1);

    for (int64_t t = 0; t < s->T; t++)
        pool[t] = t % 11 == 10 ? -1 : (int32_t)(t * s->P / s->T);
    return pool;
}

/* Ascending ids that have nothing to do with the logits. */
static int32_t *forced_of(const struct shape *s)
{
    int32_t *ids = op_ints(s->T * s->K, 3, 1);

    for (int64_t t = 0; t < s->T; t++)
        for (int64_t k = 0; k < s->K; k++)
            ids[t * s->K + k] = (int32_t)(t % (s->E - s->K + 1) + k);
    return ids;
}

static float *logits_of(const struct shape *s)
{
    float *x = op_normal(s->T * s->E, 1, 2);

    for (int64_t i = 0; s->ties && i < s->T * s->E; i++)
        x[i] = x[i] > 1 ? 1.0f : x[i] < -1 ? -1.0f : 0.0f;
    return x;
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t T = s->T, E = s->E, K = s->K, P = s->P;
    float *logits = op_up(d, logits_of(s), (size_t)(T * E) * 4);
    float *probs = s->in_place ? logits : op_new(d, (size_t)(T * E) * 4);
    float *weights = op_new(d, (size_t)(T * K) * 4), *lse = op_new(d, (size_t)T * 4);
    float *prob_sum = op_new(d, (size_t)(P * E) * 4), *z_sum = op_new(d, 4);
    float *dlogits = op_new(d, (size_t)(T * E) * 4);
    int32_t *ids = op_new(d, (size_t)(T * K) * 4),
            *count = op_new(d, (size_t)(P * E) * 4);
    int32_t *pool = s->pools ? op_up(d, pools_of(s), (size_t)T * 4) : NULL;
    int32_t *forced = s->forced ? op_up(d, forced_of(s), (size_t)(T * K) * 4) : NULL;
    float *dweights = op_up(d, op_normal(T * K, 4, 1), (size_t)(T * K) * 4);
    float *prob_grad = op_up(d, op_normal(P * E, 5, 0.1), (size_t)(P * E) * 4);

    SLC_RUN(d->q, router_forward, .probs = probs, .weights = weights, .lse = lse,
            .ids = ids, .count = count, .prob_sum = prob_sum, .z_sum = z_sum,
            .logits = logits, .pool = pool, .forced = forced, .T = T, .E = E, .K = K,
            .P = P, .renorm = s->renorm);
    SLC_RUN(d->q, router_backward, .dlogits = dlogits, .probs = probs,
            .weights = weights, .lse = lse, .dweights = dweights,
            .prob_grad = s->aux ? prob_grad : NULL, .ids = ids, .pool = pool,
            .z_coef = s->aux ? z_coef : 0, .T = T, .E = E, .K = K, .P = P,
            .renorm = s->renorm);
    op_take(o, d, "ids", SLC_I32, ids, T * K, 0);
    op_take(o, d, "count", SLC_I32, count, P * E, 0);
    op_take(o, d, "probs", SLC_F32, probs, T * E, 1e-6);
    op_take(o, d, "weights", SLC_F32, weights, T * K, 1e-6);
    op_take(o, d, "lse", SLC_F32, lse, T, 1e-6);
    op_take(o, d, "prob_sum", SLC_F32, prob_sum, P * E, 1e-6);
    op_take(o, d, "z_sum", SLC_F32, z_sum, 1, 1e-6);
    op_take(o, d, "dlogits", SLC_F32, dlogits, T * E, 5e-6);
    o->v[o->n - 1].floor = 0.1; /* K = E = 1: no gradient */
}

static const struct shape shapes[] = {
    {0, 4, 2, 1, true, false, false, true, false, false},
    {1, 1, 1, 1, true, false, false, true, false, false},
    {3, 5, 5, 1, true, false, false, true, false, false},
    {3, 5, 5, 1, false, false, false, true, false, false},
    {17, 8, 2, 3, true, false, true, true, false, false},
    {67, 16, 1, 5, false, false, true, true, true, false},
    {67, 17, 3, 5, true, true, true, true, false, false},
    {67, 12, 4, 2, true, false, true, false, false, true},
    {2100, 128, 8, 9, true, false, true, true, true, false},
    {2100, 128, 8, 1, false, true, false, false, false, false},
};

Test(router, backends_agree)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

Test(router, ties_go_to_the_lowest_id)
{
    static const char *const backends[] = {"ref", "cpu"};
    static const struct shape s = {1, 12, 4, 1, true, false, false, false, false, true};

    const float *x = logits_of(&s);

    for (int b = 0; b < 2; b++) {
        struct op_out o;
        const int32_t *ids;

        op_run(backends[b], run, &s, &o);
        ids = o.v[0].data;
        for (int e = 0; e < 12; e++) {
            bool chosen = false;

            for (int k = 0; k < 4; k++)
                chosen |= ids[k] == e;
            for (int k = 0; !chosen && k < 4; k++)
                cr_assert(x[e] < x[ids[k]] || (x[e] == x[ids[k]] && e > ids[k]));
        }
        op_out_free(&o);
    }
}

/* In double: <dweights, weights> + <prob_grad, prob_sum> + z_coef z_sum, ids fixed. */
struct ctx {
    const struct shape *s;
    const int32_t *ids, *pool;
    const double *dw, *pg;
};

static double forward(const double *x, const void *p)
{
    const struct ctx *c = p;
    const struct shape *s = c->s;
    double total = 0;

    for (int64_t t = 0; t < s->T; t++) {
        const double *row = x + t * s->E;
        const int32_t *ids = c->ids + t * s->K;
        const int64_t pool = s->pools ? c->pool[t] : 0;
        double sum = 0, chosen = 0;

        if (pool < 0)
            continue;
        for (int64_t e = 0; e < s->E; e++)
            sum += exp(row[e]);
        for (int64_t k = 0; k < s->K; k++)
            chosen += exp(row[ids[k]]) / sum;
        for (int64_t k = 0; k < s->K; k++)
            total +=
                c->dw[t * s->K + k] * exp(row[ids[k]]) / sum / (s->renorm ? chosen : 1);
        for (int64_t e = 0; s->aux && e < s->E; e++)
            total += c->pg[pool * s->E + e] * exp(row[e]) / sum;
        if (s->aux)
            total += (double)z_coef * log(sum) * log(sum);
    }
    return total;
}

Test(router, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    static const struct shape list[] = {
        {13, 7, 3, 2, true, false, true, true, false, false},
        {13, 7, 3, 2, false, true, true, true, false, false},
        {13, 7, 1, 1, false, false, false, false, false, false},
        {13, 7, 7, 1, true, false, false, false, false, false},
    };

    for (int i = 0; i < 8; i++) {
        const struct shape *s = &list[i / 2];
        struct op_out o;
        struct ctx c = {
            s, NULL, pools_of(s),
            op_doubles(op_normal(s->T * s->K, 4, 1), SLC_F32, s->T * s->K),
            op_doubles(op_normal(s->P * s->E, 5, 0.1), SLC_F32, s->P * s->E)};

        op_run(backends[i % 2], run, s, &o);
        c.ids = o.v[0].data;
        op_check_gradient("dlogits", forward, &c,
                          op_doubles(logits_of(s), SLC_F32, s->T * s->E), s->T * s->E,
                          o.v[7].data, 1e-5);
        op_out_free(&o);
    }
}
