/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "tests/moe/moe_case.h"

static float value(const struct moe_case *c, uint64_t layer, uint64_t array, int64_t i)
{
    return (float)slc_rng_normal(c->seed, SLC_RNG_TEST, layer * 64 + array,
                                 (uint64_t)i);
}

static float *make(const struct moe_case *c, uint64_t layer, uint64_t array,
                   int64_t from, int64_t n, double scale)
{
    float *a = malloc((size_t)(n ? n : 1) * sizeof(*a));

    for (int64_t i = 0; i < n; i++)
        a[i] = (float)scale * value(c, layer, array, from + i);
    return a;
}

/* x[t][0] is 1, so that router[e][0] is a bias by which the skews work. */
static void skew(struct moe_data *d, const struct moe_case *c, int64_t total)
{
    const float middle = (float)(c->E - 1) / 2;

    for (int64_t t = 0; t < d->n; t++)
        d->x[t * c->H] = 1;
    for (int64_t e = 0; e < c->E; e++)
        d->router[e * c->H] = 0;
    if (c->skew == MOE_ONE) { /* far enough apart, yet no probability is 0 or 1 */
        for (int64_t i = 0; i < c->E * c->H; i++)
            d->router[i] *= 0.2f;
        d->router[(c->E - 1) * c->H] = 2;
        if (c->K < c->E)
            d->router[0] = -2;
    }
    if (c->skew != MOE_SPLIT)
        return;
    /* -(e - x1)^2 / 10 without the part all share, e and x1 from the middle: small
     * logits, because fp32 rounds those of some dozens more than the tests allow. */
    for (int64_t t = 0; t < d->n; t++)
        d->x[t * c->H + 1] = (float)((d->first + t) * c->E / total) - middle;
    for (int64_t i = 0; i < c->E * c->H; i++)
        d->router[i] *= 0.3f;
    for (int64_t e = 0; e < c->E; e++) {
        d->router[e * c->H] = -0.1f * ((float)e - middle) * ((float)e - middle);
        d->router[e * c->H + 1] = 0.2f * ((float)e - middle);
    }
}

void moe_data_init(struct moe_data *d, const struct moe_case *c, uint64_t layer,
                   int64_t first, int64_t n, int64_t total, int64_t e0, int64_t e1)
{
    const int64_t H = c->H, F = c->F;

    *d = (struct moe_data){.n = n, .first = first, .e0 = e0, .e1 = e1};
    d->x = make(c, layer, 1, first * H, n * H, 1);
    d->add = make(c, layer, 2, first * H, n * H, 1);
    d->d_out = make(c, layer, 3, first * H, n * H, 1);
    d->router = make(c, layer, 4, 0, c->E * H, 1 / sqrt((double)H));
    d->up =
        make(c, layer, 5, e0 * 2 * F * H, (e1 - e0) * 2 * F * H, 1 / sqrt((double)H));
    d->down = make(c, layer, 6, e0 * H * F, (e1 - e0) * H * F, 1 / sqrt((double)F));
    d->prob_grad = make(c, layer, 7, 0, c->pools * c->E, c->aux ? 0.3 : 0);
    d->z_coef = c->aux ? 0.01f : 0;
    d->pool = malloc((size_t)n * sizeof(*d->pool));
    for (int64_t t = 0; t < n; t++)
        d->pool[t] =
            c->padding && (first + t) % 5 == 3 ? -1 : (int32_t)((first + t) % c->pools);
    skew(d, c, total);
}

void moe_data_release(struct moe_data *d)
{
    void *all[] = {d->x,         d->add,    d->d_out, d->pool,
                   d->prob_grad, d->router, d->up,    d->down};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

static float *floats(int64_t n)
{
    return calloc((size_t)(n ? n : 1), sizeof(float));
}

void moe_result_init(struct moe_result *r, const struct moe_case *c,
                     const struct moe_data *d)
{
    int64_t El = d->e1 - d->e0;

    r->out = floats(d->n * c->H);
    r->dx = floats(d->n * c->H);
    r->drouter = floats(c->E * c->H);
    r->dup = floats(El * 2 * c->F * c->H);
    r->ddown = floats(El * c->H * c->F);
    r->pool_prob = floats(c->pools * c->E);
    r->pool_count = calloc((size_t)(c->pools * c->E), sizeof(int32_t));
    r->ids = calloc((size_t)(d->n * c->K), sizeof(int32_t));
    r->z_sum = 0;
}

void moe_result_release(struct moe_result *r)
{
    void *all[] = {r->out,   r->dx,  r->drouter,   r->dup,
                   r->ddown, r->ids, r->pool_prob, r->pool_count};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

double moe_distance(const float *a, const float *b, int64_t n)
{
    double diff = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    if (isnan(diff) || isinf(diff))
        return INFINITY;
    return diff == 0 ? 0 : sqrt(diff) / (norm > 0 ? sqrt(norm) : 1);
}
