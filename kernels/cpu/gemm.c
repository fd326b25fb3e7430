/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/vec.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.h>

#define KC 256 /* of K, at a time, where bf16 is converted */

struct bf16_primitive {
    dnnl_primitive_t p;
    int64_t scratch; /* floats */
};

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static struct bf16_primitive primitives[2][2][2]
                                       [2]; /* trans_a, trans_b, acc, C is bf16 */

static int refused(dnnl_status_t rc, const char *what, struct slc_err *e)
{
    return slc_errf(
        e, SLC_EXIT_SYSTEM,
        "backend cpu: oneDNN refused %s (status %d); the node may be out of "
        "memory",
        what, (int)rc);
}

/* Memory of rows x cols with row stride ld, or its transpose. */
static dnnl_status_t describe(dnnl_memory_desc_t *md, int64_t rows, int64_t cols,
                              int64_t ld, bool trans, enum slc_dtype dtype)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {trans ? 1 : ld, trans ? ld : 1};

    return dnnl_memory_desc_init_by_strides(
        md, 2, dims, dtype == SLC_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

static dnnl_status_t create(struct bf16_primitive *b, const struct slc_matmul_args *a)
{
    const int64_t any = DNNL_RUNTIME_DIM_VAL;
    dnnl_memory_desc_t A, B, C;
    dnnl_matmul_desc_t d;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t rc;

    if ((rc = describe(&A, any, any, any, a->trans_a, SLC_BF16)) ||
        (rc = describe(&B, any, any, any, a->trans_b, SLC_BF16)) ||
        (rc = describe(&C, any, any, any, false, a->c_dtype)) ||
        (rc = dnnl_matmul_desc_init(&d, &A, &B, NULL, &C)) ||
        (rc = dnnl_primitive_attr_create(&attr)) ||
        (rc = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user)))
        goto out;
    if (a->acc && ((rc = dnnl_post_ops_create(&sum)) ||
                   (rc = dnnl_post_ops_append_sum(sum, 1.0f)) ||
                   (rc = dnnl_primitive_attr_set_post_ops(attr, sum))))
        goto out;
    if ((rc = dnnl_primitive_desc_create(&pd, &d, attr, engine, NULL)) ||
        (rc = dnnl_primitive_create(&b->p, pd)))
        goto out;
    b->scratch = ((int64_t)dnnl_memory_desc_get_size(
                      dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0)) +
                  255) /
                 256 * 64;
out:
    dnnl_primitive_desc_destroy(pd);
    dnnl_post_ops_destroy(sum);
    dnnl_primitive_attr_destroy(attr);
    return rc;
}

/* The primitive of this layout, made when it is first asked for. */
static int find(const struct slc_matmul_args *a, struct bf16_primitive **out,
                struct slc_err *e)
{
    struct bf16_primitive *b =
        &primitives[a->trans_a][a->trans_b][a->acc][a->c_dtype == SLC_BF16];
    dnnl_status_t rc = dnnl_success;

    *out = b;
    if (b->p)
        return 0;
    if (!engine &&
        ((rc = dnnl_engine_create(&engine, dnnl_cpu, 0)) ||
         (rc = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags))))
        return refused(rc, "an engine", e);
    rc = create(b, a);
    return rc ? refused(rc, "a product in bf16", e) : 0;
}

void slc_product_release(void)
{
    struct bf16_primitive *b = &primitives[0][0][0][0];

    for (int i = 0; i < 16; i++) {
        dnnl_primitive_destroy(b[i].p);
        b[i].p = NULL;
    }
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    stream = NULL;
    engine = NULL;
}

/* Floats of work memory for one thread. */
static int64_t work_of(const struct slc_matmul_args *a, const struct bf16_primitive *b)
{
    if (a->dtype == SLC_F32)
        return 0;
    return b ? b->scratch : SLC_TILE_MAX * (2 * KC + SLC_TILE_MAX);
}

int slc_product_prepare(const struct slc_matmul_args *a, struct slc_err *e)
{
    struct bf16_primitive *b = NULL;

    if (a->dtype == SLC_BF16 && slc_cpu_has_bf16() && find(a, &b, e) != 0)
        return -1;
    return slc_cpu_scratch_grow(work_of(a, b) * omp_get_max_threads(), e);
}

bool slc_product_begin(struct slc_product *p, struct slc_queue *q,
                       const struct slc_matmul_args *a)
{
    struct slc_err e = SLC_ERR_INIT;

    *p = (struct slc_product){.q = q};
    if (a->dtype == SLC_F32)
        return true;
    if (slc_cpu_has_bf16() && find(a, &p->bf16, &e) != 0) {
        slc_queue_fail(q, &e);
        return false;
    }
    p->each = work_of(a, p->bf16);
    p->work = slc_cpu_scratch(q, p->each * omp_get_max_threads());
    return p->work || p->each == 0;
}

static void note(const struct slc_product *p, dnnl_status_t rc)
{
    struct slc_err e = SLC_ERR_INIT;

    refused(rc, "a product", &e);
#pragma omp critical(slc_cpu_error)
    slc_queue_fail(p->q, &e);
}

static void tile_f32(const struct slc_product *p, const struct slc_matmul_args *a,
                     int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                     const float *B, int64_t ldb, float beta, float *C, int64_t ldc)
{
    dnnl_status_t rc = dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', M, N,
                                  K, 1.0f, A, lda, B, ldb, beta, C, ldc);

    if (rc != dnnl_success)
        note(p, rc);
}

static void tile_bf16(const struct slc_product *p, const struct slc_matmul_args *a,
                      int64_t M, int64_t N, const uint16_t *A, const uint16_t *B,
                      void *C)
{
    dnnl_memory_desc_t md[3], scratch;
    dnnl_memory_t mem[4] = {NULL};
    void *data[4] = {(void *)(uintptr_t)A, (void *)(uintptr_t)B, C,
                     p->work + p->each * omp_get_thread_num()};
    const dnnl_dims_t bytes = {p->bf16->scratch * 4};
    const int n = p->bf16->scratch > 0 ? 4 : 3;
    dnnl_status_t rc;

    if ((rc = describe(&md[0], M, a->K, a->lda, a->trans_a, SLC_BF16)) ||
        (rc = describe(&md[1], a->K, N, a->ldb, a->trans_b, SLC_BF16)) ||
        (rc = describe(&md[2], M, N, a->ldc, false, a->c_dtype)) ||
        (rc = dnnl_memory_desc_init_by_tag(&scratch, 1, bytes, dnnl_u8, dnnl_a)))
        goto out;
    for (int i = 0; i < n; i++)
        if ((rc = dnnl_memory_create(&mem[i], i < 3 ? &md[i] : &scratch, engine,
                                     data[i])))
            goto out;
    const dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, mem[0]},
                                     {DNNL_ARG_WEIGHTS, mem[1]},
                                     {DNNL_ARG_DST, mem[2]},
                                     {DNNL_ARG_SCRATCHPAD, mem[3]}};
    rc = dnnl_primitive_execute(p->bf16->p, stream, n, args);
out:
    for (int i = 0; i < n; i++)
        dnnl_memory_destroy(mem[i]);
    if (rc != dnnl_success)
        note(p, rc);
}

/* rows x cols of a bf16 matrix with row stride ld as dense fp32. */
static void widen(float *out, const uint16_t *x, int64_t rows, int64_t cols, int64_t ld)
{
    for (int64_t i = 0; i < rows; i++)
        slc_in(x, SLC_BF16, i * ld, cols, out + i * cols);
}

static void tile_converted(const struct slc_product *p, const struct slc_matmul_args *a,
                           int64_t M, int64_t N, const uint16_t *A, const uint16_t *B,
                           void *C)
{
    float *fa = p->work + p->each * omp_get_thread_num(), *fb = fa + SLC_TILE_MAX * KC;
    float *fc = fb + SLC_TILE_MAX * KC;

    for (int64_t i = 0; a->acc && i < M; i++)
        if (a->c_dtype == SLC_F32)
            memcpy(fc + i * N, (float *)C + i * a->ldc, (size_t)N * sizeof(float));
        else
            slc_in(C, SLC_BF16, i * a->ldc, N, fc + i * N);
    for (int64_t k = 0; k < a->K; k += KC) {
        const int64_t n = slc_min(KC, a->K - k);

        if (a->trans_a)
            widen(fa, A + k * a->lda, n, M, a->lda);
        else
            widen(fa, A + k, M, n, a->lda);
        if (a->trans_b)
            widen(fb, B + k, N, n, a->ldb);
        else
            widen(fb, B + k * a->ldb, n, N, a->ldb);
        tile_f32(p, a, M, N, n, fa, a->trans_a ? M : n, fb, a->trans_b ? n : N,
                 k > 0 || a->acc ? 1.0f : 0.0f, fc, N);
    }
    for (int64_t i = 0; i < M; i++)
        if (a->c_dtype == SLC_F32)
            memcpy((float *)C + i * a->ldc, fc + i * N, (size_t)N * sizeof(float));
        else
            slc_put(C, SLC_BF16, i * a->ldc, N, fc + i * N);
}

static void zero_tile(char *C, int64_t rows, size_t row, size_t stride)
{
    for (int64_t i = 0; i < rows; i++)
        memset(C + (size_t)i * stride, 0, row);
}

void slc_product_tile(const struct slc_product *p, const struct slc_matmul_args *a,
                      int64_t m, int64_t n, int64_t tm, int64_t tn)
{
    const int64_t M = slc_min(tm, a->M - m), N = slc_min(tn, a->N - n);
    const int64_t at_a = a->trans_a ? m : m * a->lda;
    const int64_t at_b = a->trans_b ? n * a->ldb : n;
    const size_t size = slc_dtype_size(a->c_dtype);
    char *C = (char *)a->c + (size_t)(m * a->ldc + n) * size;

    if (a->K == 0) {
        if (!a->acc)
            zero_tile(C, M, (size_t)N * size, (size_t)a->ldc * size);
    } else if (a->dtype == SLC_F32) {
        tile_f32(p, a, M, N, a->K, (const float *)a->a + at_a, a->lda,
                 (const float *)a->b + at_b, a->ldb, a->acc ? 1.0f : 0.0f, (float *)C,
                 a->ldc);
    } else {
        const uint16_t *A = (const uint16_t *)a->a + at_a;
        const uint16_t *B = (const uint16_t *)a->b + at_b;

        if (p->bf16)
            tile_bf16(p, a, M, N, A, B, C);
        else
            tile_converted(p, a, M, N, A, B, C);
    }
}
