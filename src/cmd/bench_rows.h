/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_BENCH_ROWS_H
#define SLC_CMD_BENCH_ROWS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/*
 * What surrounds an exchange in `sluice bench dispatch`, and in its peer under
 * benchmarks/peers, which includes this file so that both do the same work: routing,
 * producing rows, and reading them with a sum that can be checked. Depends on nothing.
 *
 * Values are whole numbers small enough that every sum below is exact in any order, also
 * for rows of bf16.
 */
#ifdef __x86_64__
#define BENCH_LOOP __attribute__((noinline, unused, target_clones("avx512f", "avx2", "default")))
#else
#define BENCH_LOOP __attribute__((noinline, unused))
#endif

struct bench_case {
    int64_t T, H, E, K; /* tokens of a rank, elements of a row, experts, experts a token */
    bool bf16, skew;    /* skew: half of all tokens go to expert 0 */
};

static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ids [T, K] ascending of one rank's tokens. Even: uniform draws of K different experts.
 * Skewed: expert 0 for every second token and for no other. */
static inline void bench_route(const struct bench_case *c, int rank, int32_t *ids)
{
    uint64_t state = 0x5eed + (uint64_t)rank * 0x10001;

    for (int64_t t = 0; t < c->T; t++) {
        int32_t *own = ids + t * c->K;
        int64_t n = 0;

        if (c->skew && t % 2 == 0)
            own[n++] = 0;
        while (n < c->K) {
            const int32_t low = c->skew ? 1 : 0;
            const int32_t id =
                low + (int32_t)(bench_random(&state) % (uint64_t)(c->E - low));
            int64_t at = n;

            while (at > 0 && own[at - 1] > id)
                at--;
            if (at > 0 && own[at - 1] == id)
                continue;
            memmove(own + at + 1, own + at, (size_t)(n - at) * sizeof(*own));
            own[at] = id;
            n++;
        }
    }
}

/* Tokens of a rank such that its records, one per (token, rank of `ranks`), have about
 * `bytes` bytes of rows under even routing. */
static inline int64_t bench_tokens(const struct bench_case *c, int ranks, int64_t bytes)
{
    double records = 0, row = (double)c->H * (c->bf16 ? 2 : 4);

    for (int r = 0; r < ranks; r++) {
        const int64_t own = ((r + 1) * c->E + ranks - 1) / ranks - (r * c->E + ranks - 1) / ranks;
        double miss = 1;

        for (int64_t k = 0; k < c->K; k++)
            miss *= c->E - own - k > 0 ? (double)(c->E - own - k) / (double)(c->E - k) : 0;
        records += 1 - miss;
    }
    const int64_t T = (int64_t)((double)bytes / row / records + 0.5);
    return T > 0 ? T : 1;
}

static inline int bench_iterations(int64_t bytes)
{
    const int64_t n = (int64_t)(384 << 20) / bytes;

    return n < 8 ? 8 : n > 400 ? 400 : (int)n;
}

/* Element j of a row with this key: (key + j) mod `mod`, mod a power of two <= 256. */
BENCH_LOOP static void bench_row_f32(float *p, int64_t n, uint32_t key, uint32_t mod)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        p[j] = (float)(int32_t)((key + (uint32_t)j) & (mod - 1));
}
BENCH_LOOP static void bench_row_bf16(uint16_t *p, int64_t n, uint32_t key, uint32_t mod)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float v = (float)(int32_t)((key + (uint32_t)j) & (mod - 1));
        uint32_t bits;

        memcpy(&bits, &v, 4);
        p[j] = (uint16_t)(bits >> 16);
    }
}
/* Sums of 64 neighbours apart: one sum alone waits for each addition, and rows in a cache
 * are read no faster than that. */
BENCH_LOOP static double bench_sum_f32(const float *p, int64_t n)
{
    typedef float lanes __attribute__((vector_size(64), aligned(4)));
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    float s = 0;
    int64_t j = 0;

    for (; j + 64 <= n; j += 64) {
        const lanes *at = (const void *)(p + j);

        a += at[0];
        b += at[1];
        c += at[2];
        d += at[3];
    }
    for (; j < n; j++)
        s += p[j];
    for (int i = 0; i < 16; i++)
        s += a[i] + b[i] + c[i] + d[i];
    return s;
}
BENCH_LOOP static double bench_sum_bf16(const uint16_t *p, int64_t n)
{
    float s = 0;

#pragma omp simd reduction(+ : s)
    for (int64_t j = 0; j < n; j++) {
        const uint32_t bits = (uint32_t)p[j] << 16;
        float v;

        memcpy(&v, &bits, 4);
        s += v;
    }
    return s;
}
static inline void bench_row(const struct bench_case *c, void *p, uint32_t key, uint32_t mod)
{
    if (c->bf16)
        bench_row_bf16(p, c->H, key, mod);
    else
        bench_row_f32(p, c->H, key, mod);
}
static inline double bench_sum(const struct bench_case *c, const void *p)
{
    return c->bf16 ? bench_sum_bf16(p, c->H) : bench_sum_f32(p, c->H);
}

/* Ask for the start of a row that is read next, as a good reader of scattered rows does. */
static inline void bench_ahead(const void *row)
{
    for (int i = 0; i < 512; i += 64)
        __builtin_prefetch((const char *)row + i);
}

/* Token rows of an iteration, x [T, H]. */
#define BENCH_TOKEN_MOD 256
static inline uint32_t bench_token_key(int rank, int64_t t, int iteration)
{
    return (uint32_t)(rank * 37 + t * 5 + iteration * 11);
}
static inline void bench_produce_tokens(const struct bench_case *c, int rank, int iteration,
                                        void *x)
{
    const size_t row = (size_t)c->H * (c->bf16 ? 2 : 4);

    for (int64_t t = 0; t < c->T; t++)
        bench_row(c, (char *)x + (size_t)t * row, bench_token_key(rank, t, iteration),
                  BENCH_TOKEN_MOD);
}
/* Results of an expert: every row of expert e in an iteration is the same. */
#define BENCH_RESULT_MOD 16
static inline uint32_t bench_result_key(int64_t expert, int iteration)
{
    return (uint32_t)(expert * 3 + iteration);
}
/* Router weight of every choice: the sum of K rows keeps few bits if K is 2, 4 or 8. */
static inline float bench_weight(const struct bench_case *c)
{
    return 1.0f / (float)c->K;
}

/* Sum over 0 <= j < n of (key + j) mod `mod`. */
static inline double bench_expected_row(int64_t n, uint32_t key, uint32_t mod)
{
    double s = 0;

    for (int64_t j = 0; j < n; j++)
        s += (double)((key + (uint32_t)j) & (mod - 1));
    return s;
}
/* What all ranks together must have read in an iteration: rows on the way there, each
 * times (expert + 1), so that a row at the wrong expert shows, and on the way back. */
static inline void bench_expected(const struct bench_case *c, int ranks, int iteration,
                                  double *there, double *back)
{
    int32_t *ids = malloc((size_t)(c->T * c->K) * sizeof(*ids));
    double token[BENCH_TOKEN_MOD], *result = malloc((size_t)c->E * sizeof(*result));

    *there = *back = 0;
    if (!ids || !result)
        abort();
    for (uint32_t i = 0; i < BENCH_TOKEN_MOD; i++)
        token[i] = bench_expected_row(c->H, i, BENCH_TOKEN_MOD);
    for (int64_t i = 0; i < c->E; i++)
        result[i] = bench_expected_row(c->H, bench_result_key(i, iteration), BENCH_RESULT_MOD);
    for (int r = 0; r < ranks; r++) {
        bench_route(c, r, ids);
        for (int64_t t = 0; t < c->T; t++)
            for (int64_t k = 0; k < c->K; k++) {
                const int32_t id = ids[t * c->K + k];

                *there += (id + 1) *
                          token[bench_token_key(r, t, iteration) % BENCH_TOKEN_MOD];
                *back += result[id] / (double)c->K;
            }
    }
    free(result);
    free(ids);
}

#endif
