/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/grouped_store.cuh"
#include "kernels/cuda/grouped_tiles.cuh"
#include "kernels/cuda/sm90.cuh"

/*
 * Grouped products of bf16 on Hopper. Two blocks form a cluster and make two tiles of
 * 128 x 256 side by side, which share one operand: each loads half of it and the copy
 * engine delivers it to both. In a block one warp loads and two warpgroups multiply, 64
 * rows each, over a ring of STAGES steps of 64 along K. bf16 results stay in registers and
 * leave through shared memory between the first products of the next tile, so that the
 * tensor cores hardly wait for them. Of padding, forward and dgrad leave out 64 rows at a
 * time, wgrad 16. The grid is as large as the card; one more thread hands out tiles
 * (grouped_tiles.cuh), whose number is read from `off` on the card.
 *
 *   forward  y[row,n]   = x[row,k] W[e][n,k]     A = x,        B = W
 *   dgrad    y[row,n]   = x[row,k] W[e][k,n]     A = x,        B = W, MN-major
 *   wgrad    dw[e][n,k] = dy[row,n] x[row,k]     A = dy, B = x, both MN-major
 */

#define STAGES 4
#define THREADS 384
#define A_BYTES (BM * BK * 2)
#define B_BYTES (BN * BK * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define OUT_AT (STAGES * STAGE_BYTES)
#define BARS_AT (OUT_AT + 4 * OUT_BYTES)
#define SLOT_AT (BARS_AT + (2 * STAGES + 4) * 8)
#define PAIR_AT (SLOT_AT + (int)sizeof(tile))
#define TABLE_AT (PAIR_AT + 4)
#define SMEM_BYTES (TABLE_AT + (MOST_EXPERTS + 1) * 4)

enum out { OUT_BF16, OUT_F32, OUT_F32_ADD };

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

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

template <bool A_MN, bool B_MN, int SLICES>
__device__ __forceinline__ void multiply(float (&d)[128], uint32_t at, int group,
                                         bool keep)
{
    const uint64_t a = slc_wgmma_operand(at + group * (A_BYTES / 2), 8192);
    const uint64_t b = slc_wgmma_operand(at + A_BYTES, 8192);

    slc_wgmma_fence();
#pragma unroll
    for (int k = 0; k < SLICES; k++)
        slc_wgmma<A_MN, B_MN>(d, a + k * (A_MN ? 128 : 2), b + k * (B_MN ? 128 : 2),
                              keep || k > 0);
    slc_wgmma_commit();
}

/* A ring of STAGES steps in shared memory; full[i] and empty[i] are its barriers. */
struct ring {
    uint32_t base, full, empty, phase;
    int stage;
};

__device__ __forceinline__ void advance(ring &r)
{
    if (++r.stage == STAGES) {
        r.stage = 0;
        r.phase ^= 1;
    }
}

/* The thread that loads. */
template <bool A_MN, bool B_MN>
__device__ __forceinline__ void load_tiles(const CUtensorMap *ma, const CUtensorMap *mb,
                                           ring r, handover h)
{
    const int rank = slc_cluster_rank();

    for (tile t = take(h); t.steps >= 0; t = take(h))
        for (int s = 0; s < t.steps; s++) {
            slc_bar_wait(r.empty + r.stage * 8, r.phase ^ 1);
            slc_bar_expect(r.full + r.stage * 8, STAGE_BYTES);
            load_step<A_MN, B_MN>(ma, mb, r.base + r.stage * STAGE_BYTES,
                                  r.full + r.stage * 8, t, t.k0 + s * BK, rank);
            advance(r);
        }
}

/* Steps of a tile whose rows are padding for this warpgroup. */
__device__ __forceinline__ void skip_steps(ring &r, int steps)
{
    for (int s = 0; s < steps; s++) {
        slc_bar_wait(r.full + r.stage * 8, r.phase);
        if (threadIdx.x % 32 < 2)
            slc_bar_arrive(r.empty + r.stage * 8, threadIdx.x % 32);
        advance(r);
    }
}

/* A warpgroup that multiplies. */
template <bool A_MN, bool B_MN, int OUT>
__device__ __forceinline__ void multiply_tiles(const CUtensorMap *mc, ring r, handover h,
                                               int group)
{
    const int lane = threadIdx.x % 32;
    const uint32_t buffer = r.base + OUT_AT + group * 2 * OUT_BYTES;
    float d[128];
    uint32_t low[64]; /* the tile before, not stored yet */
    place to = {};
    bool due = false;
    tile next = take(h);

    while (next.steps >= 0) {
        tile t = next;
        int before = 0;

        if (!A_MN && t.half && group == 1) {
            skip_steps(r, t.steps);
            t.steps = 0;
        }
        if (t.steps == 0)
            next = take(h);
        for (int s = 0; s < t.steps; s++) {
            slc_bar_wait(r.full + r.stage * 8, r.phase);
            const int slices = A_MN && s + 1 == t.steps ? t.slices : BK / 16;
            const uint32_t at = r.base + r.stage * STAGE_BYTES;

            if (slices == 4)
                multiply<A_MN, B_MN, 4>(d, at, group, s > 0);
            else if (slices == 3)
                multiply<A_MN, B_MN, 3>(d, at, group, s > 0);
            else if (slices == 2)
                multiply<A_MN, B_MN, 2>(d, at, group, s > 0);
            else
                multiply<A_MN, B_MN, 1>(d, at, group, s > 0);
            if (s + 1 == t.steps) /* behind products that run */
                next = take(h);
            if (s > 0) {
                slc_wgmma_wait<1>();
                if (lane < 2)
                    slc_bar_arrive(r.empty + before * 8, lane);
            }
            if (OUT == OUT_BF16 && due && s < 4)
                store_due(low, s, false, mc, buffer, group, to);
            before = r.stage;
            advance(r);
        }
        if (OUT == OUT_BF16 && due && t.steps < 4)
            store_due(low, t.steps, true, mc, buffer, group, to);
        slc_wgmma_wait<0>();
        if (t.steps > 0 && lane < 2)
            slc_bar_arrive(r.empty + before * 8, lane);
        to = {t.b0, t.a0 + group * 64, A_MN ? t.e : 0};
        if (OUT == OUT_BF16) {
#pragma unroll
            for (int i = 0; i < 64; i++)
                low[i] = t.steps ? packed(d[2 * i], d[2 * i + 1]) : 0;
            due = true;
        } else if (OUT == OUT_F32 || t.steps > 0) {
            store_f32<OUT == OUT_F32_ADD>(d, t.steps > 0, mc, buffer, group, to);
        }
    }
    if (OUT == OUT_BF16 && due)
        store_due(low, 0, true, mc, buffer, group, to);
    if (threadIdx.x % 128 == 0)
        slc_tma_store_done();
}

#endif

template <bool A_MN, bool B_MN, int OUT>
__global__ void __launch_bounds__(THREADS, 1)
    grouped_kernel(const __grid_constant__ CUtensorMap ma,
                   const __grid_constant__ CUtensorMap mb,
                   const __grid_constant__ CUtensorMap mc, group_args g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char smem[];
    const uint32_t base = slc_smem(smem);
    const ring r = {base, base + BARS_AT, base + BARS_AT + STAGES * 8, 0, 0};
    const uint32_t given = base + BARS_AT + 2 * STAGES * 8;
    const handover h = {(tile *)(smem + SLOT_AT), given, given + 8, 0};
    const relay to_other = {(int *)(smem + PAIR_AT), given + 16, given + 24, 0};
    int *table = (int *)(smem + TABLE_AT);
    /* one for a warp: what follows from it stays in uniform registers */
    const int role = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);

    order_experts(table, (int *)smem, g, A_MN);
    if (threadIdx.x < 32)
        count_pairs(table, g, A_MN);
    if (threadIdx.x == 0) {
        slc_bar_init(h.given, 1);
        slc_bar_init(h.taken, TAKERS);
        slc_bar_init(to_other.came, 1);
        slc_bar_init(to_other.read, 1);
        for (int i = 0; i < STAGES; i++) {
            slc_bar_init(r.full + i * 8, 1);
            slc_bar_init(r.empty + i * 8, 16); /* warps that multiply, in both blocks */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    slc_cluster_sync();
    if (role == 0) {
        slc_regs_fewer<40>();
        if (threadIdx.x == 0)
            load_tiles<A_MN, B_MN>(&ma, &mb, r, h);
        else if (threadIdx.x == 32)
            hand_out(h, to_other, table, g, A_MN);
    } else {
        slc_regs_more<232>();
        multiply_tiles<A_MN, B_MN, OUT>(&mc, r, h, role - 1);
    }
    __syncwarp();
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

static bool fits(struct slc_queue *q, int64_t El, int64_t N, int64_t K, int64_t rows,
                 int64_t pairs)
{
    return slc_cuda_queue_of(q)->cuda->arch == 90 && slc_grouped_fits(El, N, K, rows) &&
           El <= MOST_EXPERTS && pairs < MOST_PAIRS;
}

int slc_cuda_grouped_sm90(struct slc_queue *q, const struct slc_grouped_matmul_args *a)
{
    const int64_t pairs = (a->rows_cap / (2 * BM) + a->El) * slc_ceil_div(a->N, BN);
    CUtensorMap ma, mb, mc;
    group_args g = {};

    if (a->dtype != SLC_BF16 || !fits(q, a->El, a->N, a->Kd, a->rows_cap, pairs) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->w, 16) || !slc_aligned(a->y, 16))
        return 0;
    const bool t = a->trans_w;
    if (!map_of(&ma, a->x, a->Kd, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mb, a->w, t ? a->Kd : a->N, t ? a->N : a->Kd, a->El, t ? 128 : 64,
                SLC_BF16) ||
        !map_of(&mc, a->y, a->N, a->rows_cap, 1, 64, SLC_BF16))
        return 0;
    g.tickets = slc_cuda_queue_of(q)->tickets;
    g.off = a->off;
    g.rec_of = a->rec_of;
    g.El = (int)a->El;
    g.M = (int)a->rows_cap;
    g.N = (int)a->N;
    g.K = (int)a->Kd;
    return t ? launch<false, false, OUT_BF16>(q, ma, mb, mc, g, "grouped_matmul")
             : launch<false, true, OUT_BF16>(q, ma, mb, mc, g, "grouped_matmul");
}

int slc_cuda_wgrad_sm90(struct slc_queue *q, const struct slc_grouped_wgrad_args *a)
{
    const int64_t pairs = a->El * slc_ceil_div(a->N, 2 * BM) * slc_ceil_div(a->Kd, BN);
    CUtensorMap ma, mb, mc;
    group_args g = {};

    if (a->dtype != SLC_BF16 || !fits(q, a->El, a->N, a->Kd, a->rows_cap, pairs) ||
        !slc_aligned(a->x, 16) || !slc_aligned(a->dy, 16) || !slc_aligned(a->dw, 16) ||
        (a->dw_dtype == SLC_BF16 && a->acc))
        return 0;
    if (!map_of(&ma, a->dy, a->N, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mb, a->x, a->Kd, a->rows_cap, 1, 64, SLC_BF16) ||
        !map_of(&mc, a->dw, a->Kd, a->N, a->El, 64, a->dw_dtype))
        return 0;
    g.tickets = slc_cuda_queue_of(q)->tickets;
    g.off = a->off;
    g.rec_of = a->rec_of;
    g.El = (int)a->El;
    g.M = (int)a->N;
    g.N = (int)a->Kd;
    if (a->dw_dtype == SLC_F32)
        return a->acc ? launch<true, true, OUT_F32_ADD>(q, ma, mb, mc, g, "grouped_wgrad")
                      : launch<true, true, OUT_F32>(q, ma, mb, mc, g, "grouped_wgrad");
    return launch<true, true, OUT_BF16>(q, ma, mb, mc, g, "grouped_wgrad");
}
