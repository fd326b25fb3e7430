/* SPDX-License-Identifier: Apache-2.0 */
#include "data/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "data/sampler_private.h"

struct slc_sampler {
    struct slc_corpus *corpus;
    int64_t S, rows, tokens;
    uint64_t seed;
    bool shuffle;
    uint8_t *mask; /* [S] of one row */
};

struct slc_sampler *slc_sampler_create(struct slc_corpus *c, int64_t S, uint64_t seed,
                                       int shuffle, struct slc_err *e)
{
    int64_t tokens = slc_corpus_tokens(c);

    if (S < 2 || S > INT32_MAX || tokens < 2) {
        slc_errf(e, SLC_EXIT_CONFIG,
                 "rows of %lld tokens from a corpus part of %lld: both need at least 2",
                 (long long)S, (long long)tokens);
        return NULL;
    }
    struct slc_sampler *s = calloc(1, sizeof(*s));
    if (s)
        s->mask = malloc((size_t)S);
    if (!s || !s->mask) {
        free(s);
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the sampler");
        return NULL;
    }
    s->corpus = c;
    s->S = S;
    s->tokens = tokens;
    s->rows = (tokens + S - 2) / S; /* a single last token would predict nothing */
    s->seed = seed;
    s->shuffle = shuffle;
    return s;
}

void slc_sampler_destroy(struct slc_sampler *s)
{
    if (!s)
        return;
    free(s->mask);
    free(s);
}

int64_t slc_sampler_rows(const struct slc_sampler *s)
{
    return s->rows;
}

/* Tokens [*from, *end) of the row that is sample n. */
static void row_of(const struct slc_sampler *s, int64_t n, int64_t *from, int64_t *end)
{
    int64_t row = n % s->rows;

    SLC_ASSERT(n >= 0);
    if (s->shuffle)
        row = slc_permute(s->seed, (uint64_t)(n / s->rows), s->rows, row);
    *from = row * s->S;
    *end = *from + s->S < s->tokens ? *from + s->S : s->tokens;
}

/* First document that starts behind token `at`. */
static int64_t document_behind(const struct slc_sampler *s, int64_t at)
{
    int64_t low = 0, high = slc_corpus_documents(s->corpus);

    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (slc_corpus_start(s->corpus, mid) > at)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* End of the document piece that begins at `at`; *doc is the document behind it. */
static int64_t piece_end(const struct slc_sampler *s, int64_t *doc, int64_t end)
{
    int64_t bound = slc_corpus_start(s->corpus, *doc);

    if (bound >= end)
        return end;
    ++*doc;
    return bound;
}

static int fill_row(struct slc_sampler *s, int64_t n, struct slc_batch *b, int64_t at,
                    struct slc_err *e)
{
    bool masked = slc_corpus_has_mask(s->corpus);
    int64_t from, end;

    row_of(s, n, &from, &end);
    if (slc_corpus_read(s->corpus, from, end - from, b->ids + at, masked ? s->mask : NULL,
                        e) < 0)
        return -1;
    int64_t doc = document_behind(s, from);
    for (int64_t t = from; t < end;) {
        int64_t next = piece_end(s, &doc, end);
        slc_batch_add_document(b, at + t - from, next - t,
                               masked ? s->mask + (t - from) : NULL);
        t = next;
    }
    slc_batch_add_padding(b, at + end - from, s->S - (end - from));
    return 0;
}

int slc_sampler_fill(struct slc_sampler *s, int64_t first, struct slc_batch *b,
                     struct slc_err *e)
{
    SLC_ASSERT(b->S == s->S);
    slc_batch_clear(b);
    b->sample = first;
    for (int64_t r = 0; r < b->rows; r++)
        if (fill_row(s, first + r, b, r * b->S, e) < 0)
            return -1;
    slc_batch_finish(b);
    return 0;
}

/* Targets of a masked row: tokens of mask 1 that do not begin a document piece. */
static int count_masked(struct slc_sampler *s, int64_t from, int64_t end, int64_t *targets,
                        struct slc_err *e)
{
    if (slc_corpus_read(s->corpus, from, end - from, NULL, s->mask, e) < 0)
        return -1;
    int64_t doc = document_behind(s, from);
    for (int64_t t = from; t < end;) {
        int64_t next = piece_end(s, &doc, end);
        for (int64_t u = t + 1; u < next; u++)
            *targets += s->mask[u - from] != 0;
        t = next;
    }
    return 0;
}

int slc_sampler_count(struct slc_sampler *s, int64_t first, int64_t n,
                      struct slc_sample_counts *out, struct slc_err *e)
{
    struct slc_sample_counts sum = {0};

    for (int64_t i = first; i < first + n; i++) {
        int64_t from, end;
        row_of(s, i, &from, &end);
        /* Documents that start inside the row, and the one that reaches into it. */
        int64_t pieces = document_behind(s, end - 1) - document_behind(s, from) + 1;
        sum.documents += pieces;
        sum.tokens += end - from;
        if (!slc_corpus_has_mask(s->corpus))
            sum.targets += end - from - pieces;
        else if (count_masked(s, from, end, &sum.targets, e) < 0)
            return -1;
    }
    *out = sum;
    return 0;
}
