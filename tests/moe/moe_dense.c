/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/moe/moe_case.h"

/*
 * The textbook computation, token by token and expert by expert, all in double: no
 * sorting by expert, no exchange.
 */
struct token {
    double *p, *dp;     /* [E] probabilities, gradient by them */
    double *h, *a, *dh; /* [2F], [F], [2F] of one expert */
    double *dx;         /* [H] */
};
struct grads {
    double *router, *up, *down;
};

static double *doubles(int64_t n)
{
    return calloc((size_t)n, sizeof(double));
}

static void choose(const double *logit, int64_t E, int64_t K, int32_t *ids)
{
    char *taken = calloc((size_t)E, 1);
    int64_t n = 0;

    for (int64_t k = 0; k < K; k++) {
        int64_t best = 0;

        while (taken[best])
            best++;
        for (int64_t e = best; e < E; e++)
            if (!taken[e] && logit[e] > logit[best])
                best = e;
        taken[best] = 1;
    }
    for (int64_t e = 0; e < E; e++)
        if (taken[e])
            ids[n++] = (int32_t)e;
    free(taken);
}

/* Output y of one expert, then, with dy: gradients for weight w. Returns <dy, y>. */
static double expert(const struct moe_case *c, const struct moe_data *d,
                     struct token *k, int64_t e, const float *x, double w,
                     const float *dy, double *y, struct grads *g)
{
    const int64_t H = c->H, F = c->F;
    const float *up = d->up + e * 2 * F * H, *down = d->down + e * H * F;
    double dw = 0;

    for (int64_t f = 0; f < 2 * F; f++) {
        k->h[f] = 0;
        for (int64_t i = 0; i < H; i++)
            k->h[f] += (double)up[f * H + i] * x[i];
    }
    for (int64_t f = 0; f < F; f++)
        k->a[f] = k->h[f] / (1 + exp(-k->h[f])) * k->h[F + f];
    for (int64_t i = 0; i < H; i++) {
        y[i] = 0;
        for (int64_t f = 0; f < F; f++)
            y[i] += down[i * F + f] * k->a[f];
        dw += dy[i] * y[i];
    }
    for (int64_t f = 0; f < F; f++) {
        double s = 1 / (1 + exp(-k->h[f])), silu = k->h[f] * s, da = 0;

        for (int64_t i = 0; i < H; i++) {
            da += w * dy[i] * down[i * F + f];
            g->down[(e * H + i) * F + f] += w * dy[i] * k->a[f];
        }
        k->dh[f] = da * k->h[F + f] * (s + silu * (1 - s));
        k->dh[F + f] = da * silu;
    }
    for (int64_t f = 0; f < 2 * F; f++)
        for (int64_t i = 0; i < H; i++) {
            g->up[(e * 2 * F + f) * H + i] += k->dh[f] * x[i];
            k->dx[i] += k->dh[f] * up[f * H + i];
        }
    return dw;
}

/* Softmax into k->p, ids; returns logsumexp. */
static double route(const struct moe_case *c, const struct moe_data *d, struct token *k,
                    const float *x, int32_t *ids)
{
    double max = -INFINITY, sum = 0;

    for (int64_t e = 0; e < c->E; e++) {
        k->p[e] = 0;
        for (int64_t i = 0; i < c->H; i++)
            k->p[e] += (double)d->router[e * c->H + i] * x[i];
        max = fmax(max, k->p[e]);
    }
    choose(k->p, c->E, c->K, ids);
    for (int64_t e = 0; e < c->E; e++)
        sum += exp(k->p[e] - max);
    for (int64_t e = 0; e < c->E; e++)
        k->p[e] = exp(k->p[e] - max) / sum;
    return max + log(sum);
}

static double one_token(const struct moe_case *c, const struct moe_data *d,
                        struct token *k, int64_t t, struct moe_result *r,
                        struct grads *g)
{
    const int64_t E = c->E, H = c->H, pool = d->pool[t];
    const float *x = d->x + t * H, *dy = d->d_out + t * H;
    int32_t *ids = r->ids + t * c->K;
    double loss = 0, chosen = 0, mean = 0, inner = 0, lse = route(c, d, k, x, ids);
    double *y = doubles(H), *out = doubles(H), *dw = doubles(c->K);

    memset(k->dx, 0, (size_t)H * sizeof(double));
    for (int64_t i = 0; i < H; i++)
        out[i] = d->add[t * H + i];
    for (int64_t j = 0; j < c->K; j++)
        chosen += k->p[ids[j]];
    if (!c->renorm)
        chosen = 1;
    for (int64_t j = 0; pool >= 0 && j < c->K; j++) {
        double w = k->p[ids[j]] / chosen;

        dw[j] = expert(c, d, k, ids[j], x, w, dy, y, g);
        for (int64_t i = 0; i < H; i++)
            out[i] += w * y[i];
        mean += w * dw[j];
        loss += w * dw[j];
        r->pool_count[pool * E + ids[j]]++;
    }
    for (int64_t e = 0; pool >= 0 && e < E; e++) {
        k->dp[e] = d->prob_grad[pool * E + e];
        loss += k->dp[e] * k->p[e];
        r->pool_prob[pool * E + e] += (float)k->p[e];
    }
    for (int64_t j = 0; pool >= 0 && j < c->K; j++)
        k->dp[ids[j]] += c->renorm ? (dw[j] - mean) / chosen : dw[j];
    for (int64_t e = 0; e < E; e++)
        inner += k->p[e] * k->dp[e];
    for (int64_t e = 0; pool >= 0 && e < E; e++) {
        double dl = k->p[e] * (k->dp[e] - inner + 2 * d->z_coef * lse);

        for (int64_t i = 0; i < H; i++) {
            g->router[e * H + i] += dl * x[i];
            k->dx[i] += dl * d->router[e * H + i];
        }
    }
    if (pool >= 0) {
        r->z_sum += (float)(lse * lse);
        loss += d->z_coef * lse * lse;
    }
    for (int64_t j = 0; pool < 0 && j < c->K; j++)
        ids[j] = -1;
    for (int64_t i = 0; i < H; i++) {
        r->out[t * H + i] = (float)out[i];
        r->dx[t * H + i] = (float)k->dx[i];
    }
    free(y);
    free(out);
    free(dw);
    return loss;
}

static void store(float *to, double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = (float)from[i];
    free(from);
}

double moe_dense(const struct moe_case *c, const struct moe_data *d,
                 struct moe_result *r)
{
    const int64_t E = c->E, H = c->H, F = c->F;
    struct token k = {doubles(E), doubles(E),     doubles(2 * F),
                      doubles(F), doubles(2 * F), doubles(H)};
    struct grads g = {doubles(E * H), doubles(E * 2 * F * H), doubles(E * H * F)};
    double loss = 0;

    r->z_sum = 0;
    memset(r->pool_prob, 0, (size_t)(c->pools * E) * sizeof(float));
    memset(r->pool_count, 0, (size_t)(c->pools * E) * sizeof(int32_t));
    for (int64_t t = 0; t < d->n; t++)
        loss += one_token(c, d, &k, t, r, &g);
    store(r->drouter, g.router, E * H);
    store(r->dup, g.up, E * 2 * F * H);
    store(r->ddown, g.down, E * H * F);
    free(k.p);
    free(k.dp);
    free(k.h);
    free(k.a);
    free(k.dh);
    free(k.dx);
    return loss;
}
