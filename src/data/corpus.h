/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_CORPUS_H
#define SLC_DATA_CORPUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * A corpus file (HDF5, see doc/format.md): datasets `ids` (int32 or uint8/uint16 as
 * the vocabulary allows), `doc_start` (int64 [documents+1]) and, where given, `mask`
 * (uint8, 1 = this token is a target), for the training part and, under /validation,
 * for the held-out part; attributes name the tokenizer, vocabulary and source.
 */
struct slc_corpus;

enum slc_corpus_part { SLC_CORPUS_TRAIN, SLC_CORPUS_VALIDATION };

struct slc_corpus *slc_corpus_open(const char *path, enum slc_corpus_part part,
                                   struct slc_err *e);
void slc_corpus_close(struct slc_corpus *c);
int64_t slc_corpus_tokens(const struct slc_corpus *c);
int64_t slc_corpus_documents(const struct slc_corpus *c);
int64_t slc_corpus_vocab(const struct slc_corpus *c); /* ids are below it */
const char *slc_corpus_tokenizer(const struct slc_corpus *c);
uint64_t slc_corpus_digest(const struct slc_corpus *c); /* of content, for checkpoints */
/* First token of document d; d = documents gives the total. */
int64_t slc_corpus_start(const struct slc_corpus *c, int64_t d);
bool slc_corpus_has_mask(const struct slc_corpus *c);
/* Read n tokens from `at` without allocating; ids and mask may be NULL; mask gets 1 where
 * the file has none. An id outside the vocabulary is an error. */
int slc_corpus_read(struct slc_corpus *c, int64_t at, int64_t n, int32_t *ids,
                    uint8_t *mask, struct slc_err *e);

struct slc_corpus_build_options {
    const char *out;
    const char *tokenizer;     /* NULL or "none": all input is {"ids"} lines */
    const char *const *inputs; /* .txt (one document each), .jsonl (one a line) */
    int n_inputs;
    double validation;         /* last fraction of the tokens held out, 0: none */
    int64_t vocab;             /* vocabulary of {"ids"} lines; 0: from the tokenizer */
    bool progress;             /* a bar on a terminal, plain lines elsewhere */
    int64_t commit_bytes;      /* input between two commits of progress; 0: 64 MiB */
};
/*
 * Build the file. Progress is committed in the folder OUT.partial, so that the same call
 * after an interruption goes on where it stopped, with the same result; OUT itself is
 * there only when whole. Memory is bounded by the longest JSONL line.
 */
int slc_corpus_build(const struct slc_corpus_build_options *o, struct slc_err *e);

#endif
