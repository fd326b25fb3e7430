/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/param.h"

static const char config[] =
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":24,\"num_hidden_layers\":3,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":6,"
    "\"vocab_size\":50,\"num_experts\":7,\"num_experts_per_tok\":2,"
    "\"moe_intermediate_size\":10,\"intermediate_size\":30,\"mlp_only_layers\":[1],"
    "\"rope_theta\":10000.0,\"initializer_range\":0.02,\"tie_word_embeddings\":%s}";

static void make_spec(struct slc_spec *s, bool tied)
{
    struct slc_err e = SLC_ERR_INIT;
    char text[1024];

    snprintf(text, sizeof(text), config, tied ? "true" : "false");
    cr_assert_eq(slc_spec_parse(s, text, "config", &e), 0, "%s", e.text);
}

struct fixture {
    struct slc_spec spec;
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_params ps;
};

static void make(struct fixture *f, bool tied, int ep, int index)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend_options bo = {.threads = 1};

    make_spec(&f->spec, tied);
    f->b = slc_backend_open("ref", &bo, &e);
    cr_assert_not_null(f->b, "%s", e.text);
    f->q = slc_queue_create(f->b, &e);
    cr_assert_eq(
        slc_params_create(&f->ps, &f->spec, ep, index, f->b, SLC_F32, true, &e), 0,
        "%s", e.text);
}

static void drop(struct fixture *f)
{
    slc_params_destroy(&f->ps);
    slc_queue_destroy(f->q);
    slc_backend_close(f->b);
}

/* This rank's part of parameter i, malloc'ed. */
static float *fetch(struct fixture *f, int i)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_param *p = &f->ps.p[i];
    float *x = malloc((size_t)p->local * 4 + 4);
    const void *w = slc_param_acquire(&f->ps, i, f->q);

    cr_assert_eq(slc_fetch(f->q, x, w, (size_t)p->local * 4, &e), 0, "%s", e.text);
    slc_param_release(&f->ps, i, f->q);
    return x;
}

Test(param, inventory)
{
    struct fixture f;
    int64_t total = 0, end = 0;

    make(&f, false, 1, 0);
    /* embed, 2 MoE layers of 9, one dense of 8, final norm, head */
    cr_assert_eq(f.ps.n, 1 + 9 + 8 + 9 + 2);
    for (int i = 0; i < f.ps.n; i++) {
        const struct slc_param *p = &f.ps.p[i];
        int64_t count = 1;

        for (int d = 0; d < p->ndim; d++)
            count *= p->shape[d];
        cr_assert_eq(count, p->count, "%s", p->name);
        cr_assert(p->start == 0 && p->local == p->count);
        cr_assert_eq(p->at % 64, 0, "%s starts at %lld", p->name, (long long)p->at);
        cr_assert_geq(p->at, end, "%s overlaps", p->name);
        cr_assert_eq(p->decay, p->ndim > 1, "%s", p->name);
        cr_assert_eq(p->init_std > 0, p->ndim > 1, "%s", p->name);
        cr_assert_eq(slc_params_find(&f.ps, p->role, p->layer), i);
        for (int j = 0; j < i; j++)
            cr_assert_str_neq(f.ps.p[j].name, p->name);
        end = p->at + p->local;
        total += count;
    }
    cr_assert_eq(total, f.ps.total);
    cr_assert_geq(f.ps.local, end);
    cr_assert_str_eq(f.ps.p[slc_params_find(&f.ps, SLC_EXPERT_UP, 2)].name,
                     "layers.2.experts.up");
    cr_assert_eq(slc_params_find(&f.ps, SLC_EXPERT_UP, 1), -1);
    drop(&f);
    make(&f, true, 1, 0);
    cr_assert_eq(slc_params_find(&f.ps, SLC_HEAD, -1), -1);
    drop(&f);
}

/* floor(e ep / E) is the owner of expert e. */
Test(param, experts_are_split_by_the_rule)
{
    for (int E = 1; E <= 13; E++)
        for (int ep = 1; ep <= E; ep++) {
            cr_assert_eq(slc_expert_first(E, ep, 0), 0);
            cr_assert_eq(slc_expert_first(E, ep, ep), E);
            for (int e = 0; e < E; e++) {
                const int owner = e * ep / E;

                cr_assert_leq(slc_expert_first(E, ep, owner), e);
                cr_assert_gt(slc_expert_first(E, ep, owner + 1), e);
            }
        }
}

Test(param, init_is_the_same_for_every_layout)
{
    struct fixture one, part;
    struct slc_err e = SLC_ERR_INIT;

    make(&one, false, 1, 0);
    cr_assert_eq(slc_params_init(&one.ps, 42, one.q, &e), 0, "%s", e.text);
    for (int ep = 2; ep <= 5; ep++) {
        int64_t seen = 0;

        for (int index = 0; index < ep; index++) {
            make(&part, false, ep, index);
            cr_assert_eq(slc_params_init(&part.ps, 42, part.q, &e), 0, "%s", e.text);
            for (int i = 0; i < one.ps.n; i++) {
                const struct slc_param *p = &part.ps.p[i];
                float *a = fetch(&one, i), *b = fetch(&part, i);

                cr_assert_eq(memcmp(a + p->start, b, (size_t)p->local * 4), 0,
                             "%s of member %d of %d", p->name, index, ep);
                cr_assert(p->expert || p->local == p->count);
                if (p->role == SLC_EXPERT_DOWN && p->layer == 0)
                    seen += p->local;
                free(a);
                free(b);
            }
            drop(&part);
        }
        cr_assert_eq(seen, 7 * 24 * 10, "the members together have every expert once");
    }
    drop(&one);
}

Test(param, init_values)
{
    struct fixture f;
    struct slc_err e = SLC_ERR_INIT;

    make(&f, false, 1, 0);
    cr_assert_eq(slc_params_init(&f.ps, 1, f.q, &e), 0, "%s", e.text);
    for (int i = 0; i < f.ps.n; i++) {
        const struct slc_param *p = &f.ps.p[i];
        float *x = fetch(&f, i);
        double sum = 0, squares = 0, cross = 0;

        for (int64_t k = 0; k < p->count; k++) {
            sum += x[k];
            squares += (double)x[k] * x[k];
            cross += k ? (double)x[k] * x[k - 1] : 0;
            if (p->ndim == 1)
                cr_assert_eq(x[k], 1.0f, "%s", p->name);
        }
        if (p->ndim > 1) {
            const double n = (double)p->count, std = sqrt(squares / n),
                         tol = 5 / sqrt(n);

            cr_assert_leq(fabs(sum / n), 0.02 * tol, "mean of %s", p->name);
            cr_assert_leq(fabs(std / 0.02 - 1), tol, "deviation of %s: %g", p->name,
                          std);
            cr_assert_leq(fabs(cross / squares), tol, "neighbours of %s", p->name);
        }
        free(x);
    }
    /* Two parameters of one shape differ, and so does another seed. */
    float *up0 = fetch(&f, slc_params_find(&f.ps, SLC_EXPERT_UP, 0));
    float *up2 = fetch(&f, slc_params_find(&f.ps, SLC_EXPERT_UP, 2));
    cr_assert_eq(slc_params_init(&f.ps, 2, f.q, &e), 0, "%s", e.text);
    float *other = fetch(&f, slc_params_find(&f.ps, SLC_EXPERT_UP, 0));
    cr_assert(up0[0] != up2[0] && up0[5] != up2[5]);
    cr_assert(up0[0] != other[0] && up0[5] != other[5]);
    free(up0);
    free(up2);
    free(other);
    drop(&f);
}

Test(param, more_ranks_than_experts)
{
    struct fixture f = {0};
    struct slc_err e = SLC_ERR_INIT;

    make_spec(&f.spec, false);
    f.b = slc_backend_open("ref", &(struct slc_backend_options){.threads = 1}, &e);
    cr_assert_eq(slc_params_create(&f.ps, &f.spec, 8, 0, f.b, SLC_F32, false, &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_CONFIG);
    cr_assert(strstr(e.text, "parallel.ep is 8"), "%s", e.text);
    slc_backend_close(f.b);
}

/* Narrow gradients: matrices of the layers in bf16, behind all that is added to. */
Test(param, narrow_gradients)
{
    struct slc_spec spec;
    struct slc_params ps;
    struct slc_err e = SLC_ERR_INIT;
    size_t bytes = 0;

    make_spec(&spec, false);
    cr_assert_eq(slc_params_list(&ps, &spec, 1, 0, &e), 0, "%s", e.text);
    for (int i = 0; i < ps.n; i++)
        cr_expect_eq(ps.p[i].grad_at, (size_t)ps.p[i].at * 4);
    cr_expect_eq(ps.grad_bytes, (size_t)ps.local * 4);
    cr_expect_eq(ps.grad_added, ps.grad_bytes);
    slc_params_place_grads(&ps, SLC_GRADS_NARROW);
    for (int i = 0; i < ps.n; i++) {
        const struct slc_param *p = &ps.p[i];
        const bool matrix = p->layer >= 0 && p->ndim > 1 && p->role != SLC_ROUTER;

        cr_expect_eq(p->grad_dtype, matrix ? SLC_BF16 : SLC_F32, "%s", p->name);
        cr_expect_eq(p->grad_at >= ps.grad_added, matrix, "%s", p->name);
        cr_expect_eq(p->grad_at % 128, 0);
        bytes += (size_t)((p->local + 63) / 64 * 64) * (matrix ? 2 : 4);
    }
    cr_expect_eq(ps.grad_bytes, bytes);
    slc_params_destroy(&ps);
}
