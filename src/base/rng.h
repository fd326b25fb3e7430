/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_RNG_H
#define SLC_BASE_RNG_H

#include <stdint.h>

/*
 * Counter-based random numbers (Philox 4x32-10, Salmon et al., SC'11): the
 * value is a pure function of (key, counter), so no generator state is saved
 * and nothing depends on rank or order. Streams keep uses apart.
 */
enum slc_rng_stream { SLC_RNG_INIT = 1, SLC_RNG_SAMPLER = 2, SLC_RNG_GENERATE = 3, SLC_RNG_TEST = 4,
    SLC_RNG_ROUND = 5 };

/* Four 32-bit words for counter (hi, lo) under `seed` and `stream`. */
void slc_rng_block(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo,
                   uint32_t out[4]);

/* One 64-bit word / a uniform double in [0, 1) / a standard normal (Box-Muller). */
uint64_t slc_rng_u64(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo);
double slc_rng_uniform(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo);
double slc_rng_normal(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo);

/* Standard normals in fp32 of the blocks of counters (hi, lo), (hi, lo + 1) and so on, four of
 * each (Box-Muller on words 0, 1 and on 2, 3): many at once, the same bits on every machine. */
enum { SLC_RNG_NORMALS = 256 };
void slc_rng_normals(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo,
                     float out[SLC_RNG_NORMALS]);

/* 64-bit hash of a byte string (FNV-1a, finalised): for keys, not for safety. */
uint64_t slc_hash64(const void *data, uint64_t len);

#endif
