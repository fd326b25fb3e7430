/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_GROUPED_TILES_CUH
#define SLC_KERNELS_CUDA_GROUPED_TILES_CUH

#include <stdint.h>

#include "kernels/cuda/sm90.cuh"

/*
 * Which tile a cluster of grouped_sm90.cu makes next. A tile has BM x BN results and takes
 * steps of BK along the contraction; the two of a cluster lie below each other, those of an
 * odd last row of tiles beside each other. Pairs are handed out in order as clusters become
 * free: what runs at one time lies together and shares its operands in the L2 cache, and no
 * cluster waits for another's longer tiles. In wgrad the experts with most rows come first.
 */
#define BM 128
#define BN 256
#define BK 64
#define BAND 8 /* pairs of row tiles that go along the columns together */

#define MOST_EXPERTS 640
#define EXPERT_BITS 10
#define MOST_PAIRS (1 << (31 - EXPERT_BITS))

struct group_args {
    const int32_t *off, *rec_of;
    unsigned *tickets; /* pairs handed out, clusters that are done; zero between calls */
    int El, M, N; /* of the result; M of the whole row buffer in forward and dgrad */
    int K;        /* contraction of forward and dgrad */
};

/* What a block does next; a0, b0 are its rows and columns. */
struct __align__(16) tile {
    int e, a0, b0, k0;
    int steps;   /* -1: no tile is left */
    int share_b; /* both blocks have the same columns; else the same rows */
    int half;    /* rows 64 to 127 of this block are padding */
    int slices;  /* of 16 that count in the last step; 4 but in wgrad */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ int tiles_of(int rows, int size)
{
    return (rows + size - 1) / size;
}

__device__ __forceinline__ int pairs_of(const group_args &g, int e, bool wgrad)
{
    const int nt = tiles_of(g.N, BN), mt = tiles_of(g.off[e + 1] - g.off[e], BM);

    if (wgrad)
        return tiles_of(g.M, 2 * BM) * nt;
    return mt / 2 * nt + mt % 2 * tiles_of(nt, 2); /* an odd row tile: along the columns */
}

/* order[i] = i-th expert: as they come, in wgrad by rows, most first. rows: as many ints of
 * shared memory as there are experts. By the whole block. */
static __device__ void order_experts(int *order, int *rows, const group_args &g, bool wgrad)
{
    for (int e = threadIdx.x; e < g.El; e += blockDim.x)
        rows[e] = g.off[e + 1] - g.off[e];
    __syncthreads();
    for (int e = threadIdx.x; e < g.El; e += blockDim.x) {
        int at = e;

        if (wgrad) {
            at = 0;
            for (int i = 0; i < g.El; i++)
                at += rows[i] > rows[e] || (rows[i] == rows[e] && i < e);
        }
        order[at] = e;
    }
    slc_proxy_fence(); /* the copy engine writes over `rows` */
    __syncthreads();
}

/* table[i]: the i-th expert and how many pairs of tiles come before its own; table[El]: how
 * many there are. In: what order_experts made. By one warp. */
static __device__ void count_pairs(int *table, const group_args &g, bool wgrad)
{
    const int lane = threadIdx.x % 32;
    int sum = 0;

    for (int first = 0; first < g.El; first += 32) {
        const int e = first + lane < g.El ? table[first + lane] : -1;
        const int own = e < 0 ? 0 : pairs_of(g, e, wgrad);
        int n = own;

        for (int o = 1; o < 32; o <<= 1) {
            const int x = __shfl_up_sync(0xffffffffu, n, o);

            n += lane >= o ? x : 0;
        }
        if (e >= 0)
            table[first + lane] = (sum + n - own) << EXPERT_BITS | e;
        sum += __shfl_sync(0xffffffffu, n, 31);
    }
    if (lane == 0)
        table[g.El] = sum << EXPERT_BITS;
}

/* Tile `at` of mp x nt (pairs of row tiles, column tiles), in bands. */
__device__ __forceinline__ void place_of(int at, int mp, int nt, int &m, int &n)
{
    const int band = min(at / (BAND * nt), mp / BAND), rows = min(BAND, mp - band * BAND);

    at -= band * BAND * nt;
    m = band * BAND + at % rows;
    n = at / rows;
}

__device__ __forceinline__ tile tile_of(const int *table, const group_args &g, int pair,
                                        int rank, bool wgrad)
{
    int lo = 0, hi = g.El; /* pairs before lo <= pair < pairs before hi */
    tile t;

    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;

        if (table[mid] >> EXPERT_BITS <= pair)
            lo = mid;
        else
            hi = mid;
    }
    const int e = table[lo] & ((1 << EXPERT_BITS) - 1);
    int at = pair - (table[lo] >> EXPERT_BITS), m, n;
    const int begin = g.off[e], end = g.off[e + 1], rows = end - begin;
    const bool spare = rows > 0 && g.rec_of && g.rec_of[end - BK] == -1;

    t.e = e;
    t.share_b = 1;
    t.half = 0;
    t.slices = BK / 16;
    if (wgrad) {
        place_of(at, tiles_of(g.M, 2 * BM), tiles_of(g.N, BN), m, n);
        t.a0 = (m * 2 + rank) * BM;
        t.b0 = n * BN;
        t.k0 = begin;
        t.steps = rows / BK - spare;
        for (; t.steps > 0 && g.rec_of && t.slices > 1; t.slices--)
            if (g.rec_of[t.k0 + t.steps * BK - (5 - t.slices) * 16] != -1)
                break;
        return t;
    }
    const int nt = tiles_of(g.N, BN), mt = tiles_of(rows, BM), mp = mt / 2;
    t.k0 = 0;
    t.steps = tiles_of(g.K, BK);
    if (at < mp * nt) {
        place_of(at, mp, nt, m, n);
        t.a0 = begin + (m * 2 + rank) * BM;
        t.b0 = n * BN;
        t.half = spare && m * 2 + rank == mt - 1;
    } else {
        at -= mp * nt;
        t.share_b = 0;
        t.half = spare;
        t.a0 = begin + (mt - 1) * BM;
        t.b0 = (at * 2 + rank) * BN;
    }
    return t;
}

/*
 * How tiles reach those of a block that load and multiply, one at a time: through `slot`,
 * whose barriers are `given` and `taken`. The next follows once all have arrived at `taken`,
 * every thread for itself: racecheck does not follow one that speaks for its warp.
 * phase: parity of the tile that comes next.
 */
struct handover {
    tile *slot;
    uint32_t given, taken, phase;
};
#define TAKERS 257 /* the thread that loads and 256 that multiply */

/* How the cluster's first block tells the second which pair comes next: `pair` in the second's
 * shared memory with the barrier `came`; `read`, in the first's, says that it may be written
 * again. */
struct relay {
    int *pair;
    uint32_t came, read, phase;
};

/* The pair that both blocks make next, by one thread of each. */
static __device__ int next_pair(relay &r, unsigned *tickets, int rank)
{
    int pair;

    if (rank == 0) {
        pair = gridDim.x / 2 + (int)atomicAdd(tickets, 1);
        slc_bar_wait_cluster(r.read, r.phase ^ 1);
        slc_put(slc_smem(r.pair), r.came, 1, pair);
    } else {
        slc_bar_expect(r.came, sizeof(pair));
        slc_bar_wait_cluster(r.came, r.phase);
        pair = *r.pair;
        slc_bar_arrive_release(r.read, 0);
    }
    r.phase ^= 1;
    return pair;
}

/* The thread of a block that hands tiles out, until none is left. */
static __device__ void hand_out(handover h, relay r, const int *table, const group_args &g,
                                bool wgrad)
{
    const int count = table[g.El] >> EXPERT_BITS, clusters = gridDim.x / 2;
    const int rank = slc_cluster_rank();
    int pair = blockIdx.x / 2;

    for (bool left = true; left; h.phase ^= 1) {
        tile t = {};

        left = pair < count;
        t.steps = -1;
        if (left)
            t = tile_of(table, g, pair, rank, wgrad);
        slc_bar_wait(h.taken, h.phase ^ 1);
        *h.slot = t;
        slc_bar_arrive_here(h.given);
        if (left)
            pair = next_pair(r, g.tickets, rank);
    }
    if (rank != 0)
        return;
    __threadfence();
    if (atomicInc(&g.tickets[1], clusters - 1) == clusters - 1)
        g.tickets[0] = 0;
}

/* The next tile of this block. */
__device__ __forceinline__ tile take(handover &h)
{
    slc_bar_wait(h.given, h.phase);
    const tile t = *h.slot;
    slc_bar_arrive_here(h.taken);
    h.phase ^= 1;
    return t;
}

#endif

#endif
