/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_LANES_H
#define SLC_KERNELS_CPU_LANES_H

#include <stdint.h>

/*
 * Vectors as wide as the instruction set has them. Sums over a row are written with
 * them because the compiler adds the lanes of a reduction one after the other: for a
 * head of 32 elements that chain takes longer than everything else.
 */
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define SLC_VL 16
#elif defined(__AVX2__)
#define SLC_VL 8
#else
#define SLC_VL 4
#endif

/* Loads and stores need no alignment. */
typedef float slc_vec __attribute__((vector_size(4 * SLC_VL), aligned(4), may_alias));

static inline float slc_lanes_sum(slc_vec v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v),
                          _mm256_extractf128_ps((__m256)v, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

static inline float slc_sum(const float *x, int64_t n)
{
    slc_vec s = {0};
    int64_t i = 0;

    for (; i + SLC_VL <= n; i += SLC_VL)
        s += *(const slc_vec *)(x + i);
    float sum = slc_lanes_sum(s);
    for (; i < n; i++)
        sum += x[i];
    return sum;
}

static inline float slc_dot(const float *x, const float *y, int64_t n)
{
    slc_vec s = {0};
    int64_t i = 0;

    for (; i + SLC_VL <= n; i += SLC_VL)
        s += *(const slc_vec *)(x + i) * *(const slc_vec *)(y + i);
    float sum = slc_lanes_sum(s);
    for (; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

#endif
