/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_VEC_H
#define SLC_KERNELS_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

/*
 * Branch-free scalar functions that vectorise inside `#pragma omp simd` loops, and the
 * conversion of rows: kernels compute on fp32 rows; a bf16 row passes through a buffer.
 */

static inline float slc_float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t slc_bits_of(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, 4);
    return bits;
}

/*
 * e^x within 2e-7 relative; 0 below -87.3; x above 88.3 counts as 88.3; NaN stays NaN.
 * x = n ln2 + r, |r| <= ln2/2; e^r by its Taylor polynomial of degree 7.
 */
static inline float slc_exp(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const float low = -87.3f, high = 88.3f;
    float y = x < low ? low : x;

    y = y > high ? high : y;
    float t = y * 1.44269504f + magic;
    float n = t - magic;
    float r = y - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p *= slc_float_of((slc_bits_of(t) + 127u) << 23);
    return x < low ? 0.0f : p;
}

/*
 * Natural logarithm of a positive normal number within 2e-7 relative (absolute near 1);
 * 0 counts as the smallest one. x = 2^n m, m in [sqrt(1/2), sqrt(2));
 * ln m = 2 atanh((m - 1) / (m + 1)) by its series up to the ninth power.
 */
static inline float slc_log(float x)
{
    const uint32_t bits = slc_bits_of(x < 1.17549435e-38f ? 1.17549435e-38f : x);
    const int32_t n = (int32_t)(bits - 0x3f3504f3u) >> 23;
    const float m = slc_float_of(bits - ((uint32_t)n << 23));
    const float r = (m - 1.0f) / (m + 1.0f), r2 = r * r;
    const float p =
        r2 * (0.666666667f + r2 * (0.4f + r2 * (0.285714286f + r2 * 0.222222222f)));

    return (float)n * 0.693147181f + (2.0f * r + r * p);
}

/* Sine and cosine of an angle below 2^20, within 1e-7 absolute. */
static inline void slc_sincos(float angle, float *sine, float *cosine)
{
    const double magic = 6755399441055744.0; /* 1.5 * 2^52 */
    double t = (double)angle * 0.63661977236758134 + magic;
    double n = t - magic;
    float r = (float)((double)angle - n * 1.5707963267948966);
    float r2 = r * r;
    int32_t quarter = (int32_t)n;
    float s =
        r + r * r2 *
                (-1.66666667e-1f +
                 r2 * (8.33333333e-3f + r2 * (-1.98412698e-4f + r2 * 2.75573192e-6f)));
    float c = 1.0f +
              r2 * (-0.5f + r2 * (4.16666667e-2f +
                                  r2 * (-1.38888889e-3f +
                                        r2 * (2.48015873e-5f + r2 * -2.75573192e-7f))));
    float a = quarter & 1 ? c : s, b = quarter & 1 ? s : c;

    *sine = quarter & 2 ? -a : a;
    *cosine = (quarter + 1) & 2 ? -b : b;
}

static inline uint16_t slc_to_bf16(float f)
{
    uint32_t bits = slc_bits_of(f);
    uint32_t round = bits + 0x7fffu + ((bits >> 16) & 1u);

    return (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : round) >>
                      16);
}

/* Elements [at, at+n) of p as fp32: in place, or converted into buf. */
static inline const float *slc_in(const void *p, enum slc_dtype t, int64_t at,
                                  int64_t n, float *buf)
{
    if (t == SLC_F32)
        return (const float *)p + at;
    const uint16_t *x = (const uint16_t *)p + at;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        buf[i] = slc_float_of((uint32_t)x[i] << 16);
    return buf;
}

/* Where to write elements [at, ...) of p as fp32; slc_put must follow. */
static inline float *slc_out(void *p, enum slc_dtype t, int64_t at, float *buf)
{
    return t == SLC_F32 ? (float *)p + at : buf;
}

static inline void slc_put(void *p, enum slc_dtype t, int64_t at, int64_t n,
                           const float *buf)
{
    if (t == SLC_F32)
        return;
    uint16_t *y = (uint16_t *)p + at;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = slc_to_bf16(buf[i]);
}

/* fp32 values as they read back after being stored as t. */
static inline void slc_round(float *x, enum slc_dtype t, int64_t n)
{
    if (t == SLC_F32)
        return;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = slc_float_of((uint32_t)slc_to_bf16(x[i]) << 16);
}

static inline int64_t slc_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
