/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_GROUPED_TILES_CUH
#define SLC_KERNELS_CUDA_GROUPED_TILES_CUH

#include <stdint.h>

/*
 * Which tile a cluster of grouped_sm90.cu makes next. A tile has BM x BN results and takes
 * steps of BK along the contraction; the two of a cluster lie below each other, those of an
 * odd last row of tiles beside each other.
 */
#define BM 128
#define BN 256
#define BK 64

struct group_args {
    const int32_t *off, *rec_of;
    int El, M, N; /* of the result; M of the whole row buffer in forward and dgrad */
    int K;       /* contraction of forward and dgrad */
};

/* What the cluster does next; a0, b0 are this block's rows and columns. */
struct tile {
    int e, a0, b0, k0, steps;
    bool share_b; /* both blocks have the same columns; else the same rows */
    bool half;    /* rows 64 to 127 of this block are padding */
    int slices;   /* of 16 that count in the last step; 4 but in wgrad */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ int tiles_of(int rows, int size)
{
    return (rows + size - 1) / size;
}

/* pairs[e] = pairs of tiles before expert e; by one warp. */
static __device__ void count_pairs(int *pairs, const group_args &g, bool wgrad)
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

/* Tile `at` of mp x nt (pairs of row tiles, column tiles), in bands of `most` pairs: what runs
 * at one time shares its operands in the L2 cache. */
__device__ __forceinline__ void place_of(int at, int most, int mp, int nt, int &m, int &n)
{
    const int band = min(at / (most * nt), mp / most), rows = min(most, mp - band * most);

    at -= band * most * nt;
    m = band * most + at % rows;
    n = at / rows;
}

__device__ __forceinline__ tile tile_of(const int *pairs, const group_args &g, int pair, int rank,
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
    const int end = g.off[lo + 1], rows = end - g.off[lo];
    const bool spare = rows > 0 && g.rec_of && g.rec_of[end - BK] == -1;

    t.e = lo;
    t.share_b = true;
    t.half = false;
    t.slices = BK / 16;
    if (wgrad) {
        place_of(at, 16, tiles_of(g.M, 2 * BM), tiles_of(g.N, BN), m, n);
        t.a0 = (m * 2 + rank) * BM;
        t.b0 = n * BN;
        t.k0 = g.off[lo];
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
        place_of(at, 8, mp, nt, m, n);
        t.a0 = g.off[lo] + (m * 2 + rank) * BM;
        t.b0 = n * BN;
        t.half = spare && m * 2 + rank == mt - 1;
    } else {
        at -= mp * nt;
        t.share_b = false;
        t.half = spare;
        t.a0 = g.off[lo] + (mt - 1) * BM;
        t.b0 = (at * 2 + rank) * BN;
    }
    return t;
}

#endif

#endif
