/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_BLOCK_H
#define SLC_KERNELS_CPU_BLOCK_H

#include <stdbool.h>

#include "kernels/cpu/lanes.h"

/*
 * Products of small blocks, for attention: oneDNN needs about a microsecond a call, as
 * long as such a block takes. Sums run over k in ascending order in one accumulator.
 *
 * An operand is made of words of 32 bits: an fp32, or, where the CPU multiplies bf16
 * (`pair`), two bf16 neighbours along K, the lower k in the lower half. K counts words.
 */
#if defined(__AVX512F__)
#define SLC_MR 8
#else
#define SLC_MR 6
#endif
#ifdef __AVX512BF16__
#define SLC_PAIRS 1
#else
#define SLC_PAIRS 0
#endif

#define SLC_ALWAYS static inline __attribute__((always_inline))

/* s + x * v, x of every lane the same. */
SLC_ALWAYS slc_vec slc_multiply(const bool pair, slc_vec s, float x, slc_vec v)
{
#ifdef __AVX512BF16__
    if (pair)
        return (slc_vec)_mm512_dpbf16_ps((__m512)s, (__m512bh)_mm512_set1_ps(x),
                                         (__m512bh)(__m512)v);
#endif
    (void)pair;
    return s + x * v;
}

/* mr rows by nv vectors of C, kept in registers. */
SLC_ALWAYS void slc_tile(const int mr, const int nv, int64_t K, const float *a,
                         int64_t ra, int64_t ca, const float *b, int64_t ldb, float *c,
                         int64_t ldc, const bool acc, const bool pair)
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
                s[i][j] = slc_multiply(pair, s[i][j], x[i * ra], v[j]);
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
                           float *c, int64_t ldc, const bool acc, const bool pair)
{
    int64_t i = 0;

    for (; i + SLC_MR <= M; i += SLC_MR)
        slc_tile(SLC_MR, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc, pair);
    for (; i + 4 <= M; i += 4)
        slc_tile(4, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc, pair);
    for (; i < M; i++)
        slc_tile(1, nv, K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, acc, pair);
}

/*
 * C[M,N] (+)= A[M,K] B[K,N]; A(i,k) = a[i*ra + k*ca], B and C have rows at ldb and ldc.
 * N is a multiple of SLC_VL: buffers have room for whole vectors. Not inlined: the code
 * of one product is several KiB.
 */
#define SLC_BLOCK_PRODUCT(name, acc, pair)                                             \
    __attribute__((unused, noinline)) static void name(                                \
        int64_t M, int64_t N, int64_t K, const float *a, int64_t ra, int64_t ca,       \
        const float *b, int64_t ldb, float *c, int64_t ldc)                            \
    {                                                                                  \
        int64_t n = 0;                                                                 \
                                                                                       \
        for (; n + 2 * SLC_VL <= N; n += 2 * SLC_VL)                                   \
            slc_column(2, M, K, a, ra, ca, b + n, ldb, c + n, ldc, acc, pair);         \
        if (n < N)                                                                     \
            slc_column(1, M, K, a, ra, ca, b + n, ldb, c + n, ldc, acc, pair);         \
    }
SLC_BLOCK_PRODUCT(slc_block_set, false, false)
SLC_BLOCK_PRODUCT(slc_block_add, true, false)
#if SLC_PAIRS
SLC_BLOCK_PRODUCT(slc_block_set_pairs, false, true)
SLC_BLOCK_PRODUCT(slc_block_add_pairs, true, true)
#endif

SLC_ALWAYS void slc_block_product(int64_t M, int64_t N, int64_t K, const float *a,
                                  int64_t ra, int64_t ca, const float *b, int64_t ldb,
                                  float *c, int64_t ldc, const bool acc, const bool pair)
{
#if SLC_PAIRS
    if (pair) {
        (acc ? slc_block_add_pairs : slc_block_set_pairs)(M, N, K, a, ra, ca, b, ldb, c,
                                                          ldc);
        return;
    }
#endif
    (void)pair;
    (acc ? slc_block_add : slc_block_set)(M, N, K, a, ra, ca, b, ldb, c, ldc);
}

#if defined(__AVX512F__)
/* 16 x 16 words: pairs of rows, then of pairs, then quarters of vectors change places. */
static inline void slc_transpose16(const float *a, int64_t lda, float *t, int64_t ldt)
{
    __m512 r[16], s[16];

#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_ps(a + i * lda);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        s[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm512_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm512_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm512_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_ps(t + i * ldt, _mm512_shuffle_f32x4(s[i], s[i + 8], 0x88));
        _mm512_storeu_ps(t + (i + 8) * ldt, _mm512_shuffle_f32x4(s[i], s[i + 8], 0xdd));
    }
}
#endif

/*
 * t[k][i] = a[i][k] for words: a has `rows` rows of K at lda, t has rows at ldt, zero from
 * `rows` to the next multiple of 16.
 */
static inline void slc_block_transpose(const float *a, int64_t lda, int64_t rows,
                                       int64_t K, float *t, int64_t ldt)
{
    const int64_t padded = (rows + 15) / 16 * 16;
    int64_t whole_rows = 0, whole = 0;

#if defined(__AVX512F__)
    whole_rows = rows / 16 * 16;
    whole = K / 16 * 16;
    for (int64_t i = 0; i < whole_rows; i += 16)
        for (int64_t k = 0; k < whole; k += 16)
            slc_transpose16(a + i * lda + k, lda, t + k * ldt + i, ldt);
#endif
    for (int64_t k = 0; k < K; k++) {
        for (int64_t i = k < whole ? whole_rows : 0; i < rows; i++)
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
