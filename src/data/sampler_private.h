/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_SAMPLER_PRIVATE_H
#define SLC_DATA_SAMPLER_PRIVATE_H

#include <stdbool.h>

#include "model/batch.h"

/* How a batch is filled: clear, then documents and padding in ascending place, finish. */
void slc_batch_clear(struct slc_batch *b);
/* Tokens [at, at+n), whose ids are there already, are one document; mask [n] or NULL. */
void slc_batch_add_document(struct slc_batch *b, int64_t at, int64_t n, const uint8_t *mask);
void slc_batch_add_padding(struct slc_batch *b, int64_t at, int64_t n);
void slc_batch_finish(struct slc_batch *b);

/* Element i of permutation number `epoch` of 0..n-1, in constant memory. */
int64_t slc_permute(uint64_t seed, uint64_t epoch, int64_t n, int64_t i);

#endif
