/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"

/* Random123's kat_vectors, philox4x32 of 10 rounds: the key is seed ^ stream * golden ratio. */
Test(rng, published_values)
{
    const uint64_t stream = SLC_RNG_TEST * 0x9E3779B97F4A7C15u;
    const struct {
        uint64_t key, hi, lo;
        uint32_t want[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        uint32_t got[4];

        slc_rng_block(known[i].key ^ stream, SLC_RNG_TEST, known[i].hi, known[i].lo, got);
        cr_assert(!memcmp(got, known[i].want, sizeof(got)), "vector %zu", i);
    }
}

/* Many at once against the C library's logarithm, sine and cosine: one rounding to fp32. */
Test(rng, normals)
{
    const uint64_t los[] = {0, 7, 0xffffffe0, 0xffffffffffffffe0};
    double sum = 0, squares = 0;
    int n = 0;

    for (uint64_t start = 0; start < 1000 * 64; start += 64) {
        const uint64_t lo = start / 64 < 4 ? los[start / 64] : start * 3;
        float z[SLC_RNG_NORMALS];

        slc_rng_normals(5, SLC_RNG_TEST, start, lo, z);
        for (int i = 0; i < SLC_RNG_NORMALS; i += 2, n += 2) {
            uint32_t u[4];

            slc_rng_block(5, SLC_RNG_TEST, start, lo + (uint64_t)i / 4, u);
            const uint32_t *w = u + i % 4;
            const double r = sqrt(-2 * log((w[0] + 1.0) * 0x1p-32));
            const double a = 6.283185307179586476925 * 0x1p-32 * w[1];
            const double x = r * cos(a), y = r * sin(a);

            cr_assert(fabs(z[i] - x) <= 6e-8 * fabs(x) + 1e-12, "%.9g, not %.9g", z[i], x);
            cr_assert(fabs(z[i + 1] - y) <= 6e-8 * fabs(y) + 1e-12, "%.9g, not %.9g",
                      z[i + 1], y);
            sum += x + y;
            squares += x * x + y * y;
        }
    }
    cr_assert(fabs(sum / n) < 5 / sqrt(n) && fabs(squares / n - 1) < 5 * sqrt(2.0 / n),
              "mean %g, mean square %g", sum / n, squares / n);
}

/* Every instruction set gives these bits: what a model starts from does not change. */
Test(rng, normals_keep_their_bits)
{
    float z[SLC_RNG_NORMALS];
    uint64_t all = 0;

    for (uint64_t i = 0; i < 4096; i++) {
        slc_rng_normals(i, SLC_RNG_INIT, i * i, i << 20, z);
        all = all * 0x9E3779B97F4A7C15u + slc_hash64(z, sizeof(z));
    }
    cr_assert_eq(all, 0x5090b9778181faa7u, "%#llx", (unsigned long long)all);
}
