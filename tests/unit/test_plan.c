/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a save on cuts that spare nothing: every byte is written once, no 4 KiB
 * page by two ranks, CRC pieces never cross a block. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/rng.h"
#include "store/manifest.h"
#include "store/plan.h"

/* Random spans of random ranks over one tensor. */
static void make(struct slc_plan *p, struct slc_ckpt_tensor *t, int64_t count,
                 int ranks, int64_t longest, uint64_t seed)
{
    int64_t n = 0, at = 0;

    *t = (struct slc_ckpt_tensor){.name = "x",
                                  .dtype = seed % 2 ? SLC_F32 : SLC_BF16,
                                  .ndim = 1,
                                  .shape = {count}};
    *p = (struct slc_plan){.t = t, .n = 1};
    p->spans = malloc((size_t)count * sizeof(*p->spans));
    p->first = calloc(2, sizeof(*p->first));
    while (at < count) {
        uint64_t r = slc_rng_u64(seed, SLC_RNG_TEST, 0, (uint64_t)n);
        int64_t len = 1 + (int64_t)((r >> 16) % (uint64_t)longest);
        if (len > count - at)
            len = count - at;
        p->spans[n++] = (struct slc_span){at, len, (int)(r % (uint64_t)ranks)};
        at += len;
    }
    p->first[1] = n;
}

static void check(int64_t count, int ranks, int64_t longest, uint64_t seed)
{
    struct slc_ckpt_tensor t;
    struct slc_plan p;

    make(&p, &t, count, ranks, longest, seed);
    int64_t size = (int64_t)slc_dtype_size(t.dtype), bytes = slc_tensor_bytes(&t);
    int *writer = malloc((size_t)bytes * sizeof(int));
    int64_t sent = 0;
    for (int64_t b = 0; b < bytes; b++)
        writer[b] = -1;
    for (int64_t k = 0; k < p.first[1]; k++) {
        const struct slc_span *s = &p.spans[k];
        int64_t a = s->start * size, z = a + s->count * size, from, to, at = a;
        int owner = slc_plan_fragment(&p, 0, k, &from, &to);
        cr_assert(from == a && to >= a && to <= z);
        cr_assert(to == a || owner != s->rank, "nobody sends to himself");
        for (int64_t b = a; b < z; b++) {
            cr_assert_eq(writer[b], -1);
            writer[b] = b < to ? owner : s->rank;
        }
        sent += to - from;
        for (int64_t j = 0; j < slc_plan_pieces(&p, 0, k); j++, at = to) {
            slc_plan_piece(&p, 0, k, j, &from, &to);
            cr_assert(from == at && to > from);
            cr_assert_eq(from / SLC_CKPT_BLOCK, (to - 1) / SLC_CKPT_BLOCK);
        }
        cr_assert_eq(at, z, "pieces cover the span");
    }
    for (int64_t b = 0; b < bytes; b++) {
        cr_assert(writer[b] >= 0);
        if (b % SLC_CKPT_PAGE)
            cr_assert_eq(writer[b], writer[b - 1], "byte %ld of %ld", (long)b,
                         (long)bytes);
        if (bytes < SLC_CKPT_PAGE)
            cr_assert_eq(writer[b], 0,
                         "small tensors share pages: member 0 writes them");
    }
    cr_assert(ranks == 1 ? sent == 0 : longest > 4096 || sent > 0);
    free(writer);
    slc_plan_release(&p);
}

Test(plan, pages_have_one_writer)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        check(60000, 1, 700, seed);
        check(60000, 2, 700, seed);
        check(60000, 5, 10, seed);
        check(60000, 3, 9000, seed);
        check(700, 4, 100, seed);
        check(1024, 4, 300, seed);
    }
    check(1500000, 3, 400000, 1);
    check(1500000, 3, 400000, 2);
}
