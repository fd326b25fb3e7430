/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"

#include "kernels/cuda/sm90.cuh"

/*
 * Grouped products of bf16 on Hopper. Two blocks form a cluster and make two tiles of
 * 128 x 256 side by side, which share one operand: each loads half of it and the copy
 * engine delivers it to both. In a block one warp loads and two warpgroups multiply, 64
 * rows each, over a ring of STAGES steps of 64 along K; results leave through shared
 * memory while the next tile is computed. The grid is as large as the card; pairs of
 * tiles are dealt in turn, and their number is read from `off` on the card.
 *
 *   forward  y[row,n]   = x[row,k] W[e][n,k]     A = x,        B = W
 *   dgrad    y[row,n]   = x[row,k] W[e][k,n]     A = x,        B = W, MN-major
 *   wgrad    dw[e][n,k] = dy[row,n] x[row,k]     A = dy, B = x, both MN-major
 */

#define BM 128
#define BN 256
#define BK 64
#define STAGES 4
#define THREADS 384
#define A_BYTES (BM * BK * 2)
#define B_BYTES (BN * BK * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define OUT_BYTES (64 * 64 * 2) /* one block of results of a warpgroup */
#define OUT_AT (STAGES * STAGE_BYTES)
#define BARS_AT (OUT_AT + 4 * OUT_BYTES)
#define PAIRS_AT (BARS_AT + 2 * STAGES * 8)
#define MOST_EXPERTS 640
#define SMEM_BYTES (PAIRS_AT + (MOST_EXPERTS + 1) * 4)

enum out { OUT_BF16, OUT_F32, OUT_F32_ADD };

struct group_args {
    const int32_t *off;
    int El, M, N; /* of the result; M of the whole row buffer in forward and dgrad */
    int K;       /* contraction of forward and dgrad */
};

/* What the cluster does next; a0, b0 are this block's rows and columns. */
struct tile {
    int e, a0, b0, k0, steps;
    bool share_b; /* both blocks have the same columns; else the same rows */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ int tiles_of(int rows, int size)
{
    return (rows + size - 1) / size;
}

/* pairs[e] = pairs of tiles before expert e; by one warp. */
__device__ void count_pairs(int *pairs, const group_args &g, bool wgrad)
{
    const int lane = threadIdx.x, nt = tiles_of(g.N, BN);
    int sum = 0;

    for (int first = 0; first < g.El; first += 32) {
        const int e = first + lane;
        int n = 0;

        if (e < g.El && wgrad)
            n = tiles_of(g.M, 2 * BM) * nt;
        else if (e < g.El) {
            const int mt = tiles_of(g.off[e + 1] - g.off[e], BM);

            /* an odd row tile is paired along the columns */
            n = mt / 2 * nt + mt % 2 * tiles_of(nt, 2);
        }
        for (int o = 1; o < 32; o <<= 1) {
            const int x = __shfl_up_sync(0xffffffffu, n, o);

            n += lane >= o ? x : 0;
        }
        if (e < g.El)
            pairs[e + 1] = sum + n;
        sum += __shfl_sync(0xffffffffu, n, 31);
    }
    if (lane == 0)
        pairs[0] = 0;
}

/* Tile `at` of mp x nt (pairs of row tiles, column tiles), in bands of 8 pairs, so that
 * what runs at one time is about square and its operands stay in the L2 cache. */
__device__ __forceinline__ void place_of(int at, int mp, int nt, int &m, int &n)
{
    const int band = min(at / (8 * nt), mp / 8), rows = min(8, mp - band * 8);

    at -= band * 8 * nt;
    m = band * 8 + at % rows;
    n = at / rows;
}

__device__ tile tile_of(const int *pairs, const group_args &g, int pair, int rank,
                        bool wgrad)
{
    int lo = 0, hi = g.El; /* pairs[lo] <= pair < pairs[hi] */
    tile t;

    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;

        if (pairs[mid] <= pair)
            lo = mid;
        else
            hi = mid;
    }
    int at = pair - pairs[lo], m, n;
    const int rows = g.off[lo + 1] - g.off[lo];

    t.e = lo;
    t.share_b = true;
    if (wgrad) {
        place_of(at, tiles_of(g.M, 2 * BM), tiles_of(g.N, BN), m, n);
        t.a0 = (m * 2 + rank) * BM;
        t.b0 = n * BN;
        t.k0 = g.off[lo];
        t.steps = rows / BK;
        return t;
    }
    const int nt = tiles_of(g.N, BN), mt = tiles_of(rows, BM), mp = mt / 2;
    t.k0 = 0;
    t.steps = tiles_of(g.K, BK);
    if (at < mp * nt) {
        place_of(at, mp, nt, m, n);
        t.a0 = g.off[lo] + (m * 2 + rank) * BM;
        t.b0 = n * BN;
    } else {
        at -= mp * nt;
        t.share_b = false;
        t.a0 = g.off[lo] + (mt - 1) * BM;
        t.b0 = (at * 2 + rank) * BN;
    }
    return t;
}

/* Loads of one step: this block's half of the shared operand for both blocks, all of
 * its own. A is two boxes of 64 rows; B two of 128, or four of 64 where MN-major. */
template <bool A_MN, bool B_MN>
__device__ __forceinline__ void load_step(const CUtensorMap *ma, const CUtensorMap *mb,
                                          uint32_t at, uint32_t bar, const tile &t, int k,
                                          int rank)
{
    constexpr int B_BOXES = B_MN ? 4 : 2;
    const int zb = B_MN && A_MN ? 0 : t.e;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t to = at + i * (A_BYTES / 2);
        const int x = A_MN ? t.a0 + 64 * i : k, y = A_MN ? k : t.a0 + 64 * i;

        if (t.share_b)
            slc_tma_load(to, ma, bar, x, y, 0);
        else if (i == rank)
            slc_tma_load_all(to, ma, bar, x, y, 0, 3);
    }
#pragma unroll
    for (int i = 0; i < B_BOXES; i++) {
        const uint32_t to = at + A_BYTES + i * (B_BYTES / B_BOXES);
        const int n = t.b0 + i * (BN / B_BOXES);
        const int x = B_MN ? n : k, y = B_MN ? k : n;

        if (!t.share_b)
            slc_tma_load(to, mb, bar, x, y, zb);
        else if (i / (B_BOXES / 2) == rank)
            slc_tma_load_all(to, mb, bar, x, y, zb, 3);
    }
}

__device__ __forceinline__ uint32_t packed(float lo, float hi)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);

    return *reinterpret_cast<const uint32_t *>(&v);
}

/* 64 x 256 results of a warpgroup, in four blocks of 64 columns through two buffers. */
__device__ __forceinline__ void store_bf16(const float (&d)[128], const CUtensorMap *mc,
                                           uint32_t buffer, int group, int x0, int y, int z)
{
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int row = warp * 16 + lane % 16, chunk = lane / 16;

#pragma unroll
    for (int b = 0; b < 4; b++) {
        const uint32_t out = buffer + b % 2 * OUT_BYTES;

        if (thread == 0)
            slc_tma_store_read<1>();
        slc_group_sync(1 + group);
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
            const float *v = &d[(b * 8 + j) * 4];

            slc_stmatrix(out + row * 128 + (((j + chunk) ^ (row % 8)) * 16),
                         packed(v[0], v[1]), packed(v[2], v[3]), packed(v[4], v[5]),
                         packed(v[6], v[7]));
        }
        slc_proxy_fence();
        slc_group_sync(1 + group);
        if (thread == 0)
            slc_tma_store(mc, out, x0 + b * 64, y, z);
    }
}

/* The same in fp32, in eight blocks of 32 columns. */
template <bool ADD>
__device__ __forceinline__ void store_f32(const float (&d)[128], const CUtensorMap *mc,
                                          uint32_t buffer, int group, int x0, int y, int z)
{
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int row = warp * 16 + lane / 4, half = lane % 4 / 2, at = lane % 2 * 8;

#pragma unroll
    for (int b = 0; b < 8; b++) {
        const uint32_t out = buffer + b % 2 * OUT_BYTES;

        if (thread == 0)
            slc_tma_store_read<1>();
        slc_group_sync(1 + group);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *v = &d[(b * 4 + j) * 4];
            const uint32_t to = out + row * 128 + (((2 * j + half) ^ (row % 8)) * 16) + at;

            slc_store_pair(to, v[0], v[1]);
            slc_store_pair(to + 8 * 128, v[2], v[3]);
        }
        slc_proxy_fence();
        slc_group_sync(1 + group);
        if (thread != 0)
            continue;
        if (ADD)
            slc_tma_add(mc, out, x0 + b * 32, y, z);
        else
            slc_tma_store(mc, out, x0 + b * 32, y, z);
    }
}

template <bool A_MN, bool B_MN>
__device__ __forceinline__ void multiply(float (&d)[128], uint32_t at, int group,
                                         bool keep)
{
    const uint64_t a = slc_wgmma_operand(at + group * (A_BYTES / 2), 8192);
    const uint64_t b = slc_wgmma_operand(at + A_BYTES, 8192);

    slc_wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK / 16; k++)
        slc_wgmma<A_MN, B_MN>(d, a + k * (A_MN ? 128 : 2), b + k * (B_MN ? 128 : 2),
                              keep || k > 0);
    slc_wgmma_commit();
}

#endif

template <bool A_MN, bool B_MN, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap ma,
                   const __grid_constant__ CUtensorMap mb,
                   const __grid_constant__ CUtensorMap mc, group_args g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr bool WGRAD = A_MN;
    extern __shared__ __align__(1024) char smem[];
    const uint32_t base = slc_smem(smem), full = base + BARS_AT, empty = full + STAGES * 8;
    int *pairs = (int *)(smem + PAIRS_AT);
    const int rank = slc_cluster_rank(), role = threadIdx.x / 128;

    if (threadIdx.x < 32)
        count_pairs(pairs, g, WGRAD);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            slc_bar_init(full + i * 8, 1);
            slc_bar_init(empty + i * 8, 16); /* warps that multiply, in both blocks */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    slc_cluster_sync();
    const int count = pairs[g.El], step = gridDim.x / 2;
    int stage = 0;
    uint32_t phase = 0;

    if (role == 0) {
        slc_regs_fewer<40>();
        if (threadIdx.x == 0)
            for (int pair = blockIdx.x / 2; pair < count; pair += step) {
                const tile t = tile_of(pairs, g, pair, rank, WGRAD);

                for (int s = 0; s < t.steps; s++) {
                    slc_bar_wait(empty + stage * 8, phase ^ 1);
                    slc_bar_expect(full + stage * 8, STAGE_BYTES);
                    load_step<A_MN, B_MN>(&ma, &mb, base + stage * STAGE_BYTES,
                                          full + stage * 8, t, t.k0 + s * BK, rank);
                    if (++stage == STAGES) {
                        stage = 0;
                        phase ^= 1;
                    }
                }
            }
        __syncwarp();
    } else {
        slc_regs_more<232>();
        const int group = role - 1, lane = threadIdx.x % 32;
        const uint32_t buffer = base + OUT_AT + group * 2 * OUT_BYTES;
        float d[128];

        for (int pair = blockIdx.x / 2; pair < count; pair += step) {
            const tile t = tile_of(pairs, g, pair, rank, WGRAD);
            int before = 0;

            if (WGRAD && t.steps == 0) {
#pragma unroll
                for (int i = 0; i < 128; i++)
                    d[i] = 0;
            }
            for (int s = 0; s < t.steps; s++) {
                slc_bar_wait(full + stage * 8, phase);
                multiply<A_MN, B_MN>(d, base + stage * STAGE_BYTES, group, s > 0);
                if (s > 0) {
                    slc_wgmma_wait<1>();
                    if (lane < 2)
                        slc_bar_arrive(empty + before * 8, lane);
                }
                before = stage;
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
            }
            slc_wgmma_wait<0>();
            if (t.steps > 0 && lane < 2)
                slc_bar_arrive(empty + before * 8, lane);
            if (OUT == OUT_BF16)
                store_bf16(d, &mc, buffer, group, t.b0, t.a0 + group * 64,
                           WGRAD ? t.e : 0);
            else if (OUT == OUT_F32 || t.steps > 0)
                store_f32<OUT == OUT_F32_ADD>(d, &mc, buffer, group, t.b0,
                                              t.a0 + group * 64, t.e);
        }
        if (threadIdx.x % 128 == 0)
            slc_tma_store_done();
        __syncwarp();
    }
    slc_cluster_sync(); /* the other block may still write or arrive here */
#endif
}

/* -- host side -------------------------------------------------------------- */

typedef CUresult encode_f(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                          const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                          const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                          CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, asked for at run time: the module does not link libcuda. */
static encode_f *encoder(void)
{
    static encode_f *f;
    cudaDriverEntryPointQueryResult found;
    void *p = NULL;

    if (!f && cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000,
                                               cudaEnableDefault, &found) == cudaSuccess &&
        found == cudaDriverEntryPointSuccess)
        f = (encode_f *)p;
    return f;
}

/* Boxes of 128 bytes x `rows` of an array [z, y, x]. */
static bool map_of(CUtensorMap *map, const void *p, int64_t x, int64_t y, int64_t z,
                   int rows, enum slc_dtype dtype)
{
    const cuuint64_t size = slc_dtype_size(dtype);
    const cuuint64_t dims[3] = {(cuuint64_t)x, (cuuint64_t)y, (cuuint64_t)z};
    const cuuint64_t strides[2] = {(cuuint64_t)x * size, (cuuint64_t)(x * y) * size};
    const cuuint32_t box[3] = {(cuuint32_t)(128 / size), (cuuint32_t)rows, 1};
    const cuuint32_t ones[3] = {1, 1, 1};
    encode_f *f = encoder();

    return f && f(map,
                  dtype == SLC_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                    : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                  3, (void *)p, dims, strides, box, ones,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <bool A_MN, bool B_MN, int OUT>
static int launch(struct slc_queue *q, const CUtensorMap &ma, const CUtensorMap &mb,
                  const CUtensorMap &mc, const group_args &g, const char *what)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute cluster[1] = {};

    if (slc_cuda_allow_smem(q, (const void *)grouped_kernel<A_MN, B_MN, OUT>, SMEM_BYTES,
                            what) != 0)
        return 1;
    cluster[0].id = cudaLaunchAttributeClusterDimension;
    cluster[0].val.clusterDim.x = 2;
    cluster[0].val.clusterDim.y = cluster[0].val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)slc_cuda_queue_of(q)->cuda->sms / 2 * 2);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SMEM_BYTES;
    config.stream = SLC_STREAM(q);
    config.attrs = cluster;
    config.numAttrs = 1;
    slc_cuda_fail(q,
                  cudaLaunchKernelEx(&config, grouped_kernel<A_MN, B_MN, OUT>, ma, mb, mc,
                                     g),
                  what);
    return 1;
}

/* Widths in steps of 8 (the copy engine's 16 bytes), sizes that int coordinates hold. */
static bool fits(struct slc_queue *q, int64_t El, int64_t N, int64_t K, int64_t rows)
{
    return slc_cuda_queue_of(q)->cuda->prop.major == 9 && El > 0 && El <= MOST_EXPERTS &&
           N % 8 == 0 && K % 8 == 0 && N > 0 && K > 0 && N < 1 << 30 && K < 1 << 30 &&
           rows > 0 && rows < 1 << 30;
}

int slc_cuda_grouped_sm90(struct slc_queue *q, const struct slc_grouped_matmul_args *a)
{
    CUtensorMap ma, mb, mc;
    group_args g = {};

    if (a->dtype != SLC_BF16 || !fits(q, a->El, a->N, a->Kd, a->rows_cap) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->w, 16) || !slc_aligned(a->y, 16))
        return 0;
    const bool t = a->trans_w;
    if (!map_of(&ma, a->x, a->Kd, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mb, a->w, t ? a->Kd : a->N, t ? a->N : a->Kd, a->El, t ? 128 : 64,
                SLC_BF16) ||
        !map_of(&mc, a->y, a->N, a->rows_cap, 1, 64, SLC_BF16))
        return 0;
    g.off = a->off;
    g.El = (int)a->El;
    g.M = (int)a->rows_cap;
    g.N = (int)a->N;
    g.K = (int)a->Kd;
    return t ? launch<false, false, OUT_BF16>(q, ma, mb, mc, g, "grouped_matmul")
             : launch<false, true, OUT_BF16>(q, ma, mb, mc, g, "grouped_matmul");
}

int slc_cuda_wgrad_sm90(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    CUtensorMap ma, mb, mc;
    group_args g = {};

    if (a->dtype != SLC_BF16 || !fits(q, a->El, a->N, a->Kd, a->rows_cap) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->dy, 16) || !slc_aligned(a->dw, 16) ||
        (a->dw_dtype == SLC_BF16 && a->acc))
        return 0;
    if (!map_of(&ma, a->dy, a->N, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mb, a->x, a->Kd, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mc, a->dw, a->Kd, a->N, a->El, 64, a->dw_dtype))
        return 0;
    g.off = a->off;
    g.El = (int)a->El;
    g.M = (int)a->N;
    g.N = (int)a->Kd;
    if (a->dw_dtype == SLC_F32)
        return a->acc ? launch<true, true, OUT_F32_ADD>(q, ma, mb, mc, g, "grouped_wgrad")
                      : launch<true, true, OUT_F32>(q, ma, mb, mc, g, "grouped_wgrad");
    return launch<true, true, OUT_BF16>(q, ma, mb, mc, g, "grouped_wgrad");
}
