/* SPDX-License-Identifier: Apache-2.0 */
#include <cuda_pipeline.h>
#include <mma.h>

#include "kernels/cuda/device.cuh"

/*
 * Grouped products of bf16 on the tensor cores of any card since Ampere, for what grouped_sm90.cu
 * does not take. A block makes a tile of 128 x 128 in steps of 32 along the contraction, over a
 * ring of STAGES steps that are copied while others are multiplied; 8 warps make 64 x 32
 * each. The grid covers the most tiles that rows_cap rows in El segments can have; a block finds
 * its expert in `off` on the card.
 *
 *   forward  y[row,n]   = x[row,k] W[e][n,k]     A = x,  B = W
 *   dgrad    y[row,n]   = x[row,k] W[e][k,n]     A = x,  B = W, MN-major
 *   wgrad    dw[e][n,k] = dy[row,n] x[row,k]     A = dy, B = x, both MN-major
 */

#define TILE 128
#define STEP 32
#define STAGES 3
#define THREADS 256
#define K_LD (STEP + 8)  /* of a row of an operand along K */
#define MN_LD (TILE + 8) /* of a row of one that is MN-major */
#define OPERAND (TILE * K_LD)
#define SMEM_BYTES (STAGES * 2 * OPERAND * (int)sizeof(bf16))
#define PATCH_LD 24 /* of 16 x 16 results of a warp on their way out */

namespace wmma = nvcuda::wmma;

/* One operand of a tile: `width` rows (columns, where MN-major) and K steps of it are there. */
struct operand {
    const bf16 *p;
    int64_t ld;
    int width, K;
};

/* Copy the step at k: of the tile's own rows, or of rows that are steps of K. Zeros outside.
 * Pieces of 8 elements are there or not as a whole. */
template <bool MN>
__device__ __forceinline__ void load_step(bf16 *to, const operand &o, int k)
{
#pragma unroll
    for (int i = threadIdx.x; i < TILE * STEP / 8; i += THREADS) {
        const int row = MN ? i / (TILE / 8) : i / (STEP / 8);
        const int col = MN ? i % (TILE / 8) * 8 : i % (STEP / 8) * 8;
        const bool there = MN ? k + row < o.K && col < o.width : row < o.width && k + col < o.K;
        const bf16 *from = o.p + (MN ? (k + row) * o.ld + col : row * o.ld + k + col);

        __pipeline_memcpy_async(to + row * (MN ? MN_LD : K_LD) + col, there ? from : o.p, 16,
                                there ? 0 : 16);
    }
}

template <bool ROW> struct layout {
    typedef wmma::row_major type;
};
template <> struct layout<false> {
    typedef wmma::col_major type;
};

typedef wmma::fragment<wmma::accumulator, 16, 16, 16, float> results;

/* d[4][2] += the warp's 64 x 32 of one step. */
template <bool A_MN, bool B_MN>
__device__ __forceinline__ void multiply(results (&d)[4][2], const bf16 *a, const bf16 *b,
                                         int m, int n)
{
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        wmma::fragment<wmma::matrix_a, 16, 16, 16, bf16, typename layout<!A_MN>::type> x[4];
        wmma::fragment<wmma::matrix_b, 16, 16, 16, bf16, typename layout<B_MN>::type> y[2];

#pragma unroll
        for (int i = 0; i < 4; i++)
            wmma::load_matrix_sync(x[i],
                                   a + (A_MN ? k * MN_LD + m + 16 * i : (m + 16 * i) * K_LD + k),
                                   A_MN ? MN_LD : K_LD);
#pragma unroll
        for (int j = 0; j < 2; j++)
            wmma::load_matrix_sync(y[j],
                                   b + (B_MN ? k * MN_LD + n + 16 * j : (n + 16 * j) * K_LD + k),
                                   B_MN ? MN_LD : K_LD);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                wmma::mma_sync(d[i][j], x[i], y[j], d[i][j]);
    }
}

/* 16 x 16 results to c, rows of which there are M and columns N, in multiples of 8. */
template <class TC>
__device__ __forceinline__ void store(const results &d, float *patch, TC *c, int64_t ldc, int M,
                                      int N, bool acc)
{
    const int lane = threadIdx.x % 32, row = lane / 2, col = lane % 2 * 8;

    wmma::store_matrix_sync(patch, d, PATCH_LD, wmma::mem_row_major);
    __syncwarp();
    if (row < M && col < N) {
        float v[8], old[8];

        slc_load(v, patch + row * PATCH_LD + col);
        if (acc) {
            slc_load(old, c + row * ldc + col);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] += old[i];
        }
        slc_store(c + row * ldc + col, v);
    }
    __syncwarp();
}

/* A tile, its first result at c; a.width x b.width of them are there. */
template <bool A_MN, bool B_MN, class TC>
__device__ void run_tile(const operand &a, const operand &b, TC *c, int64_t ldc, bool acc)
{
    extern __shared__ __align__(128) char smem[];
    bf16 *ring = (bf16 *)smem;
    const int warp = threadIdx.x / 32, m = warp / 4 * 64, n = warp % 4 * 32;
    const int steps = (a.K + STEP - 1) / STEP;
    results d[4][2];

    for (int i = 0; i < 8; i++)
        wmma::fill_fragment(d[i / 2][i % 2], 0.0f);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_step<A_MN>(ring + s * 2 * OPERAND, a, s * STEP);
            load_step<B_MN>(ring + s * 2 * OPERAND + OPERAND, b, s * STEP);
        }
        __pipeline_commit();
    }
    for (int s = 0; s < steps; s++) {
        const int next = s + STAGES - 1;
        bf16 *to = ring + next % STAGES * 2 * OPERAND;
        const bf16 *at = ring + s % STAGES * 2 * OPERAND;

        __pipeline_wait_prior(STAGES - 2);
        __syncthreads(); /* step s is there for all, and all are done with step s - 1 */
        if (next < steps) {
            load_step<A_MN>(to, a, next * STEP);
            load_step<B_MN>(to + OPERAND, b, next * STEP);
        }
        __pipeline_commit();
        multiply<A_MN, B_MN>(d, at, at + OPERAND, m, n);
    }
    __pipeline_wait_prior(0);
    __syncthreads();
    float *patch = (float *)smem + warp * 16 * PATCH_LD;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            const int row = m + 16 * i, col = n + 16 * j;

            store(d[i][j], patch, c + row * ldc + col, ldc, a.width - row, b.width - col, acc);
        }
}

template <bool B_MN>
__global__ void __launch_bounds__(THREADS)
    rows_kernel(bf16 *y, const bf16 *x, const bf16 *w, const int32_t *off, int El, int N, int K)
{
    int tile = blockIdx.y;
    const int e = slc_expert_of(off, El, TILE, &tile);

    if (e == El)
        return;
    const int64_t row = off[e] + (int64_t)tile * TILE;
    const int col = blockIdx.x * TILE;
    const operand a = {x + row * K, K, min(TILE, (int)(off[e + 1] - row)), K};
    const operand b = {w + (int64_t)e * N * K + (int64_t)col * (B_MN ? 1 : K),
                       B_MN ? N : K, min(TILE, N - col), K};

    run_tile<false, B_MN>(a, b, y + row * N + col, N, false);
}

template <class TC>
__global__ void __launch_bounds__(THREADS)
    wgrad_kernel(TC *dw, const bf16 *dy, const bf16 *x, const int32_t *off, int N, int K, bool acc)
{
    const int e = blockIdx.z, n = blockIdx.y * TILE, k = blockIdx.x * TILE;
    const int64_t first = off[e];
    const int rows = (int)(off[e + 1] - first);
    const operand a = {dy + first * N + n, N, min(TILE, N - n), rows};
    const operand b = {x + first * K + k, K, min(TILE, K - k), rows};

    run_tile<true, true>(a, b, dw + (int64_t)e * N * K + (int64_t)n * K + k, K, acc);
}

/* -- host side -------------------------------------------------------------- */

template <class F, class... Args>
static int launch(struct slc_queue *q, const char *what, F *kernel, dim3 grid, Args... args)
{
    if (slc_cuda_allow_smem(q, (const void *)kernel, SMEM_BYTES, what) == 0) {
        kernel<<<grid, THREADS, SMEM_BYTES, SLC_STREAM(q)>>>(args...);
        slc_cuda_launched(q, what);
    }
    return 1;
}

int slc_cuda_grouped_sm80(struct slc_queue *q, const struct slc_grouped_matmul_args *a)
{
    if (a->dtype != SLC_BF16 || slc_cuda_queue_of(q)->cuda->arch < 80 ||
        !slc_grouped_fits(a->El, a->N, a->Kd, a->rows_cap) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->w, 16) || !slc_aligned(a->y, 16))
        return 0;
    const dim3 grid((unsigned)slc_ceil_div(a->N, TILE),
                    (unsigned)(slc_ceil_div(a->rows_cap, TILE) + a->El));

    return launch(q, "grouped_matmul", a->trans_w ? rows_kernel<false> : rows_kernel<true>, grid,
                  (bf16 *)a->y, (const bf16 *)a->x, (const bf16 *)a->w, a->off, (int)a->El,
                  (int)a->N, (int)a->Kd);
}

int slc_cuda_wgrad_sm80(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    if (a->dtype != SLC_BF16 || slc_cuda_queue_of(q)->cuda->arch < 80 ||
        !slc_grouped_fits(a->El, a->N, a->Kd, a->rows_cap) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->dy, 16) || !slc_aligned(a->dw, 32))
        return 0;
    const dim3 grid((unsigned)slc_ceil_div(a->Kd, TILE), (unsigned)slc_ceil_div(a->N, TILE),
                    (unsigned)a->El);

    if (a->dw_dtype == SLC_F32)
        return launch(q, "grouped_wgrad", wgrad_kernel<float>, grid, (float *)a->dw,
                      (const bf16 *)a->dy, (const bf16 *)a->x, a->off, (int)a->N, (int)a->Kd,
                      a->acc);
    return launch(q, "grouped_wgrad", wgrad_kernel<bf16>, grid, (bf16 *)a->dw,
                  (const bf16 *)a->dy, (const bf16 *)a->x, a->off, (int)a->N, (int)a->Kd, a->acc);
}
