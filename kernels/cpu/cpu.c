/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/gemm.h"

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
SLC_CPU_FILL(avx512_bf16)
#endif

enum isa { ISA_BASE, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16 };
static const char *const isa_names[] = {"base", "avx2", "avx512", "avx512_bf16"};

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
    if (best == ISA_AVX512 && __builtin_cpu_supports("avx512bf16"))
        best = ISA_AVX512_BF16;
    for (int i = 0; most && i < (int)best; i++)
        if (!strcmp(most, isa_names[i]))
            best = (enum isa)i;
#endif
    return best;
}

static enum isa chosen;

/* oneDNN's own limit (ONEDNN_MAX_CPU_ISA) counts too. */
bool slc_cpu_has_bf16(void)
{
    return chosen >= ISA_AVX512 && (dnnl_get_effective_cpu_isa() &
                                    dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

bool slc_cpu_bf16_fast(void)
{
    return slc_cpu_has_bf16() && (dnnl_get_effective_cpu_isa() &
                                  dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

/* What computes a product in bf16: oneDNN takes the best it finds. */
static const char *bf16_products(void)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();

    if (!slc_cpu_has_bf16())
        return "converted to fp32 (no AVX-512 in use)";
    if ((isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx)
        return "by AMX";
    if (slc_cpu_bf16_fast())
        return "by AVX512-BF16";
    return "by AVX-512 in fp32 (no bf16 instructions)";
}

void slc_ops_cpu(struct slc_ops *ops)
{
    chosen = isa_choose();
    switch (chosen) {
#ifdef SLC_CPU_X86
    case ISA_AVX512_BF16:
        slc_cpu_avx512_bf16_fill(ops);
        return;
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
    slc_product_release();
    free(scratch);
    scratch = NULL;
    scratch_bytes = 0;
}

void slc_cpu_describe(char *text, size_t len)
{
    const dnnl_version_t *v = dnnl_version();

    snprintf(text, len, "oneDNN %d.%d.%d, %s, bf16 products %s", v->major, v->minor,
             v->patch, isa_names[chosen], bf16_products());
}

int slc_cpu_scratch_grow(int64_t n, struct slc_err *e)
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

    if (slc_cpu_scratch_grow(n, &e) == 0)
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
