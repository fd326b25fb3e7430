/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "moe/plan.h"
#include "moe/shape.h"

struct plans {
    struct slc_plan p[8];
    void *memory;
};

static void make_all(struct plans *all, int R, const int32_t *counts, int64_t ld,
                     int64_t cap)
{
    struct slc_arena a;

    slc_arena_measure(&a);
    for (int r = 0; r < R; r++)
        slc_plan_carve(&all->p[r], R, &a);
    all->memory = aligned_alloc(256, (slc_arena_size(&a) + 255) / 256 * 256);
    slc_arena_carve(&a, all->memory);
    for (int r = 0; r < R; r++) {
        slc_plan_carve(&all->p[r], R, &a);
        slc_plan_make(&all->p[r], counts, ld, r, cap);
    }
}

Test(moe_plan, by_hand)
{
    /* Two ranks, window of 4: 3 + 2 records for rank 0, 1 + 6 for rank 1. */
    const int32_t counts[] = {3, 1, 99, 2, 6, 99};
    struct plans all;
    struct slc_span s;

    make_all(&all, 2, counts, 3, 4);
    cr_expect_eq(all.p[0].rounds, 2);
    cr_expect_eq(all.p[1].rounds, 2);
    s = slc_plan_to(&all.p[1], 0,
                    0); /* numbers 3, 4 at rank 0: one row left in round 0 */
    cr_expect(s.first == 0 && s.count == 1 && s.row == 3);
    s = slc_plan_to(&all.p[1], 0, 1);
    cr_expect(s.first == 1 && s.count == 1 && s.row == 0);
    s = slc_plan_from(&all.p[1], 1, 0); /* numbers 1..6 at rank 1 */
    cr_expect(s.first == 0 && s.count == 3 && s.row == 1);
    s = slc_plan_from(&all.p[1], 0, 1);
    cr_expect(s.count == 0);
    cr_expect_eq(slc_plan_rows(&all.p[0], 0), 4);
    cr_expect_eq(slc_plan_rows(&all.p[0], 1), 1);
    cr_expect_eq(slc_plan_rows(&all.p[1], 1), 3);
    cr_expect_eq(all.p[1].home[1], 2);
    cr_expect_eq(all.p[1].away[0], 3);
    cr_expect_eq(all.p[1].away[1], 2);
    free(all.memory);
}

/* Every record has exactly one place in a window and one in a combine window, both
 * sides agree on it, and no place is used twice. */
static void check_random(uint64_t seed, int R, int64_t cap)
{
    int32_t counts[8 * 10] = {0};
    struct plans all;

    for (int s = 0; s < R; s++)
        for (int d = 0; d < R; d++)
            if (slc_rng_uniform(seed, SLC_RNG_TEST, 1, (uint64_t)(s * R + d)) < 0.7)
                counts[s * (R + 2) + d] = (int32_t)(slc_rng_u64(seed, SLC_RNG_TEST, 2,
                                                                (uint64_t)(s * R + d)) %
                                                    9);
    make_all(&all, R, counts, R + 2, cap);
    for (int d = 0; d < R; d++) {
        int32_t seen[8] = {0}, total = 0;

        for (int j = 0; j < all.p[d].rounds; j++) {
            char used[64] = {0};
            int32_t rows = 0;

            for (int s = 0; s < R; s++) {
                struct slc_span to = slc_plan_to(&all.p[s], d, j);
                struct slc_span from = slc_plan_from(&all.p[d], s, j);

                cr_assert_eq(memcmp(&to, &from, sizeof(to)), 0);
                if (to.count == 0)
                    continue;
                cr_assert_eq(to.first, seen[s], "records of a source stay in order");
                seen[s] += to.count;
                rows += to.count;
                for (int i = 0; i < to.count; i++) {
                    cr_assert(to.row + i < cap && !used[to.row + i]);
                    used[to.row + i] = 1;
                }
            }
            cr_assert_eq(rows, slc_plan_rows(&all.p[d], j));
            total += rows;
        }
        cr_assert_eq(total, all.p[d].total[d]);
        for (int s = 0; s < R; s++) {
            cr_assert_eq(seen[s], counts[s * (R + 2) + d]);
            cr_assert_eq(all.p[s].home[d], all.p[d].away[s]);
            cr_assert_eq(all.p[s].home[d + 1] - all.p[s].home[d], seen[s]);
        }
        cr_assert_eq(all.p[d].rounds, all.p[0].rounds);
    }
    free(all.memory);
}

Test(moe_plan, places_every_record_once)
{
    for (uint64_t seed = 0; seed < 300; seed++)
        for (int R = 1; R <= 8; R++)
            check_random(seed, R, 1 + (int64_t)(seed % 20));
}

Test(moe_plan, nothing_to_send_is_one_round)
{
    const int32_t counts[9] = {0};
    struct plans all;

    make_all(&all, 3, counts, 3, 5);
    cr_expect_eq(all.p[2].rounds, 1);
    cr_expect_eq(slc_plan_rows(&all.p[2], 0), 0);
    free(all.memory);
}

Test(moe_plan, experts_of_a_rank)
{
    for (int64_t E = 1; E < 40; E++)
        for (int R = 1; R <= E; R++) {
            cr_assert_eq(slc_expert_first(E, R, 0), 0);
            cr_assert_eq(slc_expert_first(E, R, R), E);
            for (int64_t e = 0; e < E; e++) {
                int r = (int)(e * R / E);

                cr_assert(slc_expert_first(E, R, r) <= e &&
                          e < slc_expert_first(E, R, r + 1));
            }
        }
}

Test(moe_plan, chance_to_hit_a_rank)
{
    /* By counting: 3 of 4 experts, 2 drawn of 6 pairs, one pair misses {0, 1} of 4. */
    cr_expect_float_eq(slc_expert_hit(4, 2, 2), 5.0 / 6, 1e-12);
    cr_expect_float_eq(slc_expert_hit(256, 32, 8),
                       1 - 224.0 / 256 * 223 / 255 * 222 / 254 * 221 / 253 * 220 / 252 *
                               219 / 251 * 218 / 250 * 217 / 249,
                       1e-12);
    cr_expect_float_eq(slc_expert_hit(5, 3, 3), 1, 1e-12);
    cr_expect_float_eq(slc_expert_hit(4, 4, 1), 1, 1e-12);
}
