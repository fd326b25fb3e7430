/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/*
 * Dense products by cuBLASLt. What its heuristics rank first for a shape is kept: asking
 * takes longer than many a product, and the answer is a function of shape, card and
 * library version alone. Its matrices are column-major, so C^T = op(B)^T op(A)^T is
 * what it is asked for.
 */

#define BUCKETS 1024

struct plan_key {
    int64_t M, N, K, lda, ldb, ldc;
    int align_a, align_b, align_c; /* bytes, at most 256 */
    int trans_a, trans_b, acc, dtype, c_dtype;
};

struct plan {
    struct plan_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    bool usable; /* false: cuBLASLt has no kernel for it */
    struct plan *next;
};

struct slc_cuda_plans {
    struct plan *bucket[BUCKETS];
};

struct slc_cuda_plans *slc_cuda_plans_create(void)
{
    return calloc(1, sizeof(struct slc_cuda_plans));
}

static void plan_free(struct plan *p)
{
    if (p->a)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->b)
        cublasLtMatrixLayoutDestroy(p->b);
    if (p->c)
        cublasLtMatrixLayoutDestroy(p->c);
    if (p->desc)
        cublasLtMatmulDescDestroy(p->desc);
    free(p);
}

void slc_cuda_plans_destroy(struct slc_cuda_plans *plans)
{
    if (!plans)
        return;
    for (int i = 0; i < BUCKETS; i++)
        while (plans->bucket[i]) {
            struct plan *p = plans->bucket[i];

            plans->bucket[i] = p->next;
            plan_free(p);
        }
    free(plans);
}

static int alignment(const void *p)
{
    const uintptr_t x = (uintptr_t)p | 256;

    return (int)(x & -x);
}

static struct plan_key key_of(const struct slc_matmul_args *a)
{
    struct plan_key k;

    memset(&k, 0, sizeof(k)); /* compared as bytes */
    k.M = a->M;
    k.N = a->N;
    k.K = a->K;
    k.lda = a->lda ? a->lda : a->trans_a ? a->M : a->K;
    k.ldb = a->ldb ? a->ldb : a->trans_b ? a->K : a->N;
    k.ldc = a->ldc ? a->ldc : a->N;
    k.align_a = alignment(a->a);
    k.align_b = alignment(a->b);
    k.align_c = alignment(a->c);
    k.trans_a = a->trans_a;
    k.trans_b = a->trans_b;
    k.acc = a->acc;
    k.dtype = (int)a->dtype;
    k.c_dtype = (int)a->c_dtype;
    return k;
}

static unsigned hash(const struct plan_key *k)
{
    const unsigned char *p = (const unsigned char *)k;
    unsigned h = 2166136261u;

    for (size_t i = 0; i < sizeof(*k); i++)
        h = (h ^ p[i]) * 16777619u;
    return h % BUCKETS;
}

static cudaDataType_t type_of(int dtype)
{
    return dtype == SLC_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* Stored as cuBLASLt sees it: a row-major [r,c] is its c x r. */
static int layouts(struct plan *p)
{
    const struct plan_key *k = &p->key;
    const cudaDataType_t t = type_of(k->dtype);
    const uint64_t br = (uint64_t)(k->trans_b ? k->K : k->N);
    const uint64_t bc = (uint64_t)(k->trans_b ? k->N : k->K);
    const uint64_t ar = (uint64_t)(k->trans_a ? k->M : k->K);
    const uint64_t ac = (uint64_t)(k->trans_a ? k->K : k->M);

    return cublasLtMatrixLayoutCreate(&p->a, t, br, bc, k->ldb) ||
           cublasLtMatrixLayoutCreate(&p->b, t, ar, ac, k->lda) ||
           cublasLtMatrixLayoutCreate(&p->c, type_of(k->c_dtype), (uint64_t)k->N,
                                      (uint64_t)k->M, k->ldc);
}

static int describe(struct plan *p)
{
    const cublasOperation_t ta = p->key.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t tb = p->key.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;

    /* COMPUTE_32F on fp32 data is fp32 arithmetic; TF32 would have to be asked for. */
    return cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ||
           cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta,
                                          sizeof(ta)) ||
           cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb,
                                          sizeof(tb));
}

static bool choose(struct slc_cuda *c, struct plan *p)
{
    const size_t bytes = SLC_CUDA_BLAS_BYTES;
    /* Parts of a sum along K stay fp32; in the output's type they would lose bits. */
    const uint32_t schemes =
        CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t align_a = (uint32_t)p->key.align_b;
    const uint32_t align_b = (uint32_t)p->key.align_a;
    const uint32_t align_c = (uint32_t)p->key.align_c;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;

    if (cublasLtMatmulPreferenceCreate(&pref) != CUBLAS_STATUS_SUCCESS)
        return false;
#define SET(name, value)                                                               \
    cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_##name, &(value),  \
                                         sizeof(value))
    SET(MAX_WORKSPACE_BYTES, bytes);
    SET(REDUCTION_SCHEME_MASK, schemes);
    SET(MIN_ALIGNMENT_A_BYTES, align_a);
    SET(MIN_ALIGNMENT_B_BYTES, align_b);
    SET(MIN_ALIGNMENT_C_BYTES, align_c);
    SET(MIN_ALIGNMENT_D_BYTES, align_c);
#undef SET
    cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(c->lt, p->desc, p->a, p->b, p->c,
                                                      p->c, pref, 1, &found, &n);
    cublasLtMatmulPreferenceDestroy(pref);
    if (s != CUBLAS_STATUS_SUCCESS || n < 1 || found.state != CUBLAS_STATUS_SUCCESS)
        return false;
    p->algo = found.algo;
    return true;
}

static struct plan *plan_of(struct slc_cuda *c, const struct slc_matmul_args *a)
{
    const struct plan_key key = key_of(a);
    struct plan **at = &c->plans->bucket[hash(&key)], *p;

    for (p = *at; p; p = p->next)
        if (!memcmp(&p->key, &key, sizeof(key)))
            return p;
    p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->key = key;
    if (layouts(p) || describe(p)) {
        plan_free(p);
        return NULL;
    }
    p->usable = choose(c, p);
    p->next = *at;
    *at = p;
    return p;
}

int slc_cuda_matmul_prepare(struct slc_cuda *c, const struct slc_matmul_args *a,
                            struct slc_err *e)
{
    if (a->M <= 0 || a->N <= 0 || a->K <= 0 || plan_of(c, a))
        return 0;
    return slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: no memory for a matmul plan");
}

void slc_cuda_matmul(struct slc_queue *q, const struct slc_matmul_args *a)
{
    const float one = 1.0f, beta = a->acc ? 1.0f : 0.0f;
    struct slc_cuda_queue *cq = slc_cuda_queue_of(q);

    if (a->M <= 0 || a->N <= 0)
        return;
    struct plan *p = a->K > 0 ? plan_of(cq->cuda, a) : NULL;
    if (!p || !p->usable) {
        slc_cuda_matmul_plain(q, a);
        return;
    }
    if (cublasLtMatmul(cq->cuda->lt, p->desc, &one, a->b, p->a, a->a, p->b, &beta, a->c,
                       p->c, a->c, p->c, &p->algo, cq->blas, SLC_CUDA_BLAS_BYTES,
                       cq->stream) != CUBLAS_STATUS_SUCCESS)
        slc_cuda_fail_text(q, SLC_EXIT_BUG, "cuBLASLt refused a product it had planned");
}
