/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

static float *scratch;
static size_t scratch_bytes;

#define SLC_CPU_FILL(isa) void slc_cpu_##isa##_fill(struct slc_ops *ops);
SLC_CPU_FILL(base)
#ifdef SLC_CPU_X86
SLC_CPU_FILL(avx2)
SLC_CPU_FILL(avx512)
#endif

enum isa { ISA_BASE, ISA_AVX2, ISA_AVX512 };
static const char *const isa_names[] = {"base", "avx2", "avx512"};

/* The widest set that the CPU has and SLUICE_CPU_ISA (for tests) allows. */
static enum isa isa_choose(void)
{
    enum isa best = ISA_BASE;
#ifdef SLC_CPU_X86
    const char *most = getenv("SLUICE_CPU_ISA");

    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        best = ISA_AVX2;
    if (best == ISA_AVX2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        best = ISA_AVX512;
    for (int i = 0; most && i < (int)best; i++)
        if (!strcmp(most, isa_names[i]))
            best = (enum isa)i;
#endif
    return best;
}

void slc_ops_cpu(struct slc_ops *ops)
{
    switch (isa_choose()) {
#ifdef SLC_CPU_X86
    case ISA_AVX512:
        slc_cpu_avx512_fill(ops);
        return;
    case ISA_AVX2:
        slc_cpu_avx2_fill(ops);
        return;
#endif
    default:
        slc_cpu_base_fill(ops);
    }
}

void slc_cpu_release(void)
{
    free(scratch);
    scratch = NULL;
    scratch_bytes = 0;
}

void slc_cpu_describe(char *text, size_t len)
{
    const dnnl_version_t *v = dnnl_version();

    snprintf(text, len, "oneDNN %d.%d.%d, %s", v->major, v->minor, v->patch,
             isa_names[isa_choose()]);
}

static int scratch_grow(int64_t n, struct slc_err *e)
{
    size_t bytes = (size_t)n * sizeof(float);
    void *p;

    if (bytes <= scratch_bytes)
        return 0;
    if (posix_memalign(&p, 256, bytes) != 0)
        return slc_errf(
            e, SLC_EXIT_SYSTEM,
            "backend cpu: no memory for %zu bytes of scratch; use more ranks "
            "or a smaller micro-batch",
            bytes);
    free(scratch);
    scratch = p;
    scratch_bytes = bytes;
    return 0;
}

float *slc_cpu_scratch(struct slc_queue *q, int64_t n)
{
    struct slc_err e = SLC_ERR_INIT;

    if (scratch_grow(n, &e) == 0)
        return scratch;
    slc_queue_fail(q, &e);
    return NULL;
}

void slc_cpu_refuse(struct slc_queue *q, const char *what)
{
    struct slc_err e = SLC_ERR_INIT;

    slc_errf(&e, SLC_EXIT_UNSUPPORTED, "backend cpu: not supported: %s", what);
    slc_queue_fail(q, &e);
}

void slc_cpu_sgemm(struct slc_queue *q, bool trans_a, bool trans_b, int64_t M,
                   int64_t N, int64_t K, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float beta, float *c, int64_t ldc)
{
    struct slc_err e = SLC_ERR_INIT;
    dnnl_status_t rc = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', M, N, K,
                                  1.0f, a, lda, b, ldb, beta, c, ldc);

    if (rc == dnnl_success)
        return;
    slc_errf(
        &e, SLC_EXIT_SYSTEM,
        "backend cpu: oneDNN refused a product of [%lld,%lld] by [%lld,%lld] (status "
        "%d); the node may be out of memory",
        (long long)M, (long long)K, (long long)K, (long long)N, (int)rc);
#pragma omp critical(slc_cpu_error)
    slc_queue_fail(q, &e);
}

static int need_head(int64_t D, struct slc_err *e)
{
    if (D <= SLC_CPU_HEAD && D % 2 == 0)
        return 0;
    return slc_errf(
        e, SLC_EXIT_UNSUPPORTED,
        "backend cpu: not supported: head width %lld; use an even one up to %d",
        (long long)D, SLC_CPU_HEAD);
}

static int need_rows(int64_t T, int64_t width, struct slc_err *e)
{
    return scratch_grow(slc_pieces_of(T).n * width, e);
}

int slc_cpu_prepare(enum slc_op op, const void *args, struct slc_err *e)
{
    if (op == SLC_OP_rmsnorm_backward) {
        const struct slc_rmsnorm_backward_args *a = args;

        return need_rows(a->T, a->H, e);
    }
    if (op == SLC_OP_qkv_rope_forward)
        return need_head(((const struct slc_qkv_rope_forward_args *)args)->D, e);
    if (op == SLC_OP_qkv_rope_backward) {
        const struct slc_qkv_rope_backward_args *a = args;
        int64_t width = a->norm == SLC_QK_NORM_FULL ? (a->NQ + a->NK) * a->D : 2 * a->D;

        return need_head(a->D, e) || need_rows(a->T, width, e) ? -1 : 0;
    }
    if (op == SLC_OP_attention_forward)
        return need_head(((const struct slc_attention_forward_args *)args)->D, e);
    if (op == SLC_OP_attention_backward)
        return need_head(((const struct slc_attention_backward_args *)args)->D, e);
    if (op == SLC_OP_expert_index) {
        const struct slc_expert_index_args *a = args;

        if (a->El > SLC_CPU_EXPERTS)
            return slc_errf(
                e, SLC_EXIT_UNSUPPORTED,
                "backend cpu: not supported: %lld experts on one rank; use a "
                "larger ep so that at most %d remain",
                (long long)a->El, SLC_CPU_EXPERTS);
    }
    return 0;
}
