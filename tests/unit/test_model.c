/* SPDX-License-Identifier: Apache-2.0 */
/* The decoder alone, without a reference implementation: derivatives by differences,
 * accumulation, padding, documents, evaluation. tests/parity compares with others. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/model.h"

static const char config[] =
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":12,\"num_hidden_layers\":3,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":6,"
    "\"vocab_size\":23,\"num_experts\":5,\"num_experts_per_tok\":2,"
    "\"moe_intermediate_size\":10,\"intermediate_size\":14,\"mlp_only_layers\":[1],"
    "\"norm_topk_prob\":true,\"rope_theta\":10000.0,\"initializer_range\":0.3,"
    "\"tie_word_embeddings\":%s}";

/* -- batches ---------------------------------------------------------------- */

/* Packs documents of the lengths given (a 0 ends the row) into rows of S; ids are
 * random by position in the list of documents, so the same documents packed otherwise
 * are equal. */
static void pack(struct slc_batch *b, int64_t rows, int64_t S, const int *lengths)
{
    uint64_t counter = 0;

    memset(b, 0, sizeof(*b));
    b->rows = rows;
    b->S = S;
    b->T = b->max_seg = rows * S;
    int32_t **arrays[] = {&b->ids, &b->targets, &b->pos, &b->doc, &b->seg};
    for (int i = 0; i < 5; i++)
        *arrays[i] = calloc((size_t)b->T + 1, sizeof(int32_t));
    for (int64_t r = 0; r < rows; r++) {
        int64_t t = r * S;

        for (; *lengths; lengths++) {
            for (int i = 0; i < *lengths; i++, t++) {
                b->ids[t] = (int32_t)(slc_rng_u64(3, SLC_RNG_TEST, 0, counter++) % 23);
                b->targets[t] = -1;
                if (i)
                    b->targets[t - 1] = b->ids[t];
                b->pos[t] = i;
                b->doc[t] = (int32_t)b->n_docs;
            }
            b->n_tokens += *lengths;
            b->n_targets += *lengths - 1;
            b->n_docs++;
            b->seg[++b->n_seg] = (int32_t)t;
        }
        lengths++;
        const int64_t pad = (r + 1) * S - t;
        for (int i = 0; i < pad; i++, t++) {
            b->targets[t] = b->doc[t] = -1;
            b->pos[t] = i;
        }
        if (pad)
            b->seg[++b->n_seg] = (int32_t)t;
    }
    for (int64_t s = b->n_seg + 1; s <= b->max_seg; s++)
        b->seg[s] = (int32_t)b->T;
}

static void unpack(struct slc_batch *b)
{
    free(b->ids);
    free(b->targets);
    free(b->pos);
    free(b->doc);
    free(b->seg);
}

/* Row r of b as a batch of its own. */
static void one_row(struct slc_batch *out, const struct slc_batch *b, int64_t r)
{
    const size_t bytes = (size_t)b->S * 4;
    const int64_t at = r * b->S;
    int32_t first = -1, last = -1;

    memset(out, 0, sizeof(*out));
    out->rows = 1;
    out->S = out->T = out->max_seg = b->S;
    int32_t **to[] = {&out->ids, &out->targets, &out->pos, &out->doc, &out->seg};
    int32_t *from[] = {b->ids, b->targets, b->pos, b->doc};
    for (int i = 0; i < 5; i++)
        *to[i] = calloc((size_t)b->S + 1, 4);
    for (int i = 0; i < 4; i++)
        memcpy(*to[i], from[i] + at, bytes);
    for (int64_t t = 0; t < b->S; t++) {
        if (out->doc[t] >= 0) {
            first = first < 0 ? out->doc[t] : first;
            last = out->doc[t];
            out->doc[t] -= first;
            out->n_tokens++;
        }
        out->n_targets += out->targets[t] >= 0;
    }
    out->n_docs = last < 0 ? 0 : last - first + 1;
    for (int64_t s = 0; s < b->n_seg; s++)
        if (b->seg[s] >= at && b->seg[s] < at + b->S)
            out->seg[++out->n_seg] = b->seg[s + 1] - (int32_t)at;
    for (int64_t s = out->n_seg + 1; s <= out->max_seg; s++)
        out->seg[s] = (int32_t)b->S;
}

static struct slc_loss_weights weights_of(const struct slc_batch *b)
{
    return (struct slc_loss_weights){.targets = (double)b->n_targets,
                                     .tokens = (double)b->n_tokens,
                                     .micro_tokens = (double)b->n_tokens,
                                     .sequences = (double)b->n_docs};
}

/* -- a model ---------------------------------------------------------------- */

struct fixture {
    struct slc_spec spec;
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_params ps;
    struct slc_model *m;
};

static void make(struct fixture *f, bool tied, int64_t rows, int64_t S,
                 const struct slc_model_options *wanted)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend_options bo = {.threads = 1};
    struct slc_model_options o = *wanted;
    char text[1024];

    snprintf(text, sizeof(text), config, tied ? "true" : "false");
    cr_assert_eq(slc_spec_parse(&f->spec, text, "config", &e), 0, "%s", e.text);
    f->b = slc_backend_open("ref", &bo, &e);
    cr_assert_not_null(f->b, "%s", e.text);
    f->q = slc_queue_create(f->b, &e);
    cr_assert_eq(slc_params_create(&f->ps, &f->spec, 1, 0, f->b, SLC_F32, true, &e), 0);
    cr_assert_eq(slc_params_init(&f->ps, 5, f->q, &e), 0, "%s", e.text);
    o.backend = f->b;
    o.rows = rows;
    o.S = S;
    f->m = slc_model_create(&f->spec, &f->ps, &o, &e);
    cr_assert_not_null(f->m, "%s", e.text);
}

static void drop(struct fixture *f)
{
    slc_model_destroy(f->m);
    slc_params_destroy(&f->ps);
    slc_queue_destroy(f->q);
    slc_backend_close(f->b);
}

static double forward(struct fixture *f, const struct slc_batch *b,
                      const struct slc_loss_weights *w, const int32_t *forced,
                      float *loss)
{
    struct slc_model_result out;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_model_forward(f->m, b, w, forced, loss, &out, &e), 0, "%s",
                 e.text);
    return out.loss_sum / (w ? w->targets : 1) + out.aux + out.z;
}

static void backward(struct fixture *f)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_model_backward(f->m, &e), 0, "%s", e.text);
}

static float *grads_of(struct fixture *f)
{
    struct slc_err e = SLC_ERR_INIT;
    float *g = malloc((size_t)f->ps.local * 4);

    cr_assert_eq(slc_fetch(f->q, g, f->ps.g, (size_t)f->ps.local * 4, &e), 0, "%s",
                 e.text);
    return g;
}

static void zero_grads(struct fixture *f)
{
    SLC_RUN(f->q, zero, .dst = f->ps.g, .bytes = f->ps.local * 4);
}

/* Norm of a - b over norm of b, of the worst parameter. */
static double distance(const struct fixture *f, const float *a, const float *b)
{
    double worst = 0;

    for (int i = 0; i < f->ps.n; i++) {
        const struct slc_param *p = &f->ps.p[i];
        double diff = 0, norm = 0;

        for (int64_t k = p->at; k < p->at + p->local; k++) {
            diff += pow((double)a[k] - (double)b[k], 2);
            norm += pow((double)b[k], 2);
        }
        cr_assert_gt(norm, 0, "%s has no gradient", p->name);
        worst = fmax(worst, sqrt(diff / norm));
    }
    return worst;
}

static const int three_rows[] = {7, 3, 0, 10, 0, 1, 4, 2, 0};

/* -- tests ------------------------------------------------------------------ */

/* L at weights + step * direction of one parameter. */
static double loss_at(struct fixture *f, const struct slc_param *p, const float *w,
                      const float *direction, double step, const struct slc_batch *b,
                      const struct slc_loss_weights *lw, const int32_t *forced)
{
    float *moved = malloc((size_t)p->local * 4);

    for (int64_t k = 0; k < p->local; k++)
        moved[k] = (float)((double)w[k] + step * (double)direction[k]);
    slc_upload(f->q, (float *)f->ps.w + p->at, moved, (size_t)p->local * 4);
    free(moved);
    return forward(f, b, lw, forced, NULL);
}

/*
 * The slope of L along each parameter's own gradient is that gradient's norm. Ids are
 * forced, because L jumps where the routing changes. L itself is good to about 1e-7.
 */
static void check_slopes(bool tied, enum slc_aux_scope scope)
{
    const struct slc_model_options o = {.training = true,
                                        .aux_scope = scope,
                                        .aux_coef = 0.3,
                                        .z_coef = 0.01,
                                        .loss_chunk = 4};
    struct slc_err e = SLC_ERR_INIT;
    struct fixture f;
    struct slc_batch b;

    pack(&b, 3, 11, three_rows);
    make(&f, tied, 3, 11, &o);
    const struct slc_loss_weights lw = weights_of(&b);
    int32_t *ids = malloc((size_t)(2 * b.T * 2) * 4);
    forward(&f, &b, &lw, NULL, NULL);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(slc_model_router_ids(f.m, i, ids + i * b.T * 2, &e), 0, "%s",
                     e.text);
    zero_grads(&f);
    forward(&f, &b, &lw, ids, NULL);
    backward(&f);
    float *g = grads_of(&f), *w = malloc((size_t)f.ps.local * 4);
    cr_assert_eq(slc_fetch(f.q, w, f.ps.w, (size_t)f.ps.local * 4, &e), 0, "%s",
                 e.text);
    for (int i = 0; i < f.ps.n; i++) {
        const struct slc_param *p = &f.ps.p[i];
        double norm = 0;

        for (int64_t k = p->at; k < p->at + p->local; k++)
            norm += (double)g[k] * (double)g[k];
        norm = sqrt(norm);
        cr_assert_gt(norm, 1e-4, "%s has no gradient", p->name);
        for (int64_t k = p->at; k < p->at + p->local; k++)
            g[k] = (float)((double)g[k] / norm);
        const double h = 4e-3;
        const double slope = (loss_at(&f, p, w + p->at, g + p->at, h, &b, &lw, ids) -
                              loss_at(&f, p, w + p->at, g + p->at, -h, &b, &lw, ids)) /
                             (2 * h);
        slc_upload(f.q, (float *)f.ps.w + p->at, w + p->at, (size_t)p->local * 4);
        cr_assert_leq(fabs(slope - norm), 1e-3 * norm + 2e-4,
                      "%s: slope %.6g, gradient %.6g", p->name, slope, norm);
    }
    free(ids);
    free(g);
    free(w);
    drop(&f);
    unpack(&b);
}

Test(model, gradients_by_differences)
{
    check_slopes(false, SLC_AUX_SEQUENCE);
    check_slopes(true, SLC_AUX_MICRO);
    check_slopes(false, SLC_AUX_NONE);
}

/* One batch of four rows, or its rows one after another: the same gradient. */
Test(model, accumulation)
{
    static const int rows[] = {7, 3, 0, 10, 0, 1, 4, 2, 0, 5, 5, 0};
    const struct slc_model_options o = {.training = true,
                                        .aux_scope = SLC_AUX_SEQUENCE,
                                        .aux_coef = 0.3,
                                        .z_coef = 0.01};
    struct fixture all, single;
    struct slc_batch b, row;
    double loss = 0;

    pack(&b, 4, 11, rows);
    make(&all, false, 4, 11, &o);
    make(&single, false, 1, 11, &o);
    struct slc_loss_weights lw = weights_of(&b);
    const double want = forward(&all, &b, &lw, NULL, NULL);
    backward(&all);
    for (int64_t r = 0; r < 4; r++) {
        one_row(&row, &b, r);
        lw.micro_tokens = (double)row.n_tokens;
        loss += forward(&single, &row, &lw, NULL, NULL);
        backward(&single);
        unpack(&row);
    }
    float *a = grads_of(&all), *s = grads_of(&single);
    cr_assert_leq(fabs(loss - want), 1e-6 * want, "%.9g and %.9g", loss, want);
    cr_assert_leq(distance(&all, s, a), 1e-5, "distance %g", distance(&all, s, a));

    int n;
    const int64_t *load_a = slc_model_load(all.m, &n),
                  *load_s = slc_model_load(single.m, &n);
    cr_assert_eq(n, 2);
    cr_assert_eq(memcmp(load_a, load_s, 2 * 5 * sizeof(int64_t)), 0);
    for (int l = 0; l < 2; l++) {
        int64_t sum = 0;

        for (int x = 0; x < 5; x++)
            sum += load_a[l * 5 + x];
        cr_assert_eq(sum, b.n_tokens * 2);
    }
    free(a);
    free(s);
    drop(&all);
    drop(&single);
    unpack(&b);
}

/* Padding changes nothing: neither losses nor gradients, whatever ids stand in it. */
Test(model, padding_is_nothing)
{
    static const int lengths[] = {6, 4, 0};
    const struct slc_model_options o = {
        .training = true, .aux_scope = SLC_AUX_MICRO, .aux_coef = 0.3, .z_coef = 0.01};
    struct fixture tight, loose;
    struct slc_batch a, b;
    float loss_a[10], loss_b[17];

    pack(&a, 1, 10, lengths);
    pack(&b, 1, 17, lengths);
    b.ids[12] = 20;
    make(&tight, false, 1, 10, &o);
    make(&loose, false, 1, 17, &o);
    const struct slc_loss_weights lw = weights_of(&a);
    const double want = forward(&tight, &a, &lw, NULL, loss_a);
    backward(&tight);
    const double got = forward(&loose, &b, &lw, NULL, loss_b);
    backward(&loose);
    cr_assert_leq(fabs(got - want), 1e-7 * want);
    for (int t = 0; t < 17; t++)
        cr_assert_leq(fabsf(loss_b[t] - (t < 10 ? loss_a[t] : 0)), 1e-6f);
    float *ga = grads_of(&tight), *gb = grads_of(&loose);
    cr_assert_leq(distance(&tight, gb, ga), 1e-6);
    free(ga);
    free(gb);
    drop(&tight);
    drop(&loose);
    unpack(&a);
    unpack(&b);
}

/* A packed document is as if alone: other documents' tokens do not reach it. */
Test(model, documents_do_not_mix)
{
    static const int lengths[] = {6, 4, 5, 0};
    const struct slc_model_options o = {0};
    struct fixture f;
    struct slc_batch b;
    float before[15], after[15];

    pack(&b, 1, 15, lengths);
    make(&f, false, 1, 15, &o);
    forward(&f, &b, NULL, NULL, before);
    b.ids[7] = (b.ids[7] + 1) % 23;
    forward(&f, &b, NULL, NULL, after);
    for (int t = 0; t < 15; t++)
        if (t < 7 || t >= 10)
            cr_assert_eq(before[t], after[t], "token %d", t);
        else if (b.targets[t] >= 0)
            cr_assert_neq(before[t], after[t], "token %d", t);
    drop(&f);
    unpack(&b);
}

/* Training, evaluation on a training model, and a model for evaluation alone: one loss.
 */
Test(model, evaluation)
{
    const struct slc_model_options train = {.training = true}, eval = {0};
    struct fixture f, g;
    struct slc_batch b;

    pack(&b, 3, 11, three_rows);
    make(&f, true, 3, 11, &train);
    make(&g, true, 3, 11, &eval);
    const struct slc_loss_weights lw = weights_of(&b);
    const double loss = forward(&f, &b, NULL, NULL, NULL);
    float *grads = grads_of(&f);
    for (int64_t i = 0; i < f.ps.local; i++)
        cr_assert_eq(grads[i], 0, "evaluation leaves gradients alone");
    free(grads);
    cr_assert_eq(forward(&g, &b, NULL, NULL, NULL), loss, "the same bits");
    cr_assert_eq(forward(&f, &b, &lw, NULL, NULL) * lw.targets,
                 loss / lw.targets * lw.targets);
    drop(&f);
    drop(&g);
    unpack(&b);
}

/* The size of a chunk of logits does not matter. */
Test(model, chunks_of_logits)
{
    struct slc_batch b;
    float *first = NULL;
    double want = 0;

    pack(&b, 3, 11, three_rows);
    for (int64_t chunk = 33; chunk > 0; chunk -= 16) {
        const struct slc_model_options o = {.training = true, .loss_chunk = chunk};
        const struct slc_loss_weights lw = weights_of(&b);
        struct fixture f;

        make(&f, false, 3, 11, &o);
        const double loss = forward(&f, &b, &lw, NULL, NULL);
        backward(&f);
        float *g = grads_of(&f);
        if (first) {
            cr_assert_eq(loss, want);
            cr_assert_leq(distance(&f, g, first), 1e-6);
            free(g);
        } else {
            first = g;
            want = loss;
        }
        drop(&f);
    }
    free(first);
    unpack(&b);
}

Test(model, forced_ids)
{
    const struct slc_model_options o = {.training = true};
    struct fixture f;
    struct slc_batch b;
    struct slc_err e = SLC_ERR_INIT;
    int32_t forced[2 * 33 * 2], got[33 * 2];
    int n;

    pack(&b, 3, 11, three_rows);
    make(&f, false, 3, 11, &o);
    const struct slc_loss_weights lw = weights_of(&b);
    for (int i = 0; i < 2 * 33; i++) {
        forced[2 * i] = 1;
        forced[2 * i + 1] = 4;
    }
    forward(&f, &b, &lw, forced, NULL);
    const int64_t *load = slc_model_load(f.m, &n);
    for (int l = 0; l < 2; l++)
        for (int x = 0; x < 5; x++)
            cr_assert_eq(load[l * 5 + x], x == 1 || x == 4 ? b.n_tokens : 0);
    cr_assert_eq(slc_model_router_ids(f.m, 1, got, &e), 0, "%s", e.text);
    for (int t = 0; t < 33; t++)
        cr_assert(b.doc[t] < 0 ? got[2 * t] == -1
                               : got[2 * t] == 1 && got[2 * t + 1] == 4);
    drop(&f);
    unpack(&b);
}

Test(model, counters_and_memory)
{
    const struct slc_model_options o = {.training = true},
                                   r = {.training = true, .recompute = true};
    struct slc_model_counters c;
    struct fixture f, g;
    struct slc_batch b;

    pack(&b, 3, 11, three_rows);
    make(&f, false, 3, 11, &o);
    make(&g, false, 3, 11, &r);
    const struct slc_loss_weights lw = weights_of(&b);
    forward(&f, &b, &lw, NULL, NULL);
    backward(&f);
    slc_model_counters(f.m, &c, true);
    cr_assert_eq(c.dropped, 0);
    cr_assert(c.seconds_attention > 0 && c.seconds_dense > 0 && c.seconds_head > 0);
    cr_assert(c.seconds_router > 0 && c.seconds_experts > 0);
    slc_model_counters(f.m, &c, false);
    cr_assert(c.seconds_attention == 0 && c.seconds_experts == 0);
    cr_assert_lt(slc_arena_size(slc_model_memory(g.m)),
                 slc_arena_size(slc_model_memory(f.m)));
    drop(&f);
    drop(&g);
    unpack(&b);
}

/* Results that wait are the sums of what each forward gives by itself, in one read, and the
 * gradients those of reading at once. */
static void check_waiting(enum slc_aux_scope scope, int reads)
{
    const struct slc_model_options o = {.training = true,
                                        .aux_scope = scope,
                                        .aux_coef = 0.3,
                                        .z_coef = 0.01,
                                        .results = 3};
    struct slc_err e = SLC_ERR_INIT;
    struct slc_model_result sum = {0}, out, got = {0};
    struct fixture f;
    struct slc_batch b;

    pack(&b, 3, 11, three_rows);
    make(&f, false, 3, 11, &o);
    struct slc_loss_weights lw = weights_of(&b);
    zero_grads(&f);
    for (int i = 0; i < 3; i++) {
        lw.micro_tokens = (double)b.n_tokens / (i + 1);
        cr_assert_eq(slc_model_forward(f.m, &b, &lw, NULL, NULL, &out, &e), 0);
        backward(&f);
        sum.loss_sum += out.loss_sum;
        sum.aux += out.aux;
        sum.z += out.z;
    }
    float *at_once = grads_of(&f);
    const uint64_t before = f.b->fetches;
    zero_grads(&f);
    for (int i = 0; i < 3; i++) {
        lw.micro_tokens = (double)b.n_tokens / (i + 1);
        cr_assert_eq(slc_model_forward(f.m, &b, &lw, NULL, NULL, NULL, &e), 0);
        backward(&f);
        if (!slc_model_results_full(f.m) && i < 2)
            continue;
        cr_assert_eq(slc_model_results(f.m, &out, &e), 0);
        got.loss_sum += out.loss_sum;
        got.aux += out.aux;
        got.z += out.z;
    }
    cr_expect_eq(f.b->fetches, before + (uint64_t)reads);
    cr_expect_eq(got.loss_sum, sum.loss_sum);
    cr_expect_float_eq(got.aux, sum.aux, 1e-14);
    cr_expect_float_eq(got.z, sum.z, 1e-14);
    cr_expect_gt(scope == SLC_AUX_NONE ? 1 : got.aux, 0);
    float *waited = grads_of(&f);
    cr_expect_eq(memcmp(waited, at_once, (size_t)f.ps.local * 4), 0);
    free(waited);
    free(at_once);
    drop(&f);
    unpack(&b);
}

Test(model, results_can_wait)
{
    check_waiting(SLC_AUX_NONE, 1);
    check_waiting(SLC_AUX_MICRO, 1);
    check_waiting(SLC_AUX_SEQUENCE, 3);
}
