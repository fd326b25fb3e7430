/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

#include <omp.h>

#include "base/rng.h"

static void dev_open(struct op_dev *d, const char *name, int threads)
{
    struct slc_err e = SLC_ERR_INIT;
    const char *mib = getenv("SLC_TEST_ATTENTION_MIB");
    struct slc_backend_options opts = {.threads = threads,
                                       .attention_bytes = mib ? atoll(mib) << 20 : 0};

    memset(d, 0, sizeof(*d));
    d->b = slc_backend_open(name, &opts, &e);
    cr_assert(d->b, "%s", e.text);
    d->q = slc_queue_create(d->b, &e);
    cr_assert(d->q, "%s", e.text);
}

static void dev_close(struct op_dev *d)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert(slc_queue_sync(d->q, &e) == 0, "%s: %s", d->b->name, e.text);
    slc_queue_destroy(d->q);
    for (int i = 0; i < d->n; i++)
        slc_mem_free(d->b, d->mem[i], SLC_MEM_DEVICE);
    slc_backend_close(d->b);
}

void *op_new(struct op_dev *d, size_t bytes)
{
    struct slc_err e = SLC_ERR_INIT;
    void *p = slc_mem_alloc(d->b, bytes, SLC_MEM_DEVICE, &e);
    char *pattern = malloc(bytes + 1);

    cr_assert(p && pattern && d->n < 128, "%s", e.text);
    memset(pattern, 0xa5, bytes);
    slc_upload(d->q, p, pattern, bytes);
    free(pattern);
    d->mem[d->n++] = p;
    return p;
}

void *op_up(struct op_dev *d, const void *host, size_t bytes)
{
    if (!host)
        return NULL;
    void *p = op_new(d, bytes);
    slc_upload(d->q, p, host, bytes);
    return p;
}

void op_take(struct op_out *o, struct op_dev *d, const char *name, enum slc_dtype dtype,
             const void *dev, int64_t n, double tol)
{
    struct slc_err e = SLC_ERR_INIT;
    struct op_value *v = &o->v[o->n++];

    cr_assert(o->n <= 24);
    *v = (struct op_value){name, dtype, n, NULL, tol, 0};
    v->data = calloc((size_t)n + 1, 8);
    cr_assert(slc_fetch(d->q, v->data, dev, (size_t)n * slc_dtype_size(dtype), &e) == 0,
              "%s: %s", name, e.text);
}

void op_out_free(struct op_out *o)
{
    for (int i = 0; i < o->n; i++)
        free(o->v[i].data);
    o->n = 0;
}

double op_get(const void *p, enum slc_dtype t, int64_t i)
{
    switch (t) {
    case SLC_F32:
        return ((const float *)p)[i];
    case SLC_BF16:
        return slc_bf16_to_f32(((const uint16_t *)p)[i]);
    case SLC_F64:
        return ((const double *)p)[i];
    case SLC_I32:
        return ((const int32_t *)p)[i];
    case SLC_I64:
        return (double)((const int64_t *)p)[i];
    case SLC_U8:
        return ((const uint8_t *)p)[i];
    }
    return NAN;
}

static void values_match(const struct op_value *got, const struct op_value *want,
                         const char *label, const char *way)
{
    double rms = 0;

    for (int64_t i = 0; i < want->n; i++) {
        double x = op_get(want->data, want->dtype, i);

        rms += isfinite(x) ? x * x : 0;
    }
    rms = fmax(sqrt(rms / (double)(want->n ? want->n : 1)), want->floor);
    for (int64_t i = 0; i < want->n; i++) {
        double x = op_get(got->data, got->dtype, i);
        double y = op_get(want->data, want->dtype, i);
        bool same = memcmp((char *)got->data + i * (int64_t)slc_dtype_size(got->dtype),
                           (char *)want->data + i * (int64_t)slc_dtype_size(got->dtype),
                           slc_dtype_size(got->dtype)) == 0;

        cr_assert(same || fabs(x - y) <= want->tol * (fabs(y) + rms),
                  "%s, %s: %s[%lld] is %.9g, ref has %.9g (rms %.3g, tolerance %.1e)",
                  label, way, want->name, (long long)i, x, y, rms, want->tol);
    }
}

static void bits_match(const struct op_out *a, const struct op_out *b,
                       const char *label, const char *way)
{
    for (int i = 0; i < a->n; i++)
        cr_assert(!memcmp(a->v[i].data, b->v[i].data,
                          (size_t)a->v[i].n * slc_dtype_size(a->v[i].dtype)),
                  "%s: %s has other bits: %s", label, a->v[i].name, way);
}

static void **kept;
static int n_kept, room;

static void drop_after(int n)
{
    while (n_kept > n)
        free(kept[--n_kept]);
}

static void drop_all(void)
{
    drop_after(0);
    free(kept);
}

const void *op_keep(void *p)
{
    static bool registered;

    if (n_kept == room) {
        room = room ? 2 * room : 64;
        kept = realloc(kept, (size_t)room * sizeof(*kept));
    }
    cr_assert(p && kept);
    if (!registered)
        registered = atexit(drop_all) == 0;
    kept[n_kept++] = p;
    return p;
}

static void run_on(const char *backend, int threads, op_test *f, const void *param,
                   struct op_out *o)
{
    const int before = n_kept;
    struct op_dev d;

    o->n = 0;
    dev_open(&d, backend, threads);
    f(&d, param, o);
    dev_close(&d);
    drop_after(before);
}

/* The backend to compare with ref: cpu, or the one that SLC_OP_BACKEND names. */
static const char *tested(void)
{
    const char *name = getenv("SLC_OP_BACKEND");

    return name && name[0] ? name : "cpu";
}

void op_run(const char *backend, op_test *f, const void *param, struct op_out *o)
{
    run_on(strcmp(backend, "cpu") ? backend : tested(), 1, f, param, o);
}

/* Two runs of one backend: within tolerance of ref, and the same bits. */
static void compare_twice(const char *backend, const struct op_out *ref, op_test *f,
                          const void *param, const char *label)
{
    struct op_out one, again;

    run_on(backend, 1, f, param, &one);
    cr_assert(one.n == ref->n);
    for (int v = 0; v < ref->n; v++)
        values_match(&one.v[v], &ref->v[v], label, backend);
    run_on(backend, 1, f, param, &again);
    bits_match(&one, &again, label, "second run");
    op_out_free(&again);
    op_out_free(&one);
}

void op_compare(op_test *f, const void *param, const char *label)
{
    static const char *const isas[] = {"base", "avx2", "avx512", "avx512_bf16"};
    struct op_out ref, one, again;

    run_on("ref", 1, f, param, &ref);
    if (strcmp(tested(), "cpu")) {
        compare_twice(tested(), &ref, f, param, label);
        op_out_free(&ref);
        return;
    }
    for (size_t i = 0; i < sizeof(isas) / sizeof(*isas); i++) {
        setenv("SLUICE_CPU_ISA", isas[i], 1);
        run_on("cpu", 1, f, param, &one);
        cr_assert(one.n == ref.n);
        for (int v = 0; v < ref.n; v++)
            values_match(&one.v[v], &ref.v[v], label, isas[i]);
        run_on("cpu", 1, f, param, &again);
        bits_match(&one, &again, label, "second run");
        op_out_free(&again);
        run_on("cpu", 2, f, param, &again);
        bits_match(&one, &again, label, "2 threads");
        op_out_free(&again);
        op_out_free(&one);
    }
    unsetenv("SLUICE_CPU_ISA");
    run_on("strict", 1, f, param, &one);
    bits_match(&ref, &one, label, "strict");
    op_out_free(&one);
    op_out_free(&ref);
}

float *op_normal(int64_t n, uint64_t key, double scale)
{
    float *p = malloc((size_t)(n + 1) * sizeof(*p));

    op_keep(p);
    for (int64_t i = 0; i < n; i++) {
        uint32_t u[4];

        slc_rng_block(7, SLC_RNG_TEST, key, (uint64_t)i, u);
        double sum = ((double)u[0] + u[1] + u[2] + u[3]) * 0x1p-32;
        p[i] = (float)(scale * 1.7320508 * (sum - 2)); /* variance of the sum: 1/3 */
    }
    return p;
}

void *op_values(int64_t n, uint64_t key, double scale, enum slc_dtype dtype)
{
    float *p = op_normal(n, key, scale);
    uint16_t *low;

    if (dtype == SLC_F32)
        return p;
    low = malloc((size_t)(n + 1) * sizeof(*low));
    op_keep(low);
    for (int64_t i = 0; i < n; i++)
        low[i] = slc_f32_to_bf16(p[i]);
    return low;
}

int32_t *op_ints(int64_t n, uint64_t key, int32_t below)
{
    int32_t *p = malloc((size_t)(n + 1) * sizeof(*p));

    op_keep(p);
    for (int64_t i = 0; i < n; i++)
        p[i] =
            (int32_t)(slc_rng_u64(7, SLC_RNG_TEST, key, (uint64_t)i) % (uint64_t)below);
    return p;
}

double *op_doubles(const void *p, enum slc_dtype t, int64_t n)
{
    double *x = malloc((size_t)(n + 1) * sizeof(*x));

    op_keep(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = op_get(p, t, i);
    return x;
}

double op_dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void op_check_gradient(const char *label, op_function *f, const void *ctx, double *x,
                       int64_t n, const float *grad, double tol)
{
    const int64_t step = n > 200 ? n / 200 : 1;
    double fd[512], rms = 0;
    int count = 0;

    for (int64_t i = 0; i < n && count < 512; i += step) {
        const double at = x[i], h = 1e-5;

        x[i] = at + h;
        double up = f(x, ctx);
        x[i] = at - h;
        double down = f(x, ctx);
        x[i] = at;
        fd[count] = (up - down) / (2 * h);
        rms += fd[count] * fd[count];
        count++;
    }
    rms = sqrt(rms / (count ? count : 1));
    cr_assert(rms > 0, "%s: the function does not depend on x", label);
    count = 0;
    for (int64_t i = 0; i < n && count < 512; i += step, count++)
        cr_assert(fabs(grad[i] - fd[count]) <= tol * (fabs(fd[count]) + rms),
                  "%s: gradient[%lld] is %.9g, differences give %.9g (rms %.3g)", label,
                  (long long)i, grad[i], fd[count], rms);
}
