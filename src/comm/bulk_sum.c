/* SPDX-License-Identifier: Apache-2.0 */
/* The arithmetic and the copies of bulk.c. */
#include "comm/bulk_private.h"

#include <emmintrin.h>
#include <string.h>

#include "base/fail.h"

/* Vectors without alignment that may alias anything; the compiler cuts them to what the
 * instruction set has. */
typedef float v_f32 __attribute__((vector_size(64), aligned(4), may_alias));
typedef double v_f64 __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t v_i64 __attribute__((vector_size(64), aligned(8), may_alias));

#define DEFINE_SUM(type)                                                               \
    static void sum_##type(type *out, const char *const *x, int n_x, size_t n)         \
    {                                                                                  \
        const size_t width = sizeof(v_##type) / sizeof(type);                          \
        size_t j = 0;                                                                  \
                                                                                       \
        for (; j + width <= n; j += width) {                                           \
            v_##type acc = *(const v_##type *)(x[0] + j * sizeof(type));               \
                                                                                       \
            for (int m = 1; m < n_x; m++)                                              \
                acc += *(const v_##type *)(x[m] + j * sizeof(type));                   \
            *(v_##type *)(out + j) = acc;                                              \
        }                                                                              \
        for (; j < n; j++) {                                                           \
            type acc = ((const type *)(const void *)x[0])[j];                          \
                                                                                       \
            for (int m = 1; m < n_x; m++)                                              \
                acc += ((const type *)(const void *)x[m])[j];                          \
            out[j] = acc;                                                              \
        }                                                                              \
    }
typedef float f32;
typedef double f64;
typedef int64_t i64;
DEFINE_SUM(f32)
DEFINE_SUM(f64)
DEFINE_SUM(i64)

void slc_bulk_sum(enum slc_dtype dtype, void *out, const char *const *x, int n_x,
                  size_t n)
{
    if (dtype == SLC_F32)
        sum_f32(out, x, n_x, n);
    else if (dtype == SLC_F64)
        sum_f64(out, x, n_x, n);
    else if (dtype == SLC_I64)
        sum_i64(out, x, n_x, n);
    else
        SLC_BUG("no sum of %s over ranks", slc_dtype_name(dtype));
}

void slc_bulk_copy_past_cache(char *dst, const char *src, size_t bytes)
{
    size_t head = -(uintptr_t)dst & 15, i;

    head = head < bytes ? head : bytes;
    memcpy(dst, src, head);
    for (i = head; i + 64 <= bytes; i += 64) {
        const __m128i *s = (const __m128i *)(const void *)(src + i);
        __m128i *d = (__m128i *)(void *)(dst + i);
        __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1),
                c = _mm_loadu_si128(s + 2), e = _mm_loadu_si128(s + 3);

        _mm_stream_si128(d, a);
        _mm_stream_si128(d + 1, b);
        _mm_stream_si128(d + 2, c);
        _mm_stream_si128(d + 3, e);
    }
    memcpy(dst + i, src + i, bytes - i);
    _mm_sfence();
}
