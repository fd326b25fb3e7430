/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include <math.h>

#include "base/philox.h"

void slc_rng_block(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo,
                   uint32_t out[4])
{
    const uint64_t key = slc_rng_key(seed, stream);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    out[0] = (uint32_t)lo;
    out[1] = (uint32_t)(lo >> 32);
    out[2] = (uint32_t)hi;
    out[3] = (uint32_t)(hi >> 32);
    for (int r = 0; r < SLC_PHILOX_ROUNDS; r++) {
        slc_philox_round(&out[0], &out[1], &out[2], &out[3], k0, k1);
        slc_philox_next(&k0, &k1);
    }
}

uint64_t slc_rng_u64(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo)
{
    uint32_t b[4];

    slc_rng_block(seed, stream, hi, lo, b);
    return ((uint64_t)b[1] << 32) | b[0];
}

static double unit(uint32_t a, uint32_t b)
{
    uint64_t bits = ((uint64_t)a << 32) | b;

    return (double)(bits >> 11) * 0x1.0p-53;
}

double slc_rng_uniform(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo)
{
    uint32_t b[4];

    slc_rng_block(seed, stream, hi, lo, b);
    return unit(b[0], b[1]);
}

double slc_rng_normal(uint64_t seed, enum slc_rng_stream stream, uint64_t hi, uint64_t lo)
{
    uint32_t b[4];

    slc_rng_block(seed, stream, hi, lo, b);
    double u = 1.0 - unit(b[0], b[1]); /* (0, 1]: the logarithm is finite */
    double v = unit(b[2], b[3]);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

uint64_t slc_hash64(const void *data, uint64_t len)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;

    for (uint64_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 33;
    return h;
}
