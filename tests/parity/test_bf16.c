/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far bf16 is from fp32, beside how far Transformers' bf16 is from its own fp32: the
 * same weights, batches and experts (tests/data/bf16, made by generate_bf16.py). Errors
 * are of rounding alone, so they differ from case to case; what must hold is the
 * geometric mean of our error over theirs: over all batches for the log-probabilities,
 * over all batches and all tensors of a kind for the gradients.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/parity/golden.h"

#define MOST 1.5
#define KINDS 40
#define REFERENCE "grouped_mm" /* sums a token's experts in fp32; "eager" does in bf16 */

/* What one model computes of one batch, for fp32 and bf16 to be compared. */
struct outcome {
    float *token_loss, *grads;
};

static int ascending(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

/* The experts of the reference, each moved on by `shift`. */
static int32_t *ids_of(const struct golden *g, const json_t *batch, int shift)
{
    const json_t *layers = json_object_get(batch, "topk_ids"), *layer, *token, *id;
    int32_t *ids =
        malloc(json_array_size(layers) * (size_t)(g->batch.T * g->spec.K) * sizeof(*ids));
    size_t l, t, k, n = 0;

    cr_assert_not_null(ids);
    json_array_foreach(layers, l, layer) json_array_foreach(layer, t, token)
    {
        for (k = 0; k < json_array_size(token); k++) {
            id = json_array_get(token, k);
            ids[n++] = (int32_t)((json_integer_value(id) + shift) % g->spec.E);
        }
        qsort(ids + n - k, k, sizeof(*ids), ascending);
    }
    cr_assert_eq((int64_t)n, (int64_t)json_array_size(layers) * g->batch.T * g->spec.K);
    return ids;
}

static void run_batch(struct golden *g, const json_t *c, int shift, struct outcome *o)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_model_result out;
    struct slc_loss_weights w;
    struct slc_batch b;

    golden_batch(&b, &w, c);
    int32_t *ids = ids_of(g, c, shift);
    o->token_loss = malloc((size_t)b.T * sizeof(float));
    golden_zero_grad(g);
    cr_assert_eq(slc_model_forward(g->model, &b, &w, ids, o->token_loss, &out, &e), 0,
                 "%s", e.text);
    cr_assert_eq(slc_model_backward(g->model, &e), 0, "%s", e.text);
    o->grads = golden_grads(g);
    free(ids);
    golden_batch_free(&b);
}

/* -- ratios by kind of tensor --------------------------------------------------- */

struct kind {
    char name[96];
    double sum; /* of log(our error / theirs) */
    int n;
};
struct ratios {
    struct kind logprob, all, kind[KINDS];
    int n_kinds;
};

static void add(struct kind *k, double ours, double theirs)
{
    k->sum += log(ours / theirs);
    k->n++;
}

static double mean(const struct kind *k)
{
    return exp(k->sum / k->n);
}

/* "model.layers.3.mlp.experts.7.up_proj.weight" without its numbers. */
static struct kind *kind_of(struct ratios *r, const char *name)
{
    char plain[96];
    size_t n = 0;
    int i = 0;

    for (const char *c = name; *c && n + 1 < sizeof(plain); c++)
        if (!isdigit((unsigned char)*c) && !(*c == '.' && n > 0 && plain[n - 1] == '.'))
            plain[n++] = *c;
    plain[n] = '\0';
    while (i < r->n_kinds && strcmp(r->kind[i].name, plain))
        i++;
    cr_assert_lt(i, KINDS);
    if (i == r->n_kinds) {
        strcpy(r->kind[i].name, plain);
        r->n_kinds++;
    }
    return &r->kind[i];
}

static void compare_losses(const json_t *c, const struct outcome *exact,
                           const struct outcome *low, struct ratios *r)
{
    const double theirs =
        golden_number(json_object_get(c, "error"), REFERENCE, "logprob");
    double sum = 0;
    int64_t n = 0;
    struct slc_loss_weights w;
    struct slc_batch b;

    golden_batch(&b, &w, c);
    for (int64_t t = 0; t < b.T; t++)
        if (b.targets[t] >= 0) {
            sum += pow((double)low->token_loss[t] - (double)exact->token_loss[t], 2);
            n++;
        }
    golden_batch_free(&b);
    add(&r->logprob, sqrt(sum / (double)n), theirs);
}

static void compare_piece(const json_t *theirs, const struct slc_hf_piece *piece,
                          const float *exact, const float *low, double whole,
                          struct ratios *r)
{
    const json_t *error = json_object_get(theirs, piece->name);
    double diff = 0, norm = 0;
    int64_t n = 1;

    for (int i = 0; i < piece->ndim; i++)
        n *= piece->shape[i];
    for (int64_t i = 0; i < n; i++) {
        diff += pow((double)low[i] - (double)exact[i], 2);
        norm += pow((double)exact[i], 2);
    }
    if (!error) { /* an expert without a token, a router whose weights are all 1 */
        cr_assert_leq(sqrt(norm), 1e-5 * whole, "%s has a gradient", piece->name);
        cr_assert_leq(sqrt(diff), 1e-2 * whole, "%s has a gradient", piece->name);
        return;
    }
    add(kind_of(r, piece->name), sqrt(diff / norm), json_number_value(error));
    add(&r->all, sqrt(diff / norm), json_number_value(error));
}

static void compare_grads(const struct golden *g, const json_t *c,
                          const struct outcome *exact, const struct outcome *low,
                          struct ratios *r)
{
    const json_t *theirs =
        json_object_get(json_object_get(json_object_get(c, "error"), REFERENCE), "grad");
    double whole = 0;
    size_t before = (size_t)r->all.n;

    for (int64_t i = 0; i < g->params.local; i++)
        whole += pow((double)exact->grads[i], 2);
    for (int p = 0; p < g->params.n; p++) {
        const int64_t at = g->params.p[p].at;
        struct slc_hf_piece piece;

        for (int64_t i = 0; g->spec.family->piece(&g->spec, &g->params.p[p], i, &piece);
             i++)
            compare_piece(theirs, &piece, exact->grads + at + piece.offset,
                          low->grads + at + piece.offset, sqrt(whole), r);
    }
    cr_assert_eq(r->all.n - before, json_object_size(theirs), "all were compared");
}

/* All batches of one seed, in fp32 and with the experts moved by `shift` in bf16. */
static void measure(int seed, const char *backend, const char *family, int shift,
                    struct ratios *r)
{
    struct slc_model_options o = {0};
    struct outcome out[2][16];
    struct golden g;
    char name[32];

    snprintf(name, sizeof(name), "../bf16/seed%d", seed);
    for (int low = 0; low < 2; low++) {
        o.dtype = low ? SLC_BF16 : SLC_F32;
        golden_open(&g, name, backend, &o);
        cr_assert_str_eq(g.spec.family->model_type, family);
        const json_t *batches = json_object_get(g.c, "batches");
        const size_t n = json_array_size(batches);
        cr_assert_leq(n, 16);
        for (size_t b = 0; b < n; b++) {
            const json_t *c = json_array_get(batches, b);

            run_batch(&g, c, low ? shift : 0, &out[low][b]);
            if (!low)
                continue;
            compare_losses(c, &out[0][b], &out[1][b], r);
            compare_grads(&g, c, &out[0][b], &out[1][b], r);
            for (int i = 0; i < 2; i++) {
                free(out[i][b].token_loss);
                free(out[i][b].grads);
            }
        }
        golden_close(&g);
    }
}

/* Models first to last-1 are of the family. */
struct set {
    char backend[16], family[16];
    int first, last, batches;
};
static const struct set sets[] = {
    {"ref", "qwen3_moe", 0, 8, 40}, {"cpu", "qwen3_moe", 0, 8, 40},
    {"ref", "mixtral", 8, 10, 10},  {"cpu", "mixtral", 8, 10, 10},
    {"ref", "olmoe", 10, 12, 10},   {"cpu", "olmoe", 10, 12, 10},
};
#define N_SETS (sizeof(sets) / sizeof(sets[0]))

ParameterizedTestParameters(bf16, beside_transformers)
{
    static struct set s[N_SETS];

    memcpy(s, sets, sizeof(sets));
    for (size_t i = 0; i < N_SETS; i++)
        if (!strcmp(s[i].backend, "cpu"))
            snprintf(s[i].backend, sizeof(s[i].backend), "%s", golden_backend());
    return cr_make_param_array(struct set, s, N_SETS);
}

ParameterizedTest(struct set *s, bf16, beside_transformers, .timeout = 120)
{
    struct ratios r = {0};

    for (int seed = s->first; seed < s->last; seed++)
        measure(seed, s->backend, s->family, 0, &r);
    cr_assert_eq(r.logprob.n, s->batches);
    cr_log_info("%s on %s: our error over Transformers': log-probabilities %.3f "
                "(%d batches), gradients %.3f (%d tensors)",
                s->family, s->backend, mean(&r.logprob), r.logprob.n, mean(&r.all),
                r.all.n);
    for (int i = 0; i < r.n_kinds; i++)
        cr_log_info("  %-55s %.3f (%d)", r.kind[i].name, mean(&r.kind[i]), r.kind[i].n);
    cr_expect_leq(mean(&r.logprob), MOST, "log-probabilities: %.3f", mean(&r.logprob));
    cr_expect_leq(mean(&r.all), MOST, "all gradients: %.3f", mean(&r.all));
    for (int i = 0; i < r.n_kinds; i++)
        cr_expect_leq(mean(&r.kind[i]), MOST, "%s: %.3f", r.kind[i].name,
                      mean(&r.kind[i]));
    /* far less would mean that bf16 was not used */
    cr_expect_geq(mean(&r.logprob), 0.25);
}

/* One expert further than the reference: the comparison must see it. */
Test(bf16, comparison_can_fail)
{
    struct ratios r = {0};

    measure(0, golden_backend(), "qwen3_moe", 1, &r);
    cr_assert_gt(mean(&r.logprob), MOST);
    cr_assert_gt(mean(&r.all), MOST);
}
