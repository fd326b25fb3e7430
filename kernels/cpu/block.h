/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_BLOCK_H
#define SLC_KERNELS_CPU_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Products of small blocks, for attention: oneDNN needs about a microsecond a call, as
 * long as such a block takes. Sums run over k in ascending order in one accumulator.
 */
#if defined(__AVX512F__)
#define SLC_VL 16
#define SLC_MR 8
#elif defined(__AVX2__)
#define SLC_VL 8
#define SLC_MR 6
#else
#define SLC_VL 4
#define SLC_MR 6
#endif

/* Loads and stores need no alignment. */
typedef float slc_vec __attribute__((vector_size(4 * SLC_VL), aligned(4), may_alias));

#define SLC_ALWAYS static inline __attribute__((always_inline))

/* mr rows by nv vectors of C, kept in registers. */
SLC_ALWAYS void slc_tile(const int mr, const int nv, int64_t K, const float *a,
                         int64_t ra, int64_t ca, const float *b, int64_t ldb, float *c,
                         int64_t ldc, const bool acc)
{
    slc_vec s[SLC_MR][2];

#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++)
            s[i][j] = acc ? *(const slc_vec *)(c + i * ldc + j * SLC_VL) : (slc_vec){0};
    for (int64_t k = 0; k < K; k++) {
        const slc_vec *v = (const slc_vec *)(b + k * ldb);
        const float *x = a + k * ca;

#pragma GCC unroll 8
        for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++)
                s[i][j] += x[i * ra] * v[j];
    }
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++)
            *(slc_vec *)(c + i * ldc + j * SLC_VL) = s[i][j];
}

/* All rows of nv vectors of columns. */
SLC_ALWAYS void slc_column(const int nv, int64_t M, int64_t K, const float *a,
                           int64_t ra, int64_t ca, const float *b, int64_t ldb,
                           float *c, int64_t ldc, const bool acc)
{
    int64_t i = 0;

    for (; i + SLC_MR <= M; i += SLC_MR)
        slc_tile(SLC_MR, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc);
    for (; i + 2 <= M; i += 2)
        slc_tile(2, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc);
    for (; i < M; i++)
        slc_tile(1, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc);
}

/*
 * C[M,N] (+)= A[M,K] B[K,N]; A(i,k) = a[i*ra + k*ca], B and C have rows at ldb and ldc.
 * Columns past the last whole vector are done one by one.
 */
SLC_ALWAYS void slc_block_product(int64_t M, int64_t N, int64_t K, const float *a,
                                  int64_t ra, int64_t ca, const float *b, int64_t ldb,
                                  float *c, int64_t ldc, const bool acc)
{
    int64_t n = 0;

    for (; n + 2 * SLC_VL <= N; n += 2 * SLC_VL)
        slc_column(2, M, K, a, ra, ca, b + n, ldb, c + n, ldc, acc);
    for (; n + SLC_VL <= N; n += SLC_VL)
        slc_column(1, M, K, a, ra, ca, b + n, ldb, c + n, ldc, acc);
    for (; n < N; n++)
        for (int64_t i = 0; i < M; i++) {
            float sum = acc ? c[i * ldc + n] : 0;

            for (int64_t k = 0; k < K; k++)
                sum += a[i * ra + k * ca] * b[k * ldb + n];
            c[i * ldc + n] = sum;
        }
}

/* t[k][i] = a[i][k]: a has `rows` rows of K at lda, t has rows at ldt, zero from `rows`
 * to the next multiple of 16. */
SLC_ALWAYS void slc_block_transpose(const float *a, int64_t lda, int64_t rows,
                                    int64_t K, float *t, int64_t ldt)
{
    const int64_t padded = (rows + 15) / 16 * 16;

    for (int64_t k = 0; k < K; k++) {
        for (int64_t i = 0; i < rows; i++)
            t[k * ldt + i] = a[i * lda + k];
        for (int64_t i = rows; i < padded; i++)
            t[k * ldt + i] = 0;
    }
}

/* Columns to compute so that whole vectors cover n. */
static inline int64_t slc_whole(int64_t n)
{
    return (n + SLC_VL - 1) / SLC_VL * SLC_VL;
}

#endif
