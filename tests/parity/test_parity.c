/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loss, log-probabilities, router ids and every gradient against Transformers, on each
 * backend, with and without recompute.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/parity/golden.h"

#define LOSS_TOLERANCE 1e-5
#define GRAD_TOLERANCE 1e-4

static const char *const cases[] = {
    "mixtral-e3k1",
    "mixtral-e7k2-window-packed",
    "mixtral-e7k5-window-aux",
    "mixtral-e7k7-tied-fused",
    "mixtral-e9k2-bf16-window1",
    "mixtral-e9k3-kv1-aux",
    "mixtral-e9k6-tied-window",
    "mixtral-e10k4-kv1-released",
    "mixtral-e10k8-window",
    "olmoe-e3k1",
    "olmoe-e7k3-clip-packed",
    "olmoe-e7k5-kv1-aux",
    "olmoe-e7k7-tied-fused",
    "olmoe-e9k2-kv1-aux",
    "olmoe-e9k3-clip-bf16",
    "olmoe-e9k6-clip-tied",
    "olmoe-e10k4-clip-released",
    "olmoe-e10k8-renorm",
    "qwen3_moe-e3k1",
    "qwen3_moe-e3k3-aux-tied-bytes",
    "qwen3_moe-e5k1-one-expert",
    "qwen3_moe-e5k2-mlponly-fused",
    "qwen3_moe-e5k2-released",
    "qwen3_moe-e5k3-tied-packed",
    "qwen3_moe-e7k3-aux-rows2",
    "qwen3_moe-e7k7-rows2",
    "qwen3_moe-e10k1-renorm-aux",
    "qwen3_moe-e10k3-step2",
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

struct run {
    char name[64], backend[16];
    bool recompute;
};

ParameterizedTestParameters(parity, transformers)
{
    const char *const backends[] = {"ref", golden_backend()};
    static struct run runs[4 * N_CASES];
    size_t n = 0;

    for (size_t c = 0; c < N_CASES; c++)
        for (int i = 0; i < 4; i++, n++) {
            snprintf(runs[n].name, sizeof(runs[n].name), "%s", cases[c]);
            snprintf(runs[n].backend, sizeof(runs[n].backend), "%s", backends[i / 2]);
            runs[n].recompute = i % 2;
        }
    return cr_make_param_array(struct run, runs, n);
}

static int ascending(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* The reference lists ids by falling probability, we by ascending id. Every case keeps
 * the chosen and the next logit more than 1e-4 apart, so no differing id is allowed. */
static void check_ids(struct golden *g)
{
    const json_t *layers = json_object_get(g->c, "topk_ids"), *layer;
    const int64_t T = g->batch.T, K = g->spec.K;
    int32_t *ids = malloc((size_t)(T * K) * sizeof(*ids));
    struct slc_err e = SLC_ERR_INIT;
    size_t l;

    json_array_foreach(layers, l, layer)
    {
        cr_assert_eq(slc_model_router_ids(g->model, (int)l, ids, &e), 0, "%s", e.text);
        for (int64_t t = 0; t < T; t++) {
            const json_t *token = json_array_get(layer, (size_t)t);
            int32_t want[16];

            for (int64_t k = 0; k < K; k++)
                want[k] = (int32_t)json_integer_value(json_array_get(token, (size_t)k));
            qsort(want, (size_t)K, sizeof(want[0]), ascending);
            cr_assert_eq(memcmp(want, ids + t * K, (size_t)K * 4), 0,
                         "router ids of layer %zu token %lld", l, (long long)t);
        }
    }
    free(ids);
}

static void check_close(const char *what, double got, double want, double tolerance)
{
    cr_assert(fabs(got - want) <= tolerance * fabs(want), "%s: %.10g, reference %.10g",
              what, got, want);
}

static void check_token_losses(const struct golden *g, const float *loss)
{
    const json_t *rows = json_object_get(g->c, "target_logprobs");

    for (int64_t t = 0; t < g->batch.T; t++) {
        const json_t *row = json_array_get(rows, (size_t)(t / g->batch.S));
        const double want =
            -json_number_value(json_array_get(row, (size_t)(t % g->batch.S)));

        cr_assert(fabs((double)loss[t] - want) <= 2e-5 * (1 + fabs(want)),
                  "token %lld: loss %.8g, reference %.8g", (long long)t,
                  (double)loss[t], want);
    }
}

static bool is_zero_grad(const struct golden *g, const char *name)
{
    const json_t *names = json_object_get(g->c, "zero_grads"), *v;
    size_t i;

    json_array_foreach(names, i,
                       v) if (!strcmp(json_string_value(v), name)) return true;
    return false;
}

/* Norm of difference over norm of one tensor of the released layout. */
static void check_piece(const struct golden *g, struct slc_st *want,
                        const struct slc_hf_piece *piece, const float *got)
{
    const int i = slc_st_find(want, piece->name);
    struct slc_err e = SLC_ERR_INIT;
    double diff = 0, norm = 0;

    cr_assert_geq(i, 0, "no reference gradient for %s", piece->name);
    const int64_t n = slc_st_get(want, i)->count;
    float *ref = malloc((size_t)n * sizeof(*ref));
    cr_assert_eq(slc_st_read_f32(want, i, 0, n, ref, &e), 0, "%s", e.text);
    for (int64_t j = 0; j < n; j++) {
        const double d = (double)got[j] - (double)ref[j];

        diff += d * d;
        norm += (double)ref[j] * (double)ref[j];
    }
    if (is_zero_grad(g, piece->name))
        norm = pow(golden_number(g->c, "grad_norm", "fp64"), 2);
    cr_assert(sqrt(diff) <= GRAD_TOLERANCE * sqrt(norm),
              "gradient of %s: difference %.3g of norm %.3g", piece->name, sqrt(diff),
              sqrt(norm));
    free(ref);
}

static void check_grads(struct golden *g)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[600];
    int pieces = 0;
    float *grads = golden_grads(g);

    snprintf(path, sizeof(path), "%s/grads.safetensors", g->dir);
    struct slc_st *want = slc_st_open(path, &e);
    cr_assert_not_null(want, "%s", e.text);
    for (int p = 0; p < g->params.n; p++) {
        const struct slc_param *param = &g->params.p[p];
        struct slc_hf_piece piece;

        for (int64_t i = 0; g->spec.family->piece(&g->spec, param, i, &piece); i++) {
            check_piece(g, want, &piece, grads + param->at + piece.offset);
            pieces++;
        }
    }
    cr_assert_eq(pieces, slc_st_count(want), "every reference gradient was compared");
    slc_st_close(want);
    free(grads);
}

/* Every parameter is reported once, when nothing more will be added to it: later layers
 * before earlier ones. */
struct ready {
    int n, last, times[256];
    const struct slc_params *ps;
};
static void on_ready(void *ctx, int i, struct slc_queue *q)
{
    struct ready *r = ctx;
    const int layer = r->ps->p[i].layer;

    (void)q;
    r->times[i]++;
    r->n++;
    if (layer >= 0) {
        cr_assert_leq(layer, r->last, "%s after layer %d", r->ps->p[i].name, r->last);
        r->last = layer;
    }
}

ParameterizedTest(struct run *r, parity, transformers, .timeout = 60)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_model_options o = {.recompute = r->recompute, .loss_chunk = 5};
    struct slc_model_result out;
    struct ready ready = {.last = SLC_MAX_LAYERS};
    struct golden g;

    golden_open(&g, r->name, r->backend, &o);
    ready.ps = &g.params;
    g.params.ready = on_ready;
    g.params.ready_ctx = &ready;
    float *loss = malloc((size_t)g.batch.T * sizeof(*loss));
    cr_assert_eq(slc_model_forward(g.model, &g.batch, &g.w, NULL, loss, &out, &e), 0,
                 "%s", e.text);
    check_ids(&g);
    check_close("loss", out.loss_sum / g.w.targets, golden_number(g.c, "loss", "fp32"),
                LOSS_TOLERANCE);
    check_close("loss against double", out.loss_sum / g.w.targets,
                golden_number(g.c, "loss", "fp64"), LOSS_TOLERANCE);
    check_close("total", out.loss_sum / g.w.targets + out.aux,
                golden_number(g.c, "total", "fp64"), LOSS_TOLERANCE);
    if (!json_is_null(json_object_get(g.c, "aux")))
        check_close("auxiliary loss", out.aux / g.o.aux_coef,
                    golden_number(g.c, "aux", "fp64"), LOSS_TOLERANCE);
    else
        cr_assert_eq(out.aux, 0);
    check_token_losses(&g, loss);
    cr_assert_eq(slc_model_backward(g.model, &e), 0, "%s", e.text);
    check_grads(&g);
    cr_assert_eq(ready.n, g.params.n);
    for (int i = 0; i < g.params.n; i++)
        cr_assert_eq(ready.times[i], 1, "%s", g.params.p[i].name);
    free(loss);
    golden_close(&g);
}

/* Gradients of a case on `ref`, for tests that compare bits. */
static float *grads_of(const char *name, const char *backend, bool recompute,
                       int64_t *n, double *loss)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_model_options o = {.recompute = recompute};
    struct slc_model_result out;
    struct golden g;

    golden_open(&g, name, backend, &o);
    cr_assert_eq(slc_model_forward(g.model, &g.batch, &g.w, NULL, NULL, &out, &e), 0,
                 "%s", e.text);
    cr_assert_eq(slc_model_backward(g.model, &e), 0, "%s", e.text);
    float *grads = golden_grads(&g);
    *n = g.params.local;
    *loss = out.loss_sum + out.aux;
    golden_close(&g);
    return grads;
}

static void same_bits(const char *name, const char *backend)
{
    int64_t n[2];
    double loss[2];
    float *a = grads_of(name, backend, false, &n[0], &loss[0]);
    float *b = grads_of(name, backend, true, &n[1], &loss[1]);

    cr_assert_eq(n[0], n[1]);
    cr_assert_eq(memcmp(a, b, (size_t)n[0] * 4), 0,
                 "%s on %s: recompute changes the bits", name, backend);
    cr_assert_eq(memcmp(&loss[0], &loss[1], sizeof(double)), 0);
    free(a);
    free(b);
}

Test(parity, recompute_same_bits, .timeout = 60)
{
    static const char *const names[] = {"qwen3_moe-e7k3-aux-rows2", "qwen3_moe-e10k3-step2",
                                        "mixtral-e7k5-window-aux",
                                        "olmoe-e7k3-clip-packed"};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        same_bits(names[i], "ref");
        same_bits(names[i], golden_backend());
    }
}

/* A missing expert, a wrong mask, a wrong position: each must be seen by the
 * comparison. Here: positions that do not restart. */
Test(parity, comparison_can_fail)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_model_options o = {0};
    struct slc_model_result out;
    struct golden g;

    golden_open(&g, "qwen3_moe-e7k3-aux-rows2", "ref", &o);
    const double want = golden_number(g.c, "loss", "fp64");
    g.batch.seg[1] = g.batch.seg[2]; /* the first two documents see each other */
    cr_assert_eq(slc_model_forward(g.model, &g.batch, &g.w, NULL, NULL, &out, &e), 0,
                 "%s", e.text);
    cr_assert_gt(fabs(out.loss_sum / g.w.targets - want), 100 * LOSS_TOLERANCE * want);
    golden_close(&g);
}

/* Logits of single positions after a forward, against the reference's. */
static void check_logits(const char *backend)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_model_options o = {0};
    struct slc_model_result out;
    struct golden g;
    char path[600];

    golden_open(&g, "qwen3_moe-e5k3-tied-packed", backend, &o);
    cr_assert_eq(slc_model_forward(g.model, &g.batch, NULL, NULL, NULL, &out, &e), 0,
                 "%s", e.text);
    snprintf(path, sizeof(path), "%s/outputs.safetensors", g.dir);
    struct slc_st *st = slc_st_open(path, &e);
    cr_assert_not_null(st, "%s", e.text);
    const int64_t V = g.spec.V, n = g.batch.T * V;
    float *want = malloc((size_t)n * 4), *got = malloc((size_t)V * 4);
    cr_assert_eq(slc_st_read_f32(st, slc_st_find(st, "logits"), 0, n, want, &e), 0,
                 "%s", e.text);
    for (int64_t t = 0; t < g.batch.T; t++) {
        cr_assert_eq(slc_model_logits(g.model, t, got, &e), 0, "%s", e.text);
        for (int64_t v = 0; v < V; v++)
            cr_assert_leq(fabsf(got[v] - want[t * V + v]), 2e-5f * (1 + fabsf(got[v])));
    }
    slc_st_close(st);
    free(want);
    free(got);
    golden_close(&g);
}

Test(parity, logits)
{
    check_logits("ref");
    check_logits(golden_backend());
}

static double run_once(struct golden *g, const int32_t *forced)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_model_result out;

    cr_assert_eq(slc_model_forward(g->model, &g->batch, &g->w, forced, NULL, &out, &e),
                 0, "%s", e.text);
    cr_assert_eq(slc_model_backward(g->model, &e), 0, "%s", e.text);
    return out.loss_sum;
}

/* bf16 weights and activations on fp32's routing. Transformers' own bf16 gradients are
 * 0.031 of the norm away from its fp32 ones here: no more than twice that. */
Test(parity, bf16)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_model_options o = {0};
    double diff = 0, norm = 0;
    struct golden g;

    golden_open(&g, "qwen3_moe-e5k2-released", "ref", &o);
    const int64_t n = g.batch.T * g.spec.K;
    int32_t *ids = malloc((size_t)(g.spec.L * n) * sizeof(*ids));
    const double want = run_once(&g, NULL);
    for (int l = 0; l < g.spec.L; l++)
        cr_assert_eq(slc_model_router_ids(g.model, l, ids + l * n, &e), 0, "%s",
                     e.text);
    float *exact = golden_grads(&g);
    golden_close(&g);

    o.dtype = SLC_BF16;
    golden_open(&g, "qwen3_moe-e5k2-released", "ref", &o);
    const double got = run_once(&g, ids);
    float *rounded = golden_grads(&g);
    for (int64_t i = 0; i < g.params.local; i++) {
        diff += pow((double)rounded[i] - (double)exact[i], 2);
        norm += pow((double)exact[i], 2);
    }
    cr_assert_leq(fabs(got - want), 2e-2 * want, "%g and %g", got, want);
    cr_assert_neq(got, want, "bf16 was not used");
    cr_assert_leq(sqrt(diff / norm), 2 * 0.031, "distance %g", sqrt(diff / norm));
    free(ids);
    free(exact);
    free(rounded);
    golden_close(&g);
}
