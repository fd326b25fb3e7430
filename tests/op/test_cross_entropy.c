/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

struct shape {
    int64_t rows, V;
    bool grad, masked;
    double size; /* of the logits */
    enum slc_dtype dtype;
};

static const float scale = 0.37f;

static int32_t *targets_of(const struct shape *s)
{
    int32_t *t = op_ints(s->rows, 2, (int32_t)s->V);

    for (int64_t r = 0; s->masked && r < s->rows; r += 3)
        t[r] = -1;
    return t;
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    const struct shape *s = param;
    const int64_t n = s->rows * s->V;
    const size_t z = slc_dtype_size(s->dtype);
    void *x = op_up(d, op_values(n, 1, s->size, s->dtype), (size_t)n * z);
    float *loss = op_new(d, (size_t)s->rows * 4);
    int32_t *targets = op_up(d, targets_of(s), (size_t)s->rows * 4);

    SLC_RUN(d->q, cross_entropy, .loss = loss, .logits = x, .targets = targets,
            .rows = s->rows, .V = s->V, .scale = scale, .grad = s->grad,
            .dtype = s->dtype);
    op_take(o, d, "loss", SLC_F32, loss, s->rows, 2e-6);
    op_take(o, d, "logits", s->dtype, x, n, s->dtype == SLC_F32 ? 1e-5 : 1.0 / 128);
}

Test(cross_entropy, backends_agree)
{
    static const struct shape shapes[] = {
        {0, 7, true, false, 1, SLC_F32},     {1, 1, true, false, 1, SLC_F32},
        {3, 17, true, true, 1, SLC_F32},     {67, 256, true, true, 3, SLC_F32},
        {67, 256, false, true, 3, SLC_F32},  {5, 5000, true, false, 30, SLC_F32},
        {2, 70001, true, false, 1, SLC_F32}, {67, 256, true, true, 3, SLC_BF16},
        {5, 5000, true, false, 3, SLC_BF16},
    };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
}

static double forward(const double *x, const void *p)
{
    const struct shape *s = p;
    const int32_t *targets = targets_of(s);
    double total = 0;

    for (int64_t r = 0; r < s->rows; r++) {
        double sum = 0;

        for (int64_t v = 0; v < s->V; v++)
            sum += exp(x[r * s->V + v]);
        if (targets[r] >= 0)
            total += (double)scale * (log(sum) - x[r * s->V + targets[r]]);
    }
    return total;
}

Test(cross_entropy, backward_against_differences)
{
    static const char *const backends[] = {"ref", "cpu"};
    static const struct shape s = {7, 13, true, true, 1, SLC_F32};

    for (int b = 0; b < 2; b++) {
        struct op_out o;

        op_run(backends[b], run, &s, &o);
        op_check_gradient(
            "logits", forward, &s,
            op_doubles(op_normal(s.rows * s.V, 1, 1), SLC_F32, s.rows * s.V),
            s.rows * s.V, o.v[1].data, 1e-5);
        op_out_free(&o);
    }
}

/* A NaN or infinite logit must not come out as a finite loss. */
static void bad_run(struct op_dev *d, const void *param, struct op_out *o)
{
    float *x = op_normal(300, 1, 1);
    const int32_t target = 5;
    float *loss = op_new(d, 4);

    x[200] = *(const float *)param;
    SLC_RUN(d->q, cross_entropy, .loss = loss, .logits = op_up(d, x, 1200),
            .targets = op_up(d, &target, 4), .rows = 1, .V = 300, .scale = 1,
            .grad = true);
    op_take(o, d, "loss", SLC_F32, loss, 1, 0);
}

Test(cross_entropy, a_bad_logit_is_seen)
{
    static const char *const isas[] = {"base", "avx2", "avx512", "avx512_bf16"};
    const float values[] = {NAN, -NAN, INFINITY};

    for (int i = 0; i < 12; i++) {
        struct op_out o;

        setenv("SLUICE_CPU_ISA", isas[i / 3], 1);
        op_run("cpu", bad_run, &values[i % 3], &o);
        cr_assert(!isfinite(*(float *)o.v[0].data), "%g gave %g", values[i % 3],
                  *(float *)o.v[0].data);
        op_out_free(&o);
    }
}
