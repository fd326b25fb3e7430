/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"
#include "data/sampler_private.h"

#define ROUNDS 6

/*
 * A Feistel network permutes the 2^(2h) numbers of two h-bit halves; walking on while the
 * result is outside 0..n-1 restricts it to a permutation of those (Black and Rogaway
 * 2002, "Ciphers with arbitrary finite domains"). h is the least with 2^(2h) >= n, so a
 * walk takes less than four turns on average.
 */
int64_t slc_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i)
{
    int half = 1;

    while (half < 31 && ((int64_t)1 << (2 * half)) < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t r = 0; r < ROUNDS; r++) {
            uint64_t f = slc_rng_u64(seed, SLC_RNG_SAMPLER, epoch, r << 32 | right);
            uint64_t next = left ^ (f & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}
