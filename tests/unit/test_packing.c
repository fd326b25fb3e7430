/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "kernels/cuda/packing.h"

#define WORKSPACE (2ll << 30)

/* What the kernel that fills the lists makes of a packing: `length` by slot, 0 elsewhere. */
static void place(const struct slc_packing *p, const int32_t *sorted, int32_t *length)
{
    memset(length, 0, (size_t)p->slots * sizeof(*length));
    for (int i = 0; i < p->n; i++) {
        const struct slc_packing_part *x = &p->part[i];

        for (int d = 0; d < x->count; d++) {
            const int slot = x->slot + d / x->B * x->stride + d % x->B;

            cr_assert(slot < p->slots && length[slot] == 0);
            length[slot] = sorted[x->first + d];
            cr_assert(length[slot] <= x->S, "%d tokens in room for %d", length[slot], x->S);
        }
    }
}

static int longer_first(const void *a, const void *b)
{
    return *(const int32_t *)b - *(const int32_t *)a;
}

static void parts_are_sound(const struct slc_packing *p, const struct slc_packing_rule *k)
{
    int32_t slot = 0;

    for (int i = 0; i < p->n; i++) {
        const struct slc_packing_part *x = &p->part[i];
        const int64_t heads = slc_packing_heads(k, x->B, x->S), group = k->heads / k->kv_heads;

        cr_assert(x->B == slc_packing_size(k, x->B, x->S) &&
                  x->B <= slc_packing_most(k, x->S));
        cr_assert_eq(x->S, slc_packing_room(k, x->S > k->row && k->row ? k->row : x->S));
        cr_assert(x->count > x->B * (x->calls - 1) && x->count <= x->B * x->calls);
        cr_assert(x->stride > x->B && x->stride % 4 == 0);
        cr_assert_eq(x->slot, slot);
        cr_assert(i == 0 || x->S <= x[-1].S);
        cr_assert(heads == 1 || (heads % group == 0 && k->heads % heads == 0));
        cr_assert(!k->workspace || (x->B == 1 && heads == 1) ||
                  2 * x->B * heads * x->S * x->S <= k->workspace);
        slot += x->calls * x->stride;
    }
    cr_assert_eq(slot, p->slots);
}

/* Every document has one place in a call with room for it. */
static void check(const struct slc_packing_rule *k, const int32_t *length, int64_t n,
                  bool host)
{
    int32_t *seg = calloc((size_t)n + 1, 4), *sorted = calloc((size_t)n, 4);
    int32_t *placed = calloc((size_t)k->T * 8 + 1, 4);
    struct slc_packing p;
    int64_t real = 0;

    for (int64_t i = 0; i < n; i++) {
        seg[i + 1] = seg[i] + length[i];
        real += length[i] > 0;
    }
    memcpy(sorted, length, (size_t)n * 4);
    qsort(sorted, (size_t)n, 4, longer_first);
    slc_packing_cut(&p, k, host ? seg : NULL, n, sorted[0]);
    cr_assert(p.slots <= 8 * k->T, "%d places for %d documents", p.slots, (int)n);
    parts_are_sound(&p, k);
    place(&p, sorted, placed);
    qsort(placed, (size_t)p.slots, 4, longer_first);
    cr_assert(!memcmp(placed, sorted, (size_t)(p.slots < n ? p.slots : n) * 4));
    const struct slc_packing_part *last = &p.part[p.n - 1];
    cr_assert_eq(last->first + last->count, host ? real : n);
    free(placed);
    free(sorted);
    free(seg);
}

/* Lengths that are spread evenly over powers of two, until a row is full. */
static int64_t draw(int32_t *length, int64_t T, int64_t row, uint64_t key)
{
    int64_t n = 0;

    for (int64_t at = 0; at < T;) {
        const uint64_t x = slc_rng_u64(1, SLC_RNG_TEST, key, (uint64_t)n);
        const int64_t left = row - at % row;
        int64_t l = (int64_t)(x >> 32) % (2ll << (x % 15));

        l = l > left ? left : l;
        length[n++] = (int32_t)l;
        at += l > 0 ? l : 0;
        if (n == T)
            break;
    }
    return n;
}

Test(packing, every_document_has_a_place)
{
    static const struct slc_packing_rule rules[] = {
        {16384, 4096, 16, 16, 0, 11000},        {16384, 4096, 32, 4, WORKSPACE, 2048},
        {16384, 16384, 32, 4, WORKSPACE, 2048}, {12000, 6000, 24, 3, WORKSPACE, 2048},
        {16384, 0, 16, 16, WORKSPACE, 2048},    {131072, 131072, 8, 8, WORKSPACE, 2048},
        {300, 0, 4, 2, 0, 2048},                {4096, 100, 1, 1, WORKSPACE, 2048},
        {12000, 6000, 24, 3, 0, 11000},         {131072, 131072, 8, 8, 0, 1000},
    };
    static int32_t length[131072];

    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++)
        for (uint64_t key = 0; key < 40; key++) {
            const struct slc_packing_rule *k = &rules[i];
            const int64_t n = draw(length, k->T, k->row ? k->row : k->T, key);

            check(k, length, n, true);
            check(k, length, n, false);
        }
}

Test(packing, documents_of_one_token)
{
    static const struct slc_packing_rule k = {16384, 4096, 16, 16, WORKSPACE, 2048};
    static int32_t length[16384];

    for (int i = 0; i < 16384; i++)
        length[i] = 1;
    check(&k, length, 16384, true);
    check(&k, length, 16384, false);
    memset(length, 0, sizeof(length));
    length[5] = 4096;
    check(&k, length, 9, true);
}

/* A long document does not make room of its length for all the others. */
Test(packing, short_documents_have_less_room)
{
    static const struct slc_packing_rule k = {16384, 4096, 16, 16, WORKSPACE, 2048};
    int32_t seg[66] = {0, 4096};
    struct slc_packing p;

    for (int i = 1; i < 65; i++)
        seg[i + 1] = seg[i] + 128;
    slc_packing_cut(&p, &k, seg, 65, 4096);
    cr_assert_eq(p.n, 2);
    cr_assert(p.part[0].S == 4096 && p.part[0].B == 1 && p.part[0].calls == 1);
    cr_assert(p.part[1].S == 256 && p.part[1].B == 64 && p.part[1].calls == 1);
    slc_packing_cut(&p, &k, NULL, 65, 4096);
    cr_assert(p.part[0].S == 4096 && p.part[0].B == 8 && p.part[0].calls == 8);
    slc_packing_rows(&p, &k, 4, 4096);
    cr_assert(p.n == 1 && p.part[0].S == 4096 && p.part[0].B == 4);
}

/* Whole groups of heads as long as one fits, then a head at a time. */
Test(packing, long_rows_have_fewer_heads_in_a_call)
{
    static const struct slc_packing_rule k = {32768, 32768, 32, 4, WORKSPACE / 2, 2048};
    static const struct slc_packing_rule six = {32768, 32768, 12, 6, WORKSPACE / 2, 2048};

    cr_assert_eq(slc_packing_heads(&k, 1, 4096), 32);
    cr_assert_eq(slc_packing_heads(&k, 2, 4096), 16);
    cr_assert_eq(slc_packing_heads(&k, 1, 8192), 8);
    cr_assert_eq(slc_packing_heads(&k, 1, 16384), 1);
    cr_assert_eq(slc_packing_most(&k, 16384), 1);
    cr_assert_eq(slc_packing_heads(&six, 2, 8192), 4);
    cr_assert_eq(slc_packing_heads(&six, 1, 16384), 2);
}

/* Rows that are whole sequences go in equal calls, of odd numbers too. */
Test(packing, whole_rows_fit)
{
    for (int64_t n = 1; n <= 12; n++)
        for (int64_t S = 1024; S <= 16384; S *= 2) {
            const struct slc_packing_rule k = {n * S, S, 32, 4, WORKSPACE / 2, 2048};
            struct slc_packing p;

            slc_packing_rows(&p, &k, n, S);
            const struct slc_packing_part *x = &p.part[0];
            cr_assert(p.n == 1 && x->B * x->calls == n && x->count == n && x->S == S);
            cr_assert(2 * x->B * slc_packing_heads(&k, x->B, S) * S * S <= k.workspace,
                      "%d rows of %d", (int)n, (int)S);
        }
}

/* Without dS one call does, with room between powers of two for both. */
Test(packing, the_forward_makes_few_calls)
{
    static const struct slc_packing_rule k = {16384, 4096, 16, 16, 0, 11000};
    int32_t seg[22] = {0, 2400};
    struct slc_packing p;

    for (int i = 1; i < 21; i++)
        seg[i + 1] = seg[i] + 600;
    slc_packing_cut(&p, &k, seg, 21, 2400);
    cr_assert(p.n == 1 && p.part[0].S == 3072 && p.part[0].B == 24 && p.part[0].calls == 1);
    cr_assert_eq(slc_packing_size(&k, 1, 3072), 6);
    cr_assert_eq(slc_packing_most(&k, 3072), 32);
}
