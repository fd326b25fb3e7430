/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_PLAIN_CUH
#define SLC_KERNELS_CUDA_PLAIN_CUH

#include "kernels/cuda/device.cuh"

/*
 * A plain product of any strides on the ordinary fp32 units: one block makes a 64 x 64
 * tile of C = op(A) op(B), K ascending. Serves fp32, odd shapes and older cards, and
 * checks the fast kernels.
 */

#define SLC_TILE 64
#define SLC_TILE_K 16
#define SLC_TILE_THREADS 256

template <class T, class TC> struct slc_tile_args {
    TC *c;
    const T *a, *b;
    int64_t M, N, K;
    int64_t am, ak, bk, bn, ldc; /* element strides */
    bool acc;
};

/* s[k][x] = p[x*sx + k*sk] for the tile at (x0, k0), zero outside [X, K). */
template <class T>
__device__ __forceinline__ void slc_tile_load(float (*s)[SLC_TILE + 4], const T *p,
                                              int64_t sx, int64_t sk, int64_t x0,
                                              int64_t k0, int64_t X, int64_t K)
{
    for (int i = threadIdx.x; i < SLC_TILE * SLC_TILE_K; i += SLC_TILE_THREADS) {
        /* neighbouring threads take neighbouring addresses */
        const int x = sk == 1 ? i / SLC_TILE_K : i % SLC_TILE;
        const int k = sk == 1 ? i % SLC_TILE_K : i / SLC_TILE;

        s[k][x] = x0 + x < X && k0 + k < K ? slc_f(p[(x0 + x) * sx + (k0 + k) * sk])
                                           : 0.0f;
    }
}

template <class T, class TC>
__device__ void slc_tile_run(const slc_tile_args<T, TC> &g, int64_t m0, int64_t n0)
{
    __shared__ float sa[SLC_TILE_K][SLC_TILE + 4], sb[SLC_TILE_K][SLC_TILE + 4];
    const int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    float c[4][4] = {};

    for (int64_t k0 = 0; k0 < g.K; k0 += SLC_TILE_K) {
        slc_tile_load(sa, g.a, g.am, g.ak, m0, k0, g.M, g.K);
        slc_tile_load(sb, g.b, g.bn, g.bk, n0, k0, g.N, g.K);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SLC_TILE_K; k++) {
            float a[4], b[4];

#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = sa[k][tm + i];
                b[i] = sb[k][tn + i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    c[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            const int64_t m = m0 + tm + i, n = n0 + tn + j;

            if (m >= g.M || n >= g.N)
                continue;
            TC *out = g.c + m * g.ldc + n;
            *out = slc_t<TC>(g.acc ? slc_f(*out) + c[i][j] : c[i][j]);
        }
}

#endif
