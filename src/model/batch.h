/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_BATCH_H
#define SLC_MODEL_BATCH_H

#include <stdint.h>

/*
 * One micro-batch of one rank, in host memory: `rows` packed sequences of S tokens,
 * T = rows * S. Documents never cross rows. Padding (only at the end of a row) has
 * id 0, target -1, doc -1 and is its own segment.
 */
struct slc_batch {
    int64_t rows, S, T;
    int32_t *ids;     /* [T] */
    int32_t *targets; /* [T], -1 masked: padding, last token of a document, masked text */
    int32_t *pos;     /* [T], 0 at each document start */
    int32_t *doc;     /* [T], running number of the document in this batch, -1 padding */
    int32_t *seg;     /* [max_seg+1], segment bounds ascending, seg[n..max_seg] = T */
    int64_t n_seg, max_seg; /* segments used (padding runs included), and room */
    int64_t n_docs;   /* documents */
    int64_t n_tokens; /* tokens that are not padding (routed) */
    int64_t n_targets;
    int64_t sample;   /* global index of the first row's sample, for messages */
};

#endif
