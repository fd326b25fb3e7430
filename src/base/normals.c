/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <math.h>
#include <string.h>

#include "base/philox.h"

/*
 * Billions of standard normals are drawn before a first step. Plain arithmetic in double, where
 * every product with a sum is an fma by name, so that each instruction set gives the same bits;
 * the polynomials are exact to 1e-13, and what is returned is fp32. Loops become vectors only
 * where errno is not asked for (-fno-math-errno, in Makemodule.am) and all is inlined.
 */
#define INLINE static inline __attribute__((always_inline))

INLINE double as_double(uint64_t bits)
{
    double d;

    memcpy(&d, &bits, sizeof(d));
    return d;
}

INLINE uint64_t as_bits(double d)
{
    uint64_t bits;

    memcpy(&bits, &d, sizeof(bits));
    return bits;
}

/* A whole number below 2^32 as a double, by the bits of 2^52 + n. */
INLINE double whole(uint64_t n)
{
    return as_double(0x4330000000000000u | n) - 0x1p52;
}

/* ln((u + 1) / 2^32): of the exponent, and of a mantissa y near 1 by the series of
 * 2 artanh((y - 1) / (y + 1)). */
INLINE double log_of(uint32_t u)
{
    const uint64_t bits = as_bits(whole(u) + 1);
    const double m = as_double((bits & 0xfffffffffffffu) | 0x3ff0000000000000u);
    const double e = whole(bits >> 52) - (1023 + 32);
    const int high = m > 1.4142135623730951;
    const double y = high ? 0.5 * m : m, k = high ? e + 1 : e;
    const double s = (y - 1) / (y + 1), t = s * s;
    double p = 2.0 / 15;

    p = fma(p, t, 2.0 / 13);
    p = fma(p, t, 2.0 / 11);
    p = fma(p, t, 2.0 / 9);
    p = fma(p, t, 2.0 / 7);
    p = fma(p, t, 2.0 / 5);
    p = fma(p, t, 2.0 / 3);
    p = fma(p, t, 2.0);
    return fma(k, 0.69314718055994530942, s * p);
}

/* Box-Muller: x, y = sqrt(-2 ln((u + 1) / 2^32)) (cos, sin)(2 pi v / 2^32). The angle is a
 * quarter of a turn, k of them, and a rest of at most an eighth. */
INLINE void box_muller(uint32_t u, uint32_t v, float *x, float *y)
{
    const double r = sqrt(-2 * log_of(u));
    const uint32_t k = (v + 0x20000000u) >> 30;
    const double a = (int32_t)(v - (k << 30)) * (6.283185307179586476925 * 0x1p-32);
    const double t = a * a;
    double s = 1.0 / 6227020800, c = -1.0 / 87178291200;

    s = fma(s, t, -1.0 / 39916800);
    s = fma(s, t, 1.0 / 362880);
    s = fma(s, t, -1.0 / 5040);
    s = fma(s, t, 1.0 / 120);
    s = fma(s, t, -1.0 / 6);
    s = fma(s * t, a, a);
    c = fma(c, t, 1.0 / 479001600);
    c = fma(c, t, -1.0 / 3628800);
    c = fma(c, t, 1.0 / 40320);
    c = fma(c, t, -1.0 / 720);
    c = fma(c, t, 1.0 / 24);
    c = fma(c, t, -0.5);
    c = fma(c, t, 1.0);
    const double cos_a = k & 1 ? s : c, sin_a = k & 1 ? c : s;
    *x = (float)((k + 1) & 2 ? -(r * cos_a) : r * cos_a);
    *y = (float)(k & 2 ? -(r * sin_a) : r * sin_a);
}

INLINE void draw(uint64_t key, uint64_t hi, uint64_t lo, float out[SLC_RNG_NORMALS])
{
    enum { BLOCKS = SLC_RNG_NORMALS / 4 };
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];

    for (int i = 0; i < BLOCKS; i++) {
        c0[i] = (uint32_t)(lo + (uint64_t)i);
        c1[i] = (uint32_t)((lo + (uint64_t)i) >> 32);
        c2[i] = (uint32_t)hi;
        c3[i] = (uint32_t)(hi >> 32);
    }
    for (int r = 0; r < SLC_PHILOX_ROUNDS; r++) {
        for (int i = 0; i < BLOCKS; i++)
            slc_philox_round(&c0[i], &c1[i], &c2[i], &c3[i], k0, k1);
        slc_philox_next(&k0, &k1);
    }
#pragma omp simd
    for (int i = 0; i < BLOCKS; i++) {
        box_muller(c0[i], c1[i], out + 4 * i, out + 4 * i + 1);
        box_muller(c2[i], c3[i], out + 4 * i + 2, out + 4 * i + 3);
    }
}

#ifdef __x86_64__
__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))) static void
draw_avx512(uint64_t key, uint64_t hi, uint64_t lo, float out[SLC_RNG_NORMALS])
{
    draw(key, hi, lo, out);
}

__attribute__((target("avx2,fma"))) static void
draw_avx2(uint64_t key, uint64_t hi, uint64_t lo, float out[SLC_RNG_NORMALS])
{
    draw(key, hi, lo, out);
}
#endif

void slc_rng_normals(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo,
                     float out[SLC_RNG_NORMALS])
{
    const uint64_t key = slc_rng_key(seed, stream);

#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        draw_avx512(key, hi, lo, out);
        return;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        draw_avx2(key, hi, lo, out);
        return;
    }
#endif
    draw(key, hi, lo, out);
}
