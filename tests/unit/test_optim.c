/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "optim/optim.h"
#include "store/safetensors.h"

/* Parameters without a model: the names of `tensors`, sizes as given. */
struct fixture {
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_params ps;
    struct slc_param p[8];
    struct slc_err e;
};

static void open_backend(struct fixture *f)
{
    f->e = (struct slc_err)SLC_ERR_INIT;
    f->b = slc_backend_open("ref", &(struct slc_backend_options){0}, &f->e);
    cr_assert_not_null(f->b, "%s", f->e.text);
    f->q = slc_queue_create(f->b, &f->e);
    f->ps = (struct slc_params){.p = f->p, .b = f->b, .dtype = SLC_F32};
}

static void add_param(struct fixture *f, const char *name, int64_t count, bool expert,
                      bool decay)
{
    struct slc_param *p = &f->p[f->ps.n++];

    *p = (struct slc_param){.count = count, .local = count, .at = f->ps.local, .layer = -1,
                            .expert = expert, .decay = decay, .ndim = 1, .shape = {count}};
    snprintf(p->name, sizeof(p->name), "%s", name);
    f->ps.local += (count + 63) / 64 * 64;
    f->ps.total += count;
}

static void alloc_arrays(struct fixture *f)
{
    size_t n = (size_t)f->ps.local;

    slc_params_place_grads(&f->ps, SLC_GRADS_F32);
    f->ps.w = slc_mem_alloc(f->b, n * slc_dtype_size(f->ps.dtype), SLC_MEM_DEVICE, &f->e);
    f->ps.g = slc_mem_alloc(f->b, n * 4, SLC_MEM_DEVICE, &f->e);
    memset(f->ps.w, 0, n * slc_dtype_size(f->ps.dtype));
    memset(f->ps.g, 0, n * 4);
}

static void close_backend(struct fixture *f)
{
    slc_mem_free(f->b, f->ps.w, SLC_MEM_DEVICE);
    slc_mem_free(f->b, f->ps.g, SLC_MEM_DEVICE);
    slc_queue_destroy(f->q);
    slc_backend_close(f->b);
}

static float *weight(struct fixture *f, int i)
{
    return (float *)f->ps.w + f->p[i].at;
}

/* -- against PyTorch ------------------------------------------------------------- */

static char *golden(const char *name)
{
    static char path[512];
    const char *top = getenv("top_srcdir");

    snprintf(path, sizeof(path), "%s/tests/data/golden/adamw/%s", top ? top : "..", name);
    return path;
}

static void read_tensor(struct slc_st *st, const char *what, int step, const char *name,
                        float *out, int64_t n)
{
    char full[128];
    struct slc_err e = SLC_ERR_INIT;

    snprintf(full, sizeof(full), "%s.%d.%s", what, step, name);
    int i = slc_st_find(st, full);
    cr_assert_geq(i, 0, "no tensor %s", full);
    cr_assert_eq(slc_st_get(st, i)->count, n);
    cr_assert_eq(slc_st_read_f32(st, i, 0, n, out, &e), 0, "%s", e.text);
}

/* Largest difference over the largest value. */
static void expect_close(const char *what, int step, const char *name, const float *got,
                         const float *want, int64_t n)
{
    double diff = 0, size = 0;

    for (int64_t i = 0; i < n; i++) {
        diff = fmax(diff, fabs((double)got[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    cr_expect_leq(diff, 1e-6 * size, "%s.%d.%s: %.3g of %.3g", what, step, name, diff, size);
}

static void compare_state(struct fixture *f, struct slc_optim *o, struct slc_st *st, int step)
{
    float *state[] = {slc_optim_master(o), slc_optim_m(o), slc_optim_v(o)};
    static const char *const names[] = {"p", "m", "v"};
    float want[64];
    int n;
    const struct slc_optim_extent *x = slc_optim_extents(o, &n);

    cr_assert_eq(n, f->ps.n);
    for (int i = 0; i < n; i++) {
        const struct slc_param *p = &f->p[x[i].param];
        cr_assert_eq(x[i].start, 0);
        cr_assert_eq(x[i].count, p->count);
        for (int k = 0; k < 3; k++) {
            read_tensor(st, names[k], step, p->name, want, p->count);
            expect_close(names[k], step, p->name, state[k] + x[i].at, want, p->count);
        }
        cr_expect_eq(memcmp(weight(f, x[i].param), state[0] + x[i].at,
                            (size_t)p->count * 4), 0);
    }
}

Test(optim, five_steps_as_torch)
{
    struct fixture f = {0};
    double lr[5], beta1, beta2, eps, wd;

    open_backend(&f);
    json_t *c = slc_json_load(golden("case.json"), 1 << 20, &f.e);
    cr_assert_not_null(c, "%s", f.e.text);
    const json_t *hyper = json_object_get(c, "hyper");
    const json_t *decayed = json_object_get(hyper, "decayed");
    slc_json_need_real(hyper, "beta1", &beta1, "hyper", &f.e);
    slc_json_need_real(hyper, "beta2", &beta2, "hyper", &f.e);
    slc_json_need_real(hyper, "eps", &eps, "hyper", &f.e);
    cr_assert_eq(slc_json_need_real(hyper, "weight_decay", &wd, "hyper", &f.e), 0);
    struct slc_st *st = slc_st_open(golden("adamw.safetensors"), &f.e);
    cr_assert_not_null(st, "%s", f.e.text);
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(hyper, "lr"), i, v) lr[i] = json_real_value(v);
    json_array_foreach(json_object_get(c, "tensors"), i, v)
    {
        const char *name = json_string_value(v);
        char full[64];
        bool decay = false;
        size_t k;
        json_t *d;
        json_array_foreach(decayed, k, d) decay |= !strcmp(json_string_value(d), name);
        snprintf(full, sizeof(full), "p.0.%s", name);
        add_param(&f, name, slc_st_get(st, slc_st_find(st, full))->count, false, decay);
    }
    cr_assert_eq(f.ps.n, 4);
    alloc_arrays(&f);
    for (int p = 0; p < f.ps.n; p++)
        read_tensor(st, "p", 0, f.p[p].name, weight(&f, p), f.p[p].count);
    struct slc_optim *o = slc_optim_create(
        &f.ps,
        &(struct slc_optim_options){
            .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = wd},
        &f.e);
    cr_assert_not_null(o, "%s", f.e.text);
    cr_assert_eq(slc_optim_adopt_weights(o, f.q, &f.e), 0);
    for (int step = 1; step <= 5; step++) {
        struct slc_optim_report r;
        for (int p = 0; p < f.ps.n; p++)
            read_tensor(st, "g", step, f.p[p].name, slc_param_grad(&f.ps, p), f.p[p].count);
        cr_assert_eq(slc_optim_step(o, f.q, lr[step - 1], true, &r, &f.e), 0);
        cr_expect_not(r.skipped);
        compare_state(&f, o, st, step);
    }
    cr_expect_eq(slc_optim_updates(o), 5);
    slc_optim_destroy(o);
    slc_st_close(st);
    json_decref(c);
    close_backend(&f);
}

/* -- clipping, skipping, dtypes --------------------------------------------------- */

static struct slc_optim *make(struct fixture *f, double clip, enum slc_dtype dtype)
{
    open_backend(f);
    f->ps.dtype = dtype;
    add_param(f, "a", 3000, false, true);
    add_param(f, "b", 5, false, false);
    add_param(f, "c", 2000, true, true);
    alloc_arrays(f);
    struct slc_optim *o =
        slc_optim_create(&f->ps,
                         &(struct slc_optim_options){.beta1 = 0.9, .beta2 = 0.999,
                                                     .eps = 1e-8, .weight_decay = 0.01,
                                                     .clip = clip},
                         &f->e);
    cr_assert_not_null(o, "%s", f->e.text);
    return o;
}

static void fill(struct fixture *f, float g)
{
    for (int i = 0; i < f->ps.n; i++)
        for (int64_t j = 0; j < f->p[i].count; j++)
            slc_param_grad(&f->ps, i)[j] = g;
}

/* The first moment after one step shows the gradient that was used: m = 0.1 g. */
Test(optim, clip_scales_the_gradient)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 2.0, SLC_F32);
    struct slc_optim_report r;
    double norm = 0.5 * sqrt(5005);

    fill(&f, 0.5f);
    cr_assert_eq(slc_optim_step(o, f.q, 1e-3, true, &r, &f.e), 0);
    cr_expect_float_eq(r.grad_norm, norm, 1e-9 * norm);
    cr_expect_float_eq(slc_optim_m(o)[0], 0.1 * 0.5 * 2 / (norm + 1e-6), 1e-9);
    slc_optim_destroy(o);
    close_backend(&f);
}

Test(optim, small_gradients_are_not_scaled)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 2.0, SLC_F32);
    struct slc_optim_report r;

    fill(&f, 0.01f);
    cr_assert_eq(slc_optim_step(o, f.q, 1e-3, true, &r, &f.e), 0);
    cr_expect_float_eq(slc_optim_m(o)[4000], 0.1 * 0.01, 1e-9);
    slc_optim_destroy(o);
    close_backend(&f);
}

Test(optim, what_is_not_finite_changes_nothing)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 1.0, SLC_F32);
    struct slc_optim_report r;
    float before[5120], bad[] = {NAN, INFINITY, -INFINITY};
    size_t bytes = (size_t)f.ps.local * 4;

    cr_assert_leq(bytes, sizeof(before));
    fill(&f, 0.25f);
    cr_assert_eq(slc_optim_step(o, f.q, 1e-3, true, &r, &f.e), 0);
    memcpy(before, f.ps.w, bytes);
    float m = slc_optim_m(o)[0], v = slc_optim_v(o)[0];
    for (int k = 0; k < 4; k++) {
        fill(&f, 0.25f);
        if (k < 3)
            slc_param_grad(&f.ps, k)[k] = bad[k];
        cr_assert_eq(slc_optim_step(o, f.q, 1e-3, k < 3, &r, &f.e), 0);
        cr_expect(r.skipped);
        cr_expect_not(isfinite(r.grad_norm));
        cr_expect_eq(memcmp(before, f.ps.w, bytes), 0);
        cr_expect_eq(slc_optim_updates(o), 1);
        cr_expect(slc_optim_m(o)[0] == m && slc_optim_v(o)[0] == v);
    }
    fill(&f, 0.25f);
    cr_assert_eq(slc_optim_step(o, f.q, 1e-3, true, &r, &f.e), 0);
    cr_expect_not(r.skipped);
    cr_expect_eq(slc_optim_updates(o), 2);
    slc_optim_destroy(o);
    close_backend(&f);
}

Test(optim, zero_grad_clears_all)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 1.0, SLC_F32);

    fill(&f, 3.0f);
    slc_optim_zero_grad(o, f.q);
    cr_assert_eq(slc_queue_sync(f.q, &f.e), 0);
    for (int64_t i = 0; i < f.ps.local; i++)
        cr_assert_eq(f.ps.g[i], 0.0f);
    slc_optim_destroy(o);
    close_backend(&f);
}

/* bf16 weights are the rounded master weights; the master keeps what rounding loses. */
Test(optim, bf16_weights_follow_fp32_masters)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 0, SLC_BF16);
    struct slc_optim_report r;
    uint16_t *w = f.ps.w;

    for (int64_t i = 0; i < f.ps.local; i++)
        w[i] = slc_f32_to_bf16(1.0f);
    cr_assert_eq(slc_optim_adopt_weights(o, f.q, &f.e), 0);
    for (int step = 0; step < 3; step++) {
        fill(&f, 1.0f);
        cr_assert_eq(slc_optim_step(o, f.q, 1e-3, true, &r, &f.e), 0);
    }
    float master = slc_optim_master(o)[0];
    cr_expect_float_eq(master, 1 - 3e-3 - 3e-5, 1e-6);
    cr_expect_eq(w[0], slc_f32_to_bf16(master));
    cr_expect_neq(slc_bf16_to_f32(w[0]), master);
    cr_expect_eq(w[f.p[2].at + 1999], slc_f32_to_bf16(slc_optim_master(o)[5004]));
    /* what was saved is what comes back */
    memset(w, 0, (size_t)f.ps.local * 2);
    cr_assert_eq(slc_optim_publish_weights(o, f.q, &f.e), 0);
    cr_expect_eq(w[0], slc_f32_to_bf16(master));
    slc_optim_destroy(o);
    close_backend(&f);
}

Test(optim, one_copy_of_state)
{
    struct fixture f = {0};
    struct slc_optim *o = make(&f, 0, SLC_F32);

    cr_expect_eq(slc_optim_bytes(o), 3 * 4 * 5005);
    slc_optim_set_updates(o, 17);
    cr_expect_eq(slc_optim_updates(o), 17);
    slc_optim_destroy(o);
    slc_optim_destroy(NULL);
    close_backend(&f);
}
