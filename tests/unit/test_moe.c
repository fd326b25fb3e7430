/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "moe/balance.h"
#include "tests/moe/moe_case.h"

/* ep = 1 against the dense double-precision computation of tests/moe/moe_dense.c. */

static const struct moe_case cases[] = {
    {.T = 13, .H = 6, .E = 5, .K = 2, .F = 7, .pools = 1, .renorm = true, .aux = true},
    {.T = 17,
     .H = 11,
     .E = 7,
     .K = 3,
     .F = 5,
     .pools = 3,
     .renorm = false,
     .aux = true},
    {.T = 9, .H = 5, .E = 4, .K = 4, .F = 3, .pools = 1, .renorm = true, .aux = true},
    {.T = 9, .H = 5, .E = 4, .K = 4, .F = 3, .pools = 2, .renorm = false},
    {.T = 21,
     .H = 9,
     .E = 10,
     .K = 1,
     .F = 4,
     .pools = 1,
     .renorm = false,
     .aux = true},
    {.T = 21, .H = 9, .E = 10, .K = 1, .F = 4, .pools = 1, .skew = MOE_ONE},
    {.T = 14,
     .H = 8,
     .E = 6,
     .K = 2,
     .F = 9,
     .pools = 4,
     .renorm = true,
     .padding = true,
     .skew = MOE_ONE,
     .aux = true},
    {.T = 1, .H = 3, .E = 3, .K = 2, .F = 1, .pools = 1, .renorm = true, .aux = true},
    {.T = 64,
     .H = 32,
     .E = 16,
     .K = 4,
     .F = 24,
     .pools = 2,
     .renorm = true,
     .padding = true,
     .aux = true,
     .skew = MOE_SPLIT},
    {.T = 6, .H = 4, .E = 1, .K = 1, .F = 5, .pools = 1, .renorm = true, .aux = true},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

struct fixture {
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_moe *m;
    struct moe_data d;
    struct moe_layer l;
    struct moe_result got, want;
};

static void open_case(struct fixture *f, const struct moe_case *c, const char *backend,
                      bool training)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_options o = {.T = c->T,
                                .H = c->H,
                                .E = c->E,
                                .K = c->K,
                                .F = c->F,
                                .pools = c->pools,
                                .dtype = SLC_F32,
                                .renorm = c->renorm,
                                .training = training,
                                .slots = 1,
                                .window_factor = 1.25};

    f->b = slc_backend_open(backend, &(struct slc_backend_options){.threads = 1}, &e);
    cr_assert(f->b, "%s", e.text);
    f->q = slc_queue_create(f->b, &e);
    o.backend = f->b;
    f->m = slc_moe_create(&o, &e);
    cr_assert(f->m, "%s", e.text);
    moe_data_init(&f->d, c, 0, 0, c->T, c->T, 0, c->E);
    moe_result_init(&f->got, c, &f->d);
    moe_result_init(&f->want, c, &f->d);
    cr_assert_eq(moe_layer_init(&f->l, c, &f->d, f->m, f->b, f->q, &e), 0, "%s",
                 e.text);
}

static void close_case(struct fixture *f)
{
    moe_layer_release(&f->l);
    moe_result_release(&f->got);
    moe_result_release(&f->want);
    moe_data_release(&f->d);
    slc_moe_destroy(f->m);
    slc_queue_destroy(f->q);
    slc_backend_close(f->b);
}

static void run_case(struct fixture *f)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_call forward = moe_layer_forward(&f->l);
    struct slc_moe_call backward = moe_layer_backward(&f->l);

    cr_assert_eq(slc_moe_run(f->m, 0, &forward, &e), 0, "%s", e.text);
    cr_assert_eq(slc_moe_run(f->m, 0, &backward, &e), 0, "%s", e.text);
    cr_assert_eq(moe_layer_fetch(&f->l, &f->got, &e), 0, "%s", e.text);
}

static int case_number;

static void near(const char *what, const float *got, const float *want, int64_t n)
{
    double d = moe_distance(got, want, n);

    cr_expect(d < 1e-5, "case %d: %s differs by %g", case_number, what, d);
}

static void compare(const struct moe_case *c, const struct moe_result *got,
                    const struct moe_result *want)
{
    cr_assert_arr_eq(got->ids, want->ids, (size_t)(c->T * c->K) * sizeof(int32_t));
    near("out", got->out, want->out, c->T * c->H);
    near("dx", got->dx, want->dx, c->T * c->H);
    near("d(router)", got->drouter, want->drouter, c->E * c->H);
    near("d(up)", got->dup, want->dup, c->E * 2 * c->F * c->H);
    near("d(down)", got->ddown, want->ddown, c->E * c->H * c->F);
    near("pool_prob", got->pool_prob, want->pool_prob, c->pools * c->E);
    near("z_sum", &got->z_sum, &want->z_sum, 1);
    cr_expect_arr_eq(got->pool_count, want->pool_count,
                     (size_t)(c->pools * c->E) * sizeof(int32_t));
}

static void check_backend(const char *backend)
{
    for (size_t i = 0; i < N_CASES; i++) {
        struct moe_case c = cases[i];
        struct fixture f;

        c.seed = 100 + i;
        case_number = (int)i;
        open_case(&f, &c, backend, true);
        run_case(&f);
        moe_dense(&c, &f.d, &f.want);
        compare(&c, &f.got, &f.want);
        for (int64_t t = 0; c.skew == MOE_ONE && t < c.T; t++) {
            cr_expect(f.d.pool[t] < 0 || f.got.ids[t * c.K + c.K - 1] == c.E - 1);
            cr_expect(f.d.pool[t] < 0 || f.got.ids[t * c.K] != 0);
        }
        close_case(&f);
    }
}

Test(moe, equals_dense_on_ref)
{
    check_backend("ref");
}

Test(moe, equals_dense_on_cpu)
{
    check_backend("cpu");
}

/* The dense computation itself against finite differences of its loss. */
static void difference(const struct moe_case *c, struct moe_data *d, float *at,
                       double grad, double scale, const char *what)
{
    struct moe_result r;
    float keep = *at;
    const float step = 1.0f / 512;
    double high, low;
    int32_t *ids;

    moe_result_init(&r, c, d);
    *at = keep + step;
    high = moe_dense(c, d, &r);
    ids = r.ids;
    r.ids = calloc((size_t)(d->n * c->K), sizeof(int32_t));
    *at = keep - step;
    low = moe_dense(c, d, &r);
    /* Where a choice of experts flips the loss jumps: nothing to compare. */
    if (memcmp(ids, r.ids, (size_t)(d->n * c->K) * sizeof(int32_t)) == 0) {
        double numeric = (high - low) / ((double)(keep + step) - (double)(keep - step));

        cr_expect(fabs(numeric - grad) < 2e-4 * (1 + scale), "%s: %g, numeric %g", what,
                  grad, numeric);
    }
    *at = keep;
    free(ids);
    moe_result_release(&r);
}

static double largest(const float *a, int64_t n)
{
    double m = 0;

    for (int64_t i = 0; i < n; i++)
        m = fmax(m, fabs(a[i]));
    return m;
}

Test(moe, dense_has_right_gradients)
{
    for (size_t i = 0; i < N_CASES; i++) {
        struct moe_case c = cases[i];
        struct moe_data d;
        struct moe_result r;

        c.seed = 100 + i;
        moe_data_init(&d, &c, 0, 0, c.T, c.T, 0, c.E);
        moe_result_init(&r, &c, &d);
        moe_dense(&c, &d, &r);
        struct {
            float *at, *grad;
            int64_t n;
            const char *what;
        } all[] = {{d.x, r.dx, c.T * c.H, "x"},
                   {d.router, r.drouter, c.E * c.H, "router"},
                   {d.up, r.dup, c.E * 2 * c.F * c.H, "up"},
                   {d.down, r.ddown, c.E * c.H * c.F, "down"}};
        for (size_t a = 0; a < 4; a++)
            for (int64_t j = 0; j < 8; j++) {
                int64_t k = (j * 37 + 5) % all[a].n;

                difference(&c, &d, &all[a].at[k], all[a].grad[k],
                           largest(all[a].grad, all[a].n), all[a].what);
            }
        moe_result_release(&r);
        moe_data_release(&d);
    }
}

/* Gradients are added to what is there; out may be add; no fetch is made by the block.
 */
Test(moe, accumulates_in_place_without_fetches)
{
    struct moe_case c = cases[1];
    struct fixture f;
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_call forward, backward;
    uint64_t fetches;

    open_case(&f, &c, "cpu", true);
    forward = moe_layer_forward(&f.l);
    forward.add = forward.out = f.l.add;
    backward = moe_layer_backward(&f.l);
    fetches = f.b->fetches;
    for (int i = 0; i < 3; i++) {
        slc_upload(f.q, f.l.add, f.d.add, (size_t)(c.T * c.H) * sizeof(float));
        cr_assert_eq(slc_moe_run(f.m, 0, &forward, &e), 0, "%s", e.text);
        cr_assert_eq(slc_moe_run(f.m, 0, &backward, &e), 0, "%s", e.text);
    }
    cr_expect_eq(f.b->fetches, fetches);
    cr_assert_eq(moe_layer_fetch(&f.l, &f.got, &e), 0);
    cr_assert_eq(slc_fetch(f.q, f.got.out, f.l.add, (size_t)(c.T * c.H) * 4, &e), 0);
    moe_dense(&c, &f.d, &f.want);
    for (int64_t i = 0; i < c.E * c.H; i++)
        f.want.drouter[i] *= 3;
    for (int64_t i = 0; i < c.E * 2 * c.F * c.H; i++)
        f.want.dup[i] *= 3;
    for (int64_t i = 0; i < c.E * c.H * c.F; i++)
        f.want.ddown[i] *= 3;
    compare(&c, &f.got, &f.want);
    cr_expect_eq(slc_moe_counters(f.m)->near_bytes, 0);
    cr_expect_eq(slc_moe_counters(f.m)->rounds, 0);
    close_case(&f);
}

/* Without training: forward only, and little memory per layer. */
Test(moe, inference_keeps_no_rows)
{
    struct moe_case c = cases[0];
    struct fixture f;
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_call forward;
    struct slc_arena device, host;

    open_case(&f, &c, "cpu", false);
    forward = moe_layer_forward(&f.l);
    cr_assert_eq(slc_moe_run(f.m, 0, &forward, &e), 0, "%s", e.text);
    cr_assert_eq(moe_layer_fetch(&f.l, &f.got, &e), 0);
    moe_dense(&c, &f.d, &f.want);
    near("out", f.got.out, f.want.out, c.T * c.H);
    slc_arena_measure(&device);
    slc_arena_measure(&host);
    slc_moe_saved_carve(f.m, &f.l.saved, &device, &host);
    for (int i = 0; i < device.n_regions; i++)
        cr_expect_str_neq(device.regions[i].name, "moe rows");
    close_case(&f);
}

Test(moe, forced_ids_and_load)
{
    struct moe_case c = cases[0];
    struct fixture f;
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_call forward;
    int64_t load[5] = {0, 0, 0, 0, 10};
    int32_t forced[13 * 2];
    int32_t *device;

    open_case(&f, &c, "ref", true);
    device = slc_mem_alloc(f.b, sizeof(forced), SLC_MEM_DEVICE, &e);
    for (int t = 0; t < 13; t++) {
        forced[2 * t] = t % 2;
        forced[2 * t + 1] = 3;
    }
    slc_upload(f.q, device, forced, sizeof(forced));
    forward = moe_layer_forward(&f.l);
    forward.forced = device;
    cr_assert_eq(slc_moe_run(f.m, 0, &forward, &e), 0, "%s", e.text);
    cr_assert_eq(moe_layer_fetch(&f.l, &f.got, &e), 0);
    cr_expect_arr_eq(f.got.ids, forced, sizeof(forced));
    cr_assert_eq(slc_moe_load_add(f.m, &f.l.saved, f.q, load, &e), 0);
    cr_expect_eq(load[0], 7);
    cr_expect_eq(load[1], 6);
    cr_expect_eq(load[2], 0);
    cr_expect_eq(load[3], 13);
    cr_expect_eq(load[4], 10);
    slc_mem_free(f.b, device, SLC_MEM_DEVICE);
    close_case(&f);
}

Test(moe, refuses_what_it_cannot_do)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_moe_options o = {.T = 4,
                                .H = 4,
                                .E = 4,
                                .K = 5,
                                .F = 4,
                                .pools = 1,
                                .slots = 1,
                                .window_factor = 1.25};

    o.backend = slc_backend_open("ref", &(struct slc_backend_options){0}, &e);
    cr_expect_null(slc_moe_create(&o, &e));
    cr_expect_eq(e.code, SLC_EXIT_CONFIG);
    cr_expect(strstr(e.text, "5 experts per token of 4 experts"), "%s", e.text);
    o.K = 2;
    o.slots = 3;
    cr_expect_null(slc_moe_create(&o, &e));
    o.slots = 1;
    o.T = 1LL << 31;
    cr_expect_null(slc_moe_create(&o, &e));
    cr_expect_eq(e.code, SLC_EXIT_UNSUPPORTED);
    slc_backend_close(o.backend);
}
