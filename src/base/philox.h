/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_PHILOX_H
#define SLC_BASE_PHILOX_H

#include <stdint.h>

#include "base/rng.h"

/* The parts of Philox 4x32-10 (Salmon et al., SC'11), for one counter or for many. */
#define SLC_PHILOX_ROUNDS 10

static inline uint64_t slc_rng_key(uint64_t seed, enum slc_rng_stream stream)
{
    return seed ^ ((uint64_t)stream * 0x9E3779B97F4A7C15u);
}

static inline void slc_philox_round(uint32_t *c0, uint32_t *c1, uint32_t *c2, uint32_t *c3,
                                    uint32_t k0, uint32_t k1)
{
    const uint64_t p0 = (uint64_t)0xD2511F53u * *c0, p1 = (uint64_t)0xCD9E8D57u * *c2;

    *c0 = (uint32_t)(p1 >> 32) ^ *c1 ^ k0;
    *c1 = (uint32_t)p1;
    *c2 = (uint32_t)(p0 >> 32) ^ *c3 ^ k1;
    *c3 = (uint32_t)p0;
}

static inline void slc_philox_next(uint32_t *k0, uint32_t *k1)
{
    *k0 += 0x9E3779B9u;
    *k1 += 0xBB67AE85u;
}

#endif
