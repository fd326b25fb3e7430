/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_STREAM_H
#define SLC_KERNELS_CPU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <immintrin.h>
#endif

/*
 * Stores past the caches, for outputs so large that no line would still be there when it
 * is read: a plain store first reads the line from memory, half as much traffic again. An
 * op that used slc_stream calls slc_stream_end on the same thread before it ends, so that
 * a flag set afterwards is seen after the rows.
 */

/* An output of so many bytes and more is streamed: several times a core's second-level
 * cache, a fair share of the third. */
#define SLC_STREAM_BYTES (4 << 20)

/* Copy, dst past the caches where it is aligned to a line. */
static inline void slc_stream(void *dst, const void *src, size_t bytes)
{
    char *d = dst;
    const char *s = src;
    size_t at = 0;

    if ((uintptr_t)d % 64 == 0) {
#if defined(__AVX512F__)
        for (; at + 64 <= bytes; at += 64)
            _mm512_stream_si512((void *)(d + at), _mm512_loadu_si512(s + at));
#elif defined(__AVX__)
        for (; at + 64 <= bytes; at += 64) {
            _mm256_stream_si256((void *)(d + at), _mm256_loadu_si256((const void *)(s + at)));
            _mm256_stream_si256((void *)(d + at + 32),
                                _mm256_loadu_si256((const void *)(s + at + 32)));
        }
#elif defined(__SSE2__)
        for (; at + 64 <= bytes; at += 64)
            for (size_t i = 0; i < 64; i += 16)
                _mm_stream_si128((void *)(d + at + i),
                                 _mm_loadu_si128((const void *)(s + at + i)));
#endif
    }
    memcpy(d + at, s + at, bytes - at);
}

static inline void slc_stream_end(void)
{
#ifdef __SSE2__
    _mm_sfence();
#endif
}

/* Ask for a line. Not by __builtin_prefetch: the compiler takes a function that does nothing
 * else for one that does nothing, and leaves out its calls. */
static inline void slc_prefetch(const void *line)
{
#ifdef __x86_64__
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line);
#endif
}

/* Ask for the start of a row that is read or written soon: neither the prefetchers nor the
 * address translation of a core look past the page they are on. */
static inline void slc_fetch_ahead(const void *row, size_t bytes)
{
    for (size_t at = 0; at < bytes && at < 512; at += 64)
        slc_prefetch((const char *)row + at);
}

/* slc_stream, or a plain copy. */
static inline void slc_store(void *dst, const void *src, size_t bytes, bool stream)
{
    if (stream)
        slc_stream(dst, src, bytes);
    else
        memcpy(dst, src, bytes);
}

/*
 * Small outputs that follow one another, written together: into memory whose lines another
 * core has, one copy of some pages is much quicker than as many stores of a row, and than
 * copies of a row each. Belongs to one thread.
 */
struct slc_batch {
    char *to; /* where the first byte goes */
    size_t held;
    char bytes[16 << 10] __attribute__((aligned(64)));
};

static inline void slc_batch_begin(struct slc_batch *b)
{
    b->to = NULL;
    b->held = 0;
}

static inline void slc_batch_end(struct slc_batch *b)
{
    if (b->held > 0)
        memcpy(b->to, b->bytes, b->held);
    b->held = 0;
}

/* Where to put the bytes, at most 16 KiB, that go to `to`: until the next call. */
static inline void *slc_batch_take(struct slc_batch *b, char *to, size_t bytes)
{
    char *at;

    if (to != b->to + b->held || b->held + bytes > sizeof(b->bytes))
        slc_batch_end(b);
    if (b->held == 0)
        b->to = to;
    at = b->bytes + b->held;
    b->held += bytes;
    return at;
}

#endif
