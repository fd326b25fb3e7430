/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

/* copy, zero, cast, add, scale, sum_squares, sum: the ops without a shape. */
struct shape {
    int64_t n;
    enum slc_dtype dtype;
};

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t n = s->n;
    const enum slc_dtype t = s->dtype;
    const size_t bytes = (size_t)n * slc_dtype_size(t);
    const double tol = t == SLC_F32 ? 1e-7 : 1.0 / 256;
    void *x = op_up(d, op_values(n, 1, 1, t), bytes);
    void *y = op_up(d, op_values(n, 2, 1, t), bytes);
    void *copy = op_new(d, bytes + 8), *zero = op_new(d, bytes + 8);
    uint16_t *low = op_new(d, (size_t)n * 2);
    float *up = op_new(d, (size_t)n * 4);
    double *wide = op_new(d, (size_t)n * 8), one = 1.5;
    double *sq = op_up(d, &one, 8), *sum = op_up(d, &one, 8), *sq2 = op_new(d, 8);

    SLC_RUN(d->q, copy, .dst = copy, .src = x, .bytes = (int64_t)bytes);
    SLC_RUN(d->q, zero, .dst = zero, .bytes = (int64_t)bytes);
    SLC_RUN(d->q, cast, .dst = low, .dst_dtype = SLC_BF16, .src = x, .src_dtype = t,
            .n = n);
    SLC_RUN(d->q, cast, .dst = up, .dst_dtype = SLC_F32, .src = low,
            .src_dtype = SLC_BF16, .n = n);
    SLC_RUN(d->q, cast, .dst = wide, .dst_dtype = SLC_F64, .src = x, .src_dtype = t,
            .n = n);
    SLC_RUN(d->q, add, .y = y, .a = x, .b = y, .n = n, .dtype = t);
    SLC_RUN(d->q, scale, .x = x, .alpha = 0.3f, .n = n, .dtype = t);
    SLC_RUN(d->q, sum_squares, .out = sq, .x = x, .n = n, .dtype = t, .acc = true);
    SLC_RUN(d->q, sum_squares, .out = sq2, .x = x, .n = n, .dtype = t);
    SLC_RUN(d->q, sum, .out = sum, .x = up, .n = n, .acc = true);
    op_take(o, d, "copy and what follows", SLC_U8, copy, (int64_t)bytes + 8, 0);
    op_take(o, d, "zero and what follows", SLC_U8, zero, (int64_t)bytes + 8, 0);
    op_take(o, d, "bf16", SLC_BF16, low, n, 0);
    op_take(o, d, "fp32", SLC_F32, up, n, 0);
    op_take(o, d, "fp64", SLC_F64, wide, n, 0);
    op_take(o, d, "add", t, y, n, tol);
    op_take(o, d, "scale", t, x, n, tol);
    op_take(o, d, "sum of squares", SLC_F64, sq, 1, 1e-7);
    op_take(o, d, "sum of squares, written", SLC_F64, sq2, 1, 1e-7);
    op_take(o, d, "sum", SLC_F64, sum, 1, 0); /* the order is fixed: same bits */
}

Test(memory, backends_agree)
{
    static const int64_t n[] = {0, 1, 3, 17, 67, 1023, 1025, 70001, 300007};

    for (size_t i = 0; i < sizeof(n) / sizeof(*n); i++)
        for (int k = 0; k < 2; k++) {
            struct shape s = {n[i], k ? SLC_BF16 : SLC_F32};
            char label[64];

            snprintf(label, sizeof(label), "n %d, %s", (int)n[i],
                     slc_dtype_name(s.dtype));
            op_compare(run, &s, label);
        }
}

/* One bad value anywhere makes the sum of squares not finite. */
struct bad {
    int64_t n, at;
    float value;
};

static void bad_run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct bad *b = param;
    float *x = op_normal(b->n, 1, 1);
    double *out = op_new(d, 8);

    x[b->at] = b->value;
    SLC_RUN(d->q, sum_squares, .out = out, .x = op_up(d, x, (size_t)b->n * 4),
            .n = b->n, .dtype = SLC_F32);
    op_take(o, d, "sum", SLC_F64, out, 1, 0);
}

Test(memory, a_bad_gradient_is_seen)
{
    static const char *const isas[] = {"base", "avx2", "avx512", "avx512_bf16"};
    const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 1e30f};

    for (int isa = 0; isa < 4; isa++)
        for (int v = 0; v < 5; v++)
            for (int64_t at = 0; at < 40000; at += 1999) {
                struct bad b = {40000, at, values[v]};
                struct op_out o;

                setenv("SLUICE_CPU_ISA", isas[isa], 1);
                op_run("cpu", bad_run, &b, &o);
                double sum = *(double *)o.v[0].data;
                cr_assert(isfinite(sum) == (v == 4), "%g at %d gives %g", values[v],
                          (int)at, sum);
                op_out_free(&o);
            }
}
