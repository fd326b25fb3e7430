/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t El, N, Kd;
    int32_t off[10];
    bool acc;
    enum slc_dtype dtype, dw_dtype;
    int32_t pad[10]; /* rows at the end of each segment; all 0: not told */
};

/* rec_of of the segments, on d, and zero rows of x, dy where it is -1. NULL: no padding */
static int32_t *padding(struct op_dev *d, const struct shape *s, char *x, size_t x_row,
                        char *dy, size_t dy_row)
{
    int32_t *rec_of = malloc((size_t)(s->off[s->El] + 1) * 4), last = 0;

    op_keep(rec_of);
    for (int64_t e = 0; e < s->El; e++)
        for (int32_t i = s->off[e]; i < s->off[e + 1]; i++) {
            const bool pad = i >= s->off[e + 1] - s->pad[e];

            rec_of[i] = pad ? -1 : i % 2 ? -2 - i : i;
            if (pad) {
                memset(x + (size_t)i * x_row, 0, x_row);
                memset(dy + (size_t)i * dy_row, 0, dy_row);
                last = i;
            }
        }
    return last ? op_up(d, rec_of, (size_t)s->off[s->El] * 4) : NULL;
}

static void run_calls(struct op_dev *d, const struct shape *s, int calls, struct op_out *o)
{
    const int64_t rows = s->off[s->El], cap = rows + 3, N = s->N, K = s->Kd;
    const enum slc_dtype t = s->dtype;
    const size_t z = slc_dtype_size(t);
    const double tol = t == SLC_F32 ? 1e-5 : 1.0 / 128;
    int32_t *off = op_up(d, s->off, (size_t)(s->El + 1) * 4);
    void *hx = op_values(cap * K, 1, 1, t), *hdy = op_values(cap * N, 2, 1, t);
    const int32_t *rec_of = padding(d, s, hx, (size_t)K * z, hdy, (size_t)N * z);
    void *x = op_up(d, hx, (size_t)(cap * K) * z);
    void *dy = op_up(d, hdy, (size_t)(cap * N) * z);
    void *w = op_up(d, op_values(s->El * N * K, 3, 1, t), (size_t)(s->El * N * K) * z);
    void *y = op_new(d, (size_t)(cap * N) * z), *dx = op_new(d, (size_t)(cap * K) * z);
    void *dw = op_up(d, op_values(s->El * N * K, 4, 1, s->dw_dtype),
                     (size_t)(s->El * N * K) * slc_dtype_size(s->dw_dtype));

    for (int i = 0; i < calls; i++)
        SLC_RUN(d->q, grouped_matmul, .y = y, .x = x, .w = w, .off = off, .rec_of = rec_of,
                .El = s->El, .N = N, .Kd = K, .rows_cap = cap, .trans_w = true,
                .dtype = t);
    for (int i = 0; i < calls; i++)
        SLC_RUN(d->q, grouped_matmul, .y = dx, .x = dy, .w = w, .off = off,
                .rec_of = rec_of, .El = s->El, .N = K, .Kd = N, .rows_cap = cap,
                .dtype = t);
    for (int i = 0; i < calls; i++)
        SLC_RUN(d->q, grouped_wgrad, .dw = dw, .dy = dy, .x = x, .off = off,
                .rec_of = rec_of, .El = s->El, .N = N, .Kd = K, .rows_cap = cap,
                .acc = s->acc, .dtype = t, .dw_dtype = s->dw_dtype);
    op_take(o, d, "y", t, y, cap * N, tol); /* rows past the last stay as they were */
    op_take(o, d, "dx", t, dx, cap * K, tol);
    op_take(o, d, "dw", s->dw_dtype, dw, s->El * N * K,
            s->dw_dtype == SLC_F32 ? 1e-5 : 1.0 / 128);
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    run_calls(d, param, 1, o);
}

static const struct shape shapes[] = {
    {1, 3, 5, {0, 0}, true, SLC_F32, SLC_F32, {0}},
    {1, 3, 5, {0, 0}, false, SLC_F32, SLC_F32, {0}},
    {1, 17, 33, {0, 1}, false, SLC_F32, SLC_F32, {0}},
    {3, 17, 33, {0, 0, 67, 67}, true, SLC_F32, SLC_F32, {0}},
    {3, 17, 33, {0, 0, 67, 67}, false, SLC_F32, SLC_F32, {0}},
    {5, 300, 70, {0, 3, 20, 21, 88, 400}, true, SLC_F32, SLC_F32, {0}},
    {8, 64, 32, {0, 0, 0, 0, 0, 0, 0, 0, 300}, true, SLC_F32, SLC_F32, {0}},
    {3, 17, 33, {0, 0, 67, 67}, true, SLC_BF16, SLC_F32, {0}},
    {3, 17, 33, {0, 0, 67, 67}, false, SLC_BF16, SLC_F32, {0}},
    {3, 17, 33, {0, 0, 67, 67}, false, SLC_BF16, SLC_BF16, {0}},
    {5, 300, 70, {0, 3, 20, 21, 88, 400}, true, SLC_BF16, SLC_F32, {0}},
};

Test(grouped, backends_agree)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

/* Segments as a GPU has them (multiples of 128): an odd and an even number of row
 * tiles, empty experts, widths on both sides of a tile of 256 and of a step of 64;
 * padding of less and of more than 64 rows in single tiles and in pairs. */
static const struct shape low[] = {
    {1, 8, 8, {0, 128}, false, SLC_BF16, SLC_BF16, {0}},
    {4, 264, 200, {0, 128, 128, 512, 896}, false, SLC_BF16, SLC_BF16, {0}},
    {4, 264, 200, {0, 128, 128, 512, 896}, true, SLC_BF16, SLC_F32, {0}},
    {3, 136, 520, {0, 0, 384, 384}, false, SLC_BF16, SLC_F32, {0}},
    {2, 600, 72, {0, 128, 256}, true, SLC_BF16, SLC_F32, {0}},
    {2, 33, 70, {0, 128, 256}, true, SLC_BF16, SLC_F32, {0}},
    {4, 264, 200, {0, 128, 128, 512, 896}, false, SLC_BF16, SLC_BF16, {63, 0, 64, 127}},
    {4, 264, 520, {0, 128, 384, 640, 896}, false, SLC_BF16, SLC_BF16, {65, 64, 127, 1}},
    {4, 264, 200, {0, 128, 128, 512, 896}, true, SLC_BF16, SLC_F32, {100, 0, 20, 64}},
    {2, 72, 1000, {0, 128, 512}, false, SLC_BF16, SLC_BF16, {127, 100}},
};

Test(grouped, bf16_backends_agree)
{
    for (size_t i = 0; i < sizeof(low) / sizeof(*low); i++) {
        char label[64];

        snprintf(label, sizeof(label), "bf16 shape %zu", i);
        op_compare(run, &low[i], label);
    }
}

/* SLC_TEST_CALLS: calls of each op (2). */
static void run_many(struct op_dev *d, const void *param, struct op_out *o)
{
    const char *calls = getenv("SLC_TEST_CALLS");

    run_calls(d, param, calls ? atoi(calls) : 2, o);
}

/* A GPU hands tiles out to blocks that run at once: a race there shows in one call of
 * thousands. */
Test(grouped, many_calls_as_one)
{
    static const struct shape s = {
        8, 640, 768, {0, 256, 640, 2560, 2688, 5376, 9216, 9216, 16384},
        false, SLC_BF16, SLC_BF16, {0}};
    struct op_out once, many;

    op_run("cpu", run, &s, &once);
    op_run("cpu", run_many, &s, &many);
    for (int v = 0; v < once.n; v++)
        cr_expect_eq(memcmp(once.v[v].data, many.v[v].data,
                            (size_t)once.v[v].n * slc_dtype_size(once.v[v].dtype)),
                     0, "%s is not the same", once.v[v].name);
    op_out_free(&once);
    op_out_free(&many);
}

struct ctx {
    const struct shape *s;
    const double *x, *w, *dy;
    int which;
};

static double forward(const double *v, const void *p)
{
    const struct ctx *c = p;
    const struct shape *s = c->s;
    const double *x = c->which ? c->x : v, *w = c->which ? v : c->w;
    double total = 0;

    for (int64_t e = 0; e < s->El; e++)
        for (int64_t r = s->off[e]; r < s->off[e + 1]; r++)
            for (int64_t n = 0; n < s->N; n++)
                total += c->dy[r * s->N + n] *
                         op_dot(x + r * s->Kd, w + (e * s->N + n) * s->Kd, s->Kd);
    return total;
}

Test(grouped, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    static const struct shape s = {3, 4, 5, {0, 6, 6, 11}, false, SLC_F32, SLC_F32, {0}};
    const int64_t rows = 11, nw = s.El * s.N * s.Kd;
    struct ctx c = {.s = &s};
    double *x = op_doubles(op_normal((rows + 3) * s.Kd, 1, 1), SLC_F32, rows * s.Kd);
    double *w = op_doubles(op_normal(nw, 3, 1), SLC_F32, nw);

    c.x = x;
    c.w = w;
    c.dy = op_doubles(op_normal((rows + 3) * s.N, 2, 1), SLC_F32, rows * s.N);
    for (int b = 0; b < 2; b++) {
        struct op_out o;

        op_run(backends[b], run, &s, &o);
        c.which = 0;
        op_check_gradient("dx", forward, &c, x, rows * s.Kd, o.v[1].data, 1e-5);
        c.which = 1;
        op_check_gradient("dw", forward, &c, w, nw, o.v[2].data, 1e-5);
        op_out_free(&o);
    }
}
