/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/rng.h"

/* RFC 3720 B.4 and the usual check value. */
Test(crc, published_values)
{
    unsigned char b[32];

    cr_assert_eq(slc_crc32c(0, "123456789", 9), 0xe3069283u);
    memset(b, 0, 32);
    cr_assert_eq(slc_crc32c(0, b, 32), 0x8a9136aau);
    memset(b, 0xff, 32);
    cr_assert_eq(slc_crc32c(0, b, 32), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        b[i] = (unsigned char)i;
    cr_assert_eq(slc_crc32c(0, b, 32), 0x46dd794eu);
    cr_assert_eq(slc_crc32c(0, b, 0), 0u);
}

Test(crc, in_parts_and_combined)
{
    size_t n = 70000;
    unsigned char *b = malloc(n);

    cr_assert(b);
    for (size_t i = 0; i < n; i++)
        b[i] = (unsigned char)slc_rng_u64(1, SLC_RNG_TEST, 0, i);
    uint32_t whole = slc_crc32c(0, b, n);
    size_t cuts[] = {0, 1, 2, 7, 8, 255, 4096, 65537, n - 1, n};
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
        size_t k = cuts[i];
        uint32_t a = slc_crc32c(0, b, k), z = slc_crc32c(0, b + k, n - k);
        cr_assert_eq(slc_crc32c(a, b + k, n - k), whole, "cut at %zu", k);
        cr_assert_eq(slc_crc32c_combine(a, z, n - k), whole, "cut at %zu", k);
    }
    free(b);
}
