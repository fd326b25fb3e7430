/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/rng.h"
#include "corpus_fixture.h"
#include "data/sampler.h"
#include "data/sampler_private.h"

TestSuite(sampler, .init = dir_setup, .fini = dir_teardown);

#define N_DOCS 40

static int64_t lengths[N_DOCS], total;
static uint8_t masks[1024];

/* Documents of 1 to 17 tokens; token t of the corpus has id t mod 251. */
static struct slc_corpus *make_corpus(bool masked)
{
    struct slc_err e = SLC_ERR_INIT;
    char *text = malloc(65536), *at = text;

    total = 0;
    for (int d = 0; d < N_DOCS; d++) {
        lengths[d] = 1 + (int64_t)(slc_rng_u64(1, SLC_RNG_TEST, 0, (uint64_t)d) % 17);
        at += sprintf(at, "{\"ids\": [");
        for (int64_t i = 0; i < lengths[d]; i++)
            at += sprintf(at, "%s%d", i ? ", " : "", (int)((total + i) % 251));
        at += sprintf(at, "]");
        for (int64_t i = 0; i < lengths[d]; i++) {
            masks[total + i] = !masked || (total + i) % 3 != 0;
            if (masked)
                at += sprintf(at, "%s%d", i ? ", " : ", \"mask\": [", masks[total + i]);
        }
        at += sprintf(at, masked ? "]}\n" : "}\n");
        total += lengths[d];
    }
    put_file("s.jsonl", text, (size_t)(at - text));
    free(text);
    cr_assert_eq(build_one(in_dir("s.jsonl"), NULL, 251, 0, &e), 0, "%s", e.text);
    return open_part("c.h5", SLC_CORPUS_TRAIN);
}

static int64_t document_of(int64_t t)
{
    int64_t d = 0;

    while (t >= lengths[d])
        t -= lengths[d++];
    return d;
}

/* Row r of a batch against the definition, token by token. */
static void expect_row(const struct slc_batch *b, int64_t r, int64_t row)
{
    int64_t S = b->S, from = row * S, doc = -1;

    for (int64_t t = 0; t < r * S; t++)
        doc = b->doc[t] > doc ? b->doc[t] : doc;
    for (int64_t i = 0; i < S; i++) {
        int64_t t = from + i, at = r * S + i;
        if (t >= total) {
            cr_expect_eq(b->ids[at], 0);
            cr_expect_eq(b->targets[at], -1);
            cr_expect_eq(b->doc[at], -1);
            continue;
        }
        bool first = i == 0 || document_of(t) != document_of(t - 1);
        bool last = i == S - 1 || t + 1 >= total || document_of(t) != document_of(t + 1);
        cr_expect_eq(b->ids[at], t % 251);
        cr_expect_eq(b->targets[at], last || !masks[t + 1] ? -1 : (t + 1) % 251);
        cr_expect_eq(b->pos[at], first ? 0 : b->pos[at - 1] + 1);
        doc += first;
        cr_expect_eq(b->doc[at], doc);
    }
}

/* Counters and segment bounds follow from the tokens. */
static void expect_whole(const struct slc_batch *b)
{
    int64_t targets = 0, tokens = 0, seg = 0, docs = 0;

    for (int64_t t = 0; t < b->T; t++) {
        targets += b->targets[t] >= 0;
        tokens += b->doc[t] >= 0;
        bool first = t % b->S == 0 || b->doc[t] != b->doc[t - 1];
        docs += first && b->doc[t] >= 0;
        if (first)
            cr_expect_eq(b->seg[seg++], t);
    }
    cr_expect_eq(b->n_seg, seg);
    cr_expect_eq(b->n_targets, targets);
    cr_expect_eq(b->n_tokens, tokens);
    cr_expect_eq(b->n_docs, docs);
    for (; seg <= b->max_seg; seg++)
        cr_expect_eq(b->seg[seg], b->T);
}

static void check_all_rows(bool masked, int64_t S)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_corpus *c = make_corpus(masked);
    struct slc_sampler *s = slc_sampler_create(c, S, 0, 0, &e);
    struct slc_batch b;

    cr_assert_not_null(s, "%s", e.text);
    int64_t rows = slc_sampler_rows(s);
    cr_expect_eq(rows, (total + S - 2) / S);
    cr_assert_eq(slc_batch_init(&b, 3, S, &e), 0);
    for (int64_t n = 0; n < 2 * rows; n += 3) {
        struct slc_sample_counts k;
        cr_assert_eq(slc_sampler_fill(s, n, &b, &e), 0, "%s", e.text);
        for (int64_t r = 0; r < 3; r++)
            expect_row(&b, r, (n + r) % rows);
        expect_whole(&b);
        cr_expect_eq(b.sample, n);
        cr_assert_eq(slc_sampler_count(s, n, 3, &k, &e), 0);
        cr_expect_eq(k.targets, b.n_targets);
        cr_expect_eq(k.tokens, b.n_tokens);
        cr_expect_eq(k.documents, b.n_docs);
    }
    slc_batch_release(&b);
    slc_sampler_destroy(s);
    slc_corpus_close(c);
}

Test(sampler, rows_in_order)
{
    check_all_rows(false, 16);
    check_all_rows(false, 7);
    check_all_rows(false, 2);
    check_all_rows(false, 500);
}

Test(sampler, masked_rows)
{
    check_all_rows(true, 16);
    check_all_rows(true, 5);
}

/* Row number of a sample, read off its first id (corpora below 251 tokens a row start). */
static int64_t row_of(struct slc_sampler *s, int64_t n, struct slc_batch *b)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_sampler_fill(s, n, b, &e), 0, "%s", e.text);
    for (int64_t row = 0; row < slc_sampler_rows(s); row++)
        if (row * b->S % 251 == b->ids[0] && (row * b->S + 1) % 251 == b->ids[1])
            return row;
    cr_assert_fail("no such row");
    return -1;
}

/* Every epoch has every row once; another seed or epoch has another order; a sample is a
 * function of (seed, n) alone. */
Test(sampler, shuffled_epochs)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_corpus *c = make_corpus(false);
    struct slc_sampler *s = slc_sampler_create(c, 4, 7, 1, &e);
    struct slc_sampler *s2 = slc_sampler_create(c, 4, 7, 1, &e);
    struct slc_sampler *other = slc_sampler_create(c, 4, 8, 1, &e);
    struct slc_batch b;
    int64_t rows = slc_sampler_rows(s), order[2][512];
    int moved = 0, epochs_differ = 0, seeds_differ = 0;

    cr_assert_lt(rows * 4, 251 * 4);
    cr_assert_eq(slc_batch_init(&b, 1, 4, &e), 0);
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[512] = {0};
        for (int64_t i = 0; i < rows; i++) {
            int64_t row = order[epoch][i] = row_of(s, epoch * rows + i, &b);
            cr_expect_eq(seen[row]++, 0, "row %ld twice", (long)row);
            moved += row != i;
            seeds_differ += row != row_of(other, epoch * rows + i, &b);
        }
    }
    for (int64_t i = rows - 1; i >= 0; i--) { /* asked backwards: the same */
        cr_expect_eq(row_of(s2, rows + i, &b), order[1][i]);
        epochs_differ += order[0][i] != order[1][i];
    }
    cr_expect_gt(moved, rows);
    cr_expect_gt(epochs_differ, rows / 2);
    cr_expect_gt(seeds_differ, rows / 2);
    slc_batch_release(&b);
    slc_sampler_destroy(s);
    slc_sampler_destroy(s2);
    slc_sampler_destroy(other);
    slc_corpus_close(c);
}

Test(sampler, permutation_of_any_size)
{
    for (int64_t n = 1; n < 300; n += n < 70 ? 1 : 37) {
        char seen[300] = {0};
        for (int64_t i = 0; i < n; i++) {
            int64_t x = slc_permute(3, 1, n, i);
            cr_assert(x >= 0 && x < n);
            cr_expect_eq(seen[x]++, 0, "%ld of %ld twice", (long)x, (long)n);
        }
    }
    /* Far apart even where the domain is huge: no collision among neighbours. */
    int64_t big = 1000000000000;
    for (int64_t i = 0; i < 50; i++) {
        int64_t a = slc_permute(3, 1, big, i);
        cr_expect(a >= 0 && a < big);
        for (int64_t j = 0; j < i; j++)
            cr_expect_gt(llabs(a - slc_permute(3, 1, big, j)), 1);
    }
}

/* Places of neighbours are not related: mean distance as for random places, n/3. */
Test(sampler, permutation_mixes)
{
    int64_t n = 5000;
    double sum = 0;

    for (int64_t i = 0; i + 1 < n; i++)
        sum += (double)llabs(slc_permute(1, 0, n, i) - slc_permute(1, 0, n, i + 1));
    cr_expect_float_eq(sum / (double)(n * n) * 3, 1.0, 0.05, "%g", sum / (double)(n * n) * 3);
}

Test(sampler, pack)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_batch b;
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const int64_t lens[] = {3, 3, 1, 2};
    const int32_t want[] = {1, 2, 3, 0, 0, 4, 5, 6, 7, 0, 8, 9, 0, 0, 0};
    const int32_t targets[] = {2, 3, -1, -1, -1, 5, 6, -1, -1, -1, 9, -1, -1, -1, -1};
    const int32_t doc[] = {0, 0, 0, -1, -1, 1, 1, 1, 2, -1, 3, 3, -1, -1, -1};

    cr_assert_eq(slc_batch_init(&b, 3, 5, &e), 0);
    for (int again = 0; again < 2; again++) {
        cr_assert_eq(slc_batch_pack(&b, ids, lens, 4, &e), 0, "%s", e.text);
        cr_expect_eq(memcmp(b.ids, want, sizeof(want)), 0);
        cr_expect_eq(memcmp(b.targets, targets, sizeof(targets)), 0);
        cr_expect_eq(memcmp(b.doc, doc, sizeof(doc)), 0);
        cr_expect_eq(b.n_targets, 5);
        expect_whole(&b);
    }
    cr_expect_eq(slc_batch_pack(&b, ids, (int64_t[]){6}, 1, &e), -1);
    cr_expect_eq(slc_batch_pack(&b, ids, (int64_t[]){0}, 1, &e), -1);
    cr_expect_eq(slc_batch_pack(&b, ids, (int64_t[]){3, 3, 3, 3}, 4, &e), -1);
    cr_expect(strstr(e.text, "do not fit"), "%s", e.text);
    cr_assert_eq(slc_batch_pack(&b, ids, (int64_t[]){1}, 1, &e), 0);
    expect_whole(&b);
    slc_batch_release(&b);
    cr_expect_eq(slc_batch_init(&b, 1 << 20, 1 << 20, &e), -1);
}

Test(sampler, too_small)
{
    struct slc_err e = SLC_ERR_INIT;

    put_text("one.jsonl", "{\"ids\": [5]}\n");
    cr_assert_eq(build_one(in_dir("one.jsonl"), NULL, 9, 0, &e), 0, "%s", e.text);
    struct slc_corpus *c = open_part("c.h5", SLC_CORPUS_TRAIN);
    cr_expect_null(slc_sampler_create(c, 8, 0, 0, &e));
    slc_corpus_close(c);
    slc_sampler_destroy(NULL);
}
