/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/parity/golden.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "store/hf.h"

static int32_t *ints(int64_t n)
{
    int32_t *p = calloc((size_t)n, sizeof(*p));

    cr_assert_not_null(p);
    return p;
}

static int64_t at(const json_t *list, size_t i)
{
    const json_t *v = json_array_get(list, i);

    cr_assert(json_is_integer(v));
    return json_integer_value(v);
}

static void fill_documents(struct slc_batch *b, const json_t *documents)
{
    for (int64_t r = 0; r < b->rows; r++) {
        const json_t *row = json_array_get(documents, (size_t)r), *d;
        size_t i;

        json_array_foreach(row, i, d)
        {
            const int64_t start = r * b->S + at(d, 0), n = at(d, 1);

            cr_assert_eq(start, b->seg[b->n_seg], "documents of a case cover its rows");
            for (int64_t t = 0; t < n; t++) {
                b->pos[start + t] = (int32_t)t;
                b->doc[start + t] = (int32_t)b->n_docs;
            }
            b->seg[++b->n_seg] = (int32_t)(start + n);
            b->n_docs++;
        }
    }
    cr_assert_eq(b->seg[b->n_seg], b->T);
}

void golden_batch(struct slc_batch *b, struct slc_loss_weights *w, const json_t *c)
{
    const json_t *ids = json_object_get(c, "ids"),
                 *targets = json_object_get(c, "targets");

    memset(b, 0, sizeof(*b));
    b->rows = (int64_t)json_array_size(ids);
    b->S = (int64_t)json_array_size(json_array_get(ids, 0));
    b->T = b->n_tokens = b->rows * b->S;
    b->max_seg = b->T;
    b->ids = ints(b->T);
    b->targets = ints(b->T);
    b->pos = ints(b->T);
    b->doc = ints(b->T);
    b->seg = ints(b->T + 1);
    for (int64_t t = 0; t < b->T; t++) {
        const size_t r = (size_t)(t / b->S), i = (size_t)(t % b->S);
        const int64_t target = at(json_array_get(targets, r), i);

        b->ids[t] = (int32_t)at(json_array_get(ids, r), i);
        b->targets[t] = target < 0 ? -1 : (int32_t)target;
        b->n_targets += target >= 0;
    }
    fill_documents(b, json_object_get(c, "documents"));
    for (int64_t s = b->n_seg + 1; s <= b->max_seg; s++)
        b->seg[s] = (int32_t)b->T;
    cr_assert_eq(b->n_targets, json_integer_value(json_object_get(c, "n_targets")));
    *w = (struct slc_loss_weights){.targets = (double)b->n_targets,
                                   .tokens = (double)b->T,
                                   .micro_tokens = (double)b->T,
                                   .sequences = (double)b->n_docs};
}

void golden_batch_free(struct slc_batch *b)
{
    free(b->ids);
    free(b->targets);
    free(b->pos);
    free(b->doc);
    free(b->seg);
    memset(b, 0, sizeof(*b));
}

const char *golden_backend(void)
{
    const char *name = getenv("SLC_OP_BACKEND");

    return name && name[0] ? name : "cpu";
}

double golden_number(const json_t *c, const char *a, const char *b)
{
    const json_t *v = json_object_get(json_object_get(c, a), b);

    cr_assert(json_is_number(v), "%s.%s", a, b);
    return json_number_value(v);
}

/* The reference's auxiliary loss, unless the test chose a scope of its own. */
static void set_aux(struct golden *g)
{
    const json_t *aux = json_object_get(g->c, "aux");
    const json_t *coef = json_object_get(g->c, "aux_coef");

    if (!coef && aux && !json_is_null(aux))
        coef = json_object_get(aux, "coef");
    if (!coef || json_number_value(coef) == 0 || g->o.aux_scope != SLC_AUX_NONE)
        return;
    g->o.aux_scope = SLC_AUX_MICRO;
    g->o.aux_coef = json_number_value(coef);
}

void golden_open(struct golden *g, const char *name, const char *backend,
                 const struct slc_model_options *o)
{
    const char *top = getenv("top_srcdir");
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend_options bo = {.threads = 2};
    char file[600];

    memset(g, 0, sizeof(*g));
    snprintf(g->dir, sizeof(g->dir), "%s/tests/data/golden/%s", top ? top : ".", name);
    snprintf(file, sizeof(file), "%s/case.json", g->dir);
    g->c = slc_json_load(file, 1 << 26, &e);
    cr_assert_not_null(g->c, "%s", e.text);
    const json_t *batches = json_object_get(g->c, "batches");
    golden_batch(&g->batch, &g->w, batches ? json_array_get(batches, 0) : g->c);
    cr_assert_eq(slc_spec_load(&g->spec, g->dir, &e), 0, "%s", e.text);
    g->backend = slc_backend_open(backend, &bo, &e);
    cr_assert_not_null(g->backend, "%s", e.text);
    g->q = slc_queue_create(g->backend, &e);
    cr_assert_not_null(g->q, "%s", e.text);
    cr_assert_eq(
        slc_params_create(&g->params, &g->spec, 1, 0, g->backend, o->dtype, true, &e),
        0, "%s", e.text);
    cr_assert_eq(slc_hf_load(g->dir, &g->params, &g->spec, g->q, &e), 0, "%s", e.text);
    g->o = *o;
    g->o.backend = g->backend;
    g->o.queue = g->q;
    g->o.rows = g->batch.rows;
    g->o.S = g->batch.S;
    g->o.training = true;
    set_aux(g);
    g->model = slc_model_create(&g->spec, &g->params, &g->o, &e);
    cr_assert_not_null(g->model, "%s", e.text);
}

void golden_close(struct golden *g)
{
    slc_model_destroy(g->model);
    slc_params_destroy(&g->params);
    slc_queue_destroy(g->q);
    slc_backend_close(g->backend);
    golden_batch_free(&g->batch);
    json_decref(g->c);
    memset(g, 0, sizeof(*g));
}

float *golden_grads(struct golden *g)
{
    const size_t bytes = (size_t)g->params.local * 4;
    struct slc_err e = SLC_ERR_INIT;
    float *grads = malloc(bytes);

    cr_assert_not_null(grads);
    cr_assert_eq(slc_fetch(g->q, grads, g->params.g, bytes, &e), 0, "%s", e.text);
    return grads;
}

void golden_zero_grad(struct golden *g)
{
    struct slc_err e = SLC_ERR_INIT;

    SLC_RUN(g->q, zero, .dst = g->params.g, .bytes = g->params.local * 4);
    cr_assert_eq(slc_queue_sync(g->q, &e), 0, "%s", e.text);
}
