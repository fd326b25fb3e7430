/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_SM90_CUH
#define SLC_KERNELS_CUDA_SM90_CUH

#include <cuda.h>
#include <stdint.h>

/*
 * Hopper's own instructions as functions: mbarriers, the tensor copy engine (TMA), and
 * matrix products of a warpgroup (WGMMA). PTX ISA 8.0 and later, target sm_90a.
 */

__device__ __forceinline__ uint32_t slc_smem(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* -- mbarriers -------------------------------------------------------------- */

__device__ __forceinline__ void slc_bar_init(uint32_t bar, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals));
}
__device__ __forceinline__ void slc_bar_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar),
                 "r"(bytes)
                 : "memory");
}
/* Arrive at a barrier of this block: what was read and written here before is done. */
__device__ __forceinline__ void slc_bar_arrive_here(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
#define SLC_ARRIVE(order)                                                                \
    "{\n"                                                                                \
    ".reg .b32 there;\n"                                                                 \
    "mapa.shared::cluster.u32 there, %0, %1;\n"                                          \
    "mbarrier.arrive" order ".shared::cluster.b64 _, [there];\n"                         \
    "}"
/*
 * Arrive at the barrier at the same place in block `cta` of the cluster. Without
 * .release.cluster, which would cost a memory barrier of the whole card: right where what
 * was read here were operands of finished products and nothing was written. Loads may still
 * be under way when the other block sees it.
 */
__device__ __forceinline__ void slc_bar_arrive(uint32_t bar, int cta)
{
    asm volatile(SLC_ARRIVE("") ::"r"(bar), "r"(cta) : "memory");
}
/* The same after all that was read and written here. */
__device__ __forceinline__ void slc_bar_arrive_release(uint32_t bar, int cta)
{
    asm volatile(SLC_ARRIVE(".release.cluster") ::"r"(bar), "r"(cta) : "memory");
}
#undef SLC_ARRIVE
#define SLC_TRY_WAIT(order)                                                              \
    "{\n"                                                                                \
    ".reg .pred done;\n"                                                                 \
    "again:\n"                                                                           \
    "mbarrier.try_wait.parity" order ".shared::cta.b64 done, [%0], %1;\n"                \
    "@done bra leave;\n"                                                                 \
    "bra again;\n"                                                                       \
    "leave:\n"                                                                           \
    "}"
__device__ __forceinline__ void slc_bar_wait(uint32_t bar, uint32_t parity)
{
    asm volatile(SLC_TRY_WAIT("") ::"r"(bar), "r"(parity) : "memory");
}
/* The same for what another block of the cluster wrote or has read. */
__device__ __forceinline__ void slc_bar_wait_cluster(uint32_t bar, uint32_t parity)
{
    asm volatile(SLC_TRY_WAIT(".acquire.cluster") ::"r"(bar), "r"(parity) : "memory");
}
#undef SLC_TRY_WAIT
__device__ __forceinline__ void slc_cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;" ::
                     : "memory");
}
__device__ __forceinline__ int slc_cluster_rank(void)
{
    uint32_t r;

    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return (int)r;
}

/* An int to the same place of block `cta`, whose barrier counts its bytes. */
__device__ __forceinline__ void slc_put(uint32_t dst, uint32_t bar, int cta, int value)
{
    asm volatile("{\n"
                 ".reg .b32 there, counts;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 counts, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %3, "
                 "[counts];\n"
                 "}" ::"r"(dst),
                 "r"(bar), "r"(cta), "r"(value)
                 : "memory");
}

/* -- the tensor copy engine ------------------------------------------------- */

__device__ __forceinline__ void slc_tma_load(uint32_t dst, const CUtensorMap *map,
                                             uint32_t bar, int x, int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx"
                 "::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
/* The same into every block of the cluster that `mask` names. */
__device__ __forceinline__ void slc_tma_load_all(uint32_t dst, const CUtensorMap *map,
                                                 uint32_t bar, int x, int y, int z,
                                                 uint16_t mask)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx"
                 "::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
                     dst),
                 "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z), "h"(mask)
                 : "memory");
}
__device__ __forceinline__ void slc_tma_store(const CUtensorMap *map, uint32_t src, int x,
                                              int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(src), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
/* The same for fp32, added to what is there. One addition an element, so the order of
 * additions is not a question. */
__device__ __forceinline__ void slc_tma_add(const CUtensorMap *map, uint32_t src, int x,
                                            int y, int z)
{
    asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(src), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
/* All but the last N stores have read their shared memory. */
template <int N> __device__ __forceinline__ void slc_tma_store_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void slc_tma_store_done(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
/* Ordinary writes to shared memory before this are seen by the engine after it. */
__device__ __forceinline__ void slc_proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* -- warpgroups ------------------------------------------------------------- */

template <int N> __device__ __forceinline__ void slc_regs_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void slc_regs_fewer(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
/* Barrier `id` of the 128 threads of a warpgroup. */
__device__ __forceinline__ void slc_group_sync(int id)
{
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}
__device__ __forceinline__ void slc_wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void slc_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> __device__ __forceinline__ void slc_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* Four 8 x 8 bf16 matrices from registers to shared memory. */
__device__ __forceinline__ void slc_stmatrix(uint32_t at, uint32_t a, uint32_t b,
                                             uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::
                     "r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}
__device__ __forceinline__ void slc_store_pair(uint32_t at, float a, float b)
{
    asm volatile("st.shared::cta.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(a), "f"(b)
                 : "memory");
}

/*
 * Descriptor of an operand in shared memory as the copy engine writes boxes of 64 bf16
 * (128 bytes) a row, 128-byte swizzle: groups of 8 rows lie 1024 bytes apart. Where the
 * rows are steps of K (MN-major), `blocks` is the distance of 64 further columns.
 */
__device__ __forceinline__ uint64_t slc_wgmma_operand(uint32_t at, int blocks)
{
    return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)((blocks & 0x3ffff) >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* d[64,256] (+)= A[64,16] B[16,256]; keep false: d is overwritten. A_MN, B_MN: the
 * operand is MN-major. */
#define SLC_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SLC_D16(i) SLC_D4(i), SLC_D4((i) + 4), SLC_D4((i) + 8), SLC_D4((i) + 12)
#define SLC_D64(i) SLC_D16(i), SLC_D16((i) + 16), SLC_D16((i) + 32), SLC_D16((i) + 48)
template <int A_MN, int B_MN>
__device__ __forceinline__ void slc_wgmma(float (&d)[128], uint64_t a, uint64_t b,
                                          bool keep)
{
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, "
                 "%72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, "
                 "%88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, "
                 "%104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, "
                 "%120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, p, 1, 1, %131, %132;\n"
                 "}"
                 : SLC_D64(0), SLC_D64(64)
                 : "l"(a), "l"(b), "r"((int)keep), "n"(A_MN), "n"(B_MN));
}
#undef SLC_D64
#undef SLC_D16
#undef SLC_D4

#endif
