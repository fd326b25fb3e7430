/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of published folders against the file itself, read name by name. */
#include "config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/hf.h"
#include "store/safetensors.h"

static char *golden(const char *name)
{
    static char path[512];
    const char *top = getenv("top_srcdir");

    snprintf(path, sizeof(path), "%s/tests/data/golden/%s", top ? top : "..", name);
    return path;
}

struct fixture {
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_spec s;
    struct slc_params ps;
    struct slc_st *st;
    float *w; /* [local], fetched */
};

static void load(struct fixture *f, const char *name, int ep, int index)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend_options o = {.threads = 1};

    f->b = slc_backend_open("ref", &o, &e);
    cr_assert(f->b, "%s", e.text);
    f->q = slc_queue_create(f->b, &e);
    cr_assert_eq(slc_spec_load(&f->s, golden(name), &e), 0, "%s", e.text);
    cr_assert_eq(slc_params_create(&f->ps, &f->s, ep, index, f->b, SLC_F32, false, &e),
                 0, "%s", e.text);
    cr_assert_eq(slc_hf_load(golden(name), &f->ps, &f->s, f->q, &e), 0, "%s", e.text);
    f->st = slc_st_open(golden(name), &e);
    cr_assert(f->st, "%s", e.text);
    f->w = malloc((size_t)f->ps.local * 4);
    cr_assert_eq(slc_fetch(f->q, f->w, f->ps.w, (size_t)f->ps.local * 4, &e), 0);
}

static void unload(struct fixture *f)
{
    free(f->w);
    slc_st_close(f->st);
    slc_params_destroy(&f->ps);
    slc_queue_destroy(f->q);
    slc_backend_close(f->b);
}

/* Elements [at, at+n) of parameter (role, layer), global, against [from, from+n) of the
 * tensor; only where this rank holds them. Returns how many were compared. */
static int64_t same(struct fixture *f, enum slc_role role, int layer, int64_t at,
                    int64_t n, const char *tensor, int64_t from)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_param *p = &f->ps.p[slc_params_find(&f->ps, role, layer)];
    int t = slc_st_find(f->st, tensor);
    float *want = malloc((size_t)n * 4);
    int64_t compared = 0;

    cr_assert(t >= 0, "%s", tensor);
    cr_assert_eq(slc_st_read_f32(f->st, t, from, n, want, &e), 0, "%s", e.text);
    for (int64_t i = 0; i < n; i++) {
        int64_t mine = at + i - p->start;
        if (mine < 0 || mine >= p->local)
            continue;
        cr_assert_eq(f->w[p->at + mine], want[i], "%s[%ld] of %s", p->name,
                     (long)(at + i), tensor);
        compared++;
    }
    free(want);
    return compared;
}

static int64_t check_layer(struct fixture *f, int l, bool fused)
{
    const struct slc_spec *s = &f->s;
    char name[160];
    int64_t n = 0, fh = s->F * s->H;

    snprintf(name, sizeof(name), "model.layers.%d.self_attn.k_proj.weight", l);
    n += same(f, SLC_QKV, l, s->NQ * s->D * s->H, s->NK * s->D * s->H, name, 0);
    snprintf(name, sizeof(name), "model.layers.%d.self_attn.v_proj.weight", l);
    n += same(f, SLC_QKV, l, (s->NQ + s->NK) * s->D * s->H, s->NK * s->D * s->H, name,
              0);
    if (!s->moe[l]) {
        snprintf(name, sizeof(name), "model.layers.%d.mlp.up_proj.weight", l);
        return n + same(f, SLC_DENSE_UP, l, s->FD * s->H, s->FD * s->H, name, 0);
    }
    for (int64_t x = 0; x < s->E; x++) {
        if (fused) {
            snprintf(name, sizeof(name), "model.layers.%d.mlp.experts.gate_up_proj", l);
            n += same(f, SLC_EXPERT_UP, l, x * 2 * fh, 2 * fh, name, x * 2 * fh);
            snprintf(name, sizeof(name), "model.layers.%d.mlp.experts.down_proj", l);
            n += same(f, SLC_EXPERT_DOWN, l, x * fh, fh, name, x * fh);
            continue;
        }
        const bool mixtral = !strcmp(s->family->model_type, "mixtral");
        const char *mlp[] = {"gate_proj", "up_proj", "down_proj"};
        const char *block[] = {"w1", "w3", "w2"};
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof(name), "model.layers.%d.%s.experts.%d.%s.weight", l,
                     mixtral ? "block_sparse_moe" : "mlp", (int)x,
                     mixtral ? block[k] : mlp[k]);
            n += same(f, k < 2 ? SLC_EXPERT_UP : SLC_EXPERT_DOWN, l,
                      k < 2 ? (2 * x + k) * fh : x * fh, fh, name, 0);
        }
    }
    return n;
}

static void check_folder(const char *name, bool fused)
{
    for (int ep = 1; ep <= 3; ep++) {
        int64_t experts = 0, rest = 0, want = 0;
        for (int index = 0; index < ep; index++) {
            struct fixture f;
            load(&f, name, ep, index);
            for (int l = 0; l < f.s.L; l++) {
                int64_t n = check_layer(&f, l, fused);
                *(f.s.moe[l] ? &experts : &rest) += n;
                if (index == 0)
                    want += f.s.moe[l] ? 3 * f.s.E * f.s.F * f.s.H +
                                             ep * 2 * f.s.NK * f.s.D * f.s.H
                                       : 0;
            }
            if (!f.s.tied)
                same(&f, SLC_HEAD, -1, 0, f.s.V * f.s.H, "lm_head.weight", 0);
            same(&f, SLC_EMBED, -1, 0, f.s.V * f.s.H, "model.embed_tokens.weight", 0);
            unload(&f);
        }
        cr_assert_eq(experts, want, "every expert is on exactly one rank of %d", ep);
        cr_assert(rest >= 0);
    }
}

Test(hf, per_expert_layout)
{
    check_folder("qwen3_moe-e7k3-aux-rows2", false);
}

Test(hf, fused_layout_with_dense_layers)
{
    check_folder("qwen3_moe-e5k2-mlponly-fused", true);
}

Test(hf, released_bf16)
{
    check_folder("qwen3_moe-e5k2-released", false);
}

Test(hf, mixtral)
{
    check_folder("mixtral-e7k2-window-packed", false);
    check_folder("mixtral-e7k7-tied-fused", true);
    check_folder("mixtral-e10k4-kv1-released", false);
    check_folder("mixtral-e10k8-window", false);
}

Test(hf, olmoe)
{
    check_folder("olmoe-e7k3-clip-packed", false);
    check_folder("olmoe-e7k7-tied-fused", true);
    check_folder("olmoe-e10k4-clip-released", false);
    check_folder("olmoe-e10k8-renorm", false);
}

static void copy_golden(const char *name, char dir[64])
{
    char cmd[1200];

    strcpy(dir, "/tmp/slc-hf-XXXXXX");
    cr_assert(mkdtemp(dir));
    snprintf(cmd, sizeof(cmd), "cp %s/config.json %s/model.safetensors %s",
             golden(name), golden(name), dir);
    cr_assert_eq(system(cmd), 0);
}

/* In the copied file, make one text another of the same length. */
static void patch(const char *dir, const char *file, const char *from, const char *to)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[128], *data;
    size_t len;

    snprintf(path, sizeof(path), "%s/%s", dir, file);
    cr_assert_eq(slc_file_read(path, 1 << 26, &data, &len, &e), 0, "%s", e.text);
    char *at = memmem(data, len, from, strlen(from));
    cr_assert(at && strlen(from) == strlen(to), "%s", from);
    memcpy(at, to, strlen(to));
    cr_assert_eq(slc_file_replace(path, data, len, &e), 0, "%s", e.text);
    free(data);
}

static void expect_refused(const char *dir, int code, const char *say)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend_options o = {.threads = 1};
    struct slc_backend *b = slc_backend_open("ref", &o, &e);
    struct slc_queue *q = slc_queue_create(b, &e);
    struct slc_spec s;
    struct slc_params ps;

    cr_assert_eq(slc_spec_load(&s, dir, &e), 0, "%s", e.text);
    cr_assert_eq(slc_params_create(&ps, &s, 1, 0, b, SLC_F32, false, &e), 0);
    cr_assert_eq(slc_hf_load(dir, &ps, &s, q, &e), -1);
    cr_assert_eq(e.code, code, "%s", e.text);
    cr_assert(strstr(e.text, say), "%s", e.text);
    slc_params_destroy(&ps);
    slc_queue_destroy(q);
    slc_backend_close(b);
}

Test(hf, what_does_not_fit_is_named)
{
    char dir[64], cmd[128];

    copy_golden("qwen3_moe-e3k1", dir);
    patch(dir, "model.safetensors", "experts.2.up_proj", "experts.2.xx_proj");
    expect_refused(dir, SLC_EXIT_INPUT, "experts.2.up_proj.weight is missing");
    patch(dir, "model.safetensors", "experts.2.xx_proj", "experts.2.up_proj");
    patch(dir, "model.safetensors", "\"F32\"", "\"I32\"");
    expect_refused(dir, SLC_EXIT_UNSUPPORTED, "has type I32");
    patch(dir, "model.safetensors", "\"I32\"", "\"F32\"");
    patch(dir, "config.json", "\"moe_intermediate_size\": 1",
          "\"moe_intermediate_size\": 2");
    expect_refused(dir, SLC_EXIT_INPUT, "config.json asks for");
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    cr_assert_eq(system(cmd), 0);
}

/* Import and export of a per-expert folder in its own type: every tensor has its name,
 * shape, type and bits, and the model is the same. */
static void check_export(const char *name, enum slc_dtype dtype)
{
    struct slc_err e = SLC_ERR_INIT;
    char dir[64] = "/tmp/slc-hf-XXXXXX", run[96], out[96], ckpt[160], cmd[128];
    struct slc_spec s, back;

    cr_assert(mkdtemp(dir));
    snprintf(run, sizeof(run), "%s/run", dir);
    snprintf(out, sizeof(out), "%s/out", dir);
    snprintf(ckpt, sizeof(ckpt), "%s/checkpoints/step-00000000", run);
    cr_assert_eq(slc_hf_import(golden(name), run, &e), 0, "%s", e.text);
    cr_assert_eq(slc_hf_export(ckpt, out, dtype, &e), 0, "%s", e.text);
    struct slc_st *a = slc_st_open(golden(name), &e), *b = slc_st_open(out, &e);
    cr_assert(a && b, "%s", e.text);
    cr_assert(slc_st_count(a) > 20);
    cr_assert_eq(slc_st_count(a), slc_st_count(b));
    for (int i = 0; i < slc_st_count(a); i++) {
        const struct slc_st_tensor *x = slc_st_get(a, i);
        int t = slc_st_find(b, x->name);
        cr_assert(t >= 0, "%s", x->name);
        const struct slc_st_tensor *y = slc_st_get(b, t);
        cr_assert(x->ndim == y->ndim && x->dtype == y->dtype && x->count == y->count);
        cr_assert_eq(x->dtype, dtype);
        cr_assert_eq(memcmp(x->shape, y->shape, (size_t)x->ndim * 8), 0);
        float *u = malloc((size_t)x->count * 4), *v = malloc((size_t)x->count * 4);
        cr_assert_eq(slc_st_read_f32(a, i, 0, x->count, u, &e), 0);
        cr_assert_eq(slc_st_read_f32(b, t, 0, x->count, v, &e), 0);
        cr_assert_eq(memcmp(u, v, (size_t)x->count * 4), 0, "%s", x->name);
        free(u);
        free(v);
    }
    slc_st_close(a);
    slc_st_close(b);
    cr_assert_eq(slc_spec_load(&s, golden(name), &e), 0, "%s", e.text);
    cr_assert_eq(slc_spec_load(&back, out, &e), 0, "%s", e.text);
    cr_assert_eq(memcmp(&s, &back, sizeof(s)), 0, "%s: config.json changed", name);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    cr_assert_eq(system(cmd), 0);
}

Test(hf, export_of_an_import_is_the_original)
{
    check_export("qwen3_moe-e7k3-aux-rows2", SLC_F32);
    check_export("qwen3_moe-e10k3-step2", SLC_F32);
    check_export("qwen3_moe-e5k2-released", SLC_BF16);
}

Test(hf, export_of_an_import_mixtral)
{
    check_export("mixtral-e9k3-kv1-aux", SLC_F32);
    check_export("mixtral-e9k6-tied-window", SLC_F32);
    check_export("mixtral-e10k8-window", SLC_F32);
    check_export("mixtral-e9k2-bf16-window1", SLC_BF16);
    check_export("mixtral-e10k4-kv1-released", SLC_BF16);
}

Test(hf, export_of_an_import_olmoe)
{
    check_export("olmoe-e7k3-clip-packed", SLC_F32);
    check_export("olmoe-e9k6-clip-tied", SLC_F32);
    check_export("olmoe-e10k8-renorm", SLC_F32);
    check_export("olmoe-e9k3-clip-bf16", SLC_BF16);
    check_export("olmoe-e10k4-clip-released", SLC_BF16);
}
