/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_SAMPLER_H
#define SLC_DATA_SAMPLER_H

#include <stdint.h>

#include "data/corpus.h"
#include "model/batch.h"

/*
 * Packed sequences: documents are cut into a fixed number of packed rows of S tokens;
 * sample n (global, n = 0, 1, ...) is row permutation(seed, epoch)[n mod rows]: a pure
 * function of (seed, n), whatever the ranks. A document longer than what is left of a row
 * goes on in the next row as a document of its own (its first token there is no target
 * of the previous one). So the only state to save is the number of samples consumed.
 */
struct slc_sampler;

struct slc_sampler *slc_sampler_create(struct slc_corpus *c, int64_t S, uint64_t seed,
                                       int shuffle, struct slc_err *e);
void slc_sampler_destroy(struct slc_sampler *s);
int64_t slc_sampler_rows(const struct slc_sampler *s); /* rows in an epoch */

/* Allocate / free the arrays of a batch of rows x S. */
int slc_batch_init(struct slc_batch *b, int64_t rows, int64_t S, struct slc_err *e);
void slc_batch_release(struct slc_batch *b);

/* Fill a batch with samples first, first+1, ... (b->rows of them). */
int slc_sampler_fill(struct slc_sampler *s, int64_t first, struct slc_batch *b,
                     struct slc_err *e);
/* Targets, routed tokens and documents of samples [first, first+n), without reading
 * ids where the corpus has no mask: the N of the loss for a whole optimizer step. */
struct slc_sample_counts {
    int64_t targets, tokens, documents;
};
int slc_sampler_count(struct slc_sampler *s, int64_t first, int64_t n,
                      struct slc_sample_counts *out, struct slc_err *e);
/* Build a batch from given documents (tests, score): ids concatenated, lengths [n]. One row
 * per call of `rows` is filled greedily; error if they do not fit. */
int slc_batch_pack(struct slc_batch *b, const int32_t *ids, const int64_t *lengths,
                   int64_t n, struct slc_err *e);

#endif
