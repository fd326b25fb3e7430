/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_TOKENIZER_H
#define SLC_DATA_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Text to token ids and back, behind one table so that BPE fits beside bytes.
 * "bytes": id = byte value, 256 ids, no special tokens; an id that is no byte decodes to
 * U+FFFD.
 */
struct slc_tokenizer;

/* name: "bytes". Anything else is not supported (the message says what is). */
struct slc_tokenizer *slc_tokenizer_open(const char *name, struct slc_err *e);
void slc_tokenizer_close(struct slc_tokenizer *t);
const char *slc_tokenizer_name(const struct slc_tokenizer *t);
int64_t slc_tokenizer_vocab(const struct slc_tokenizer *t);
/* Ids of `len` bytes of text; at most `cap` are written, the full number is returned. */
int64_t slc_tokenizer_encode(const struct slc_tokenizer *t, const char *text, size_t len,
                             int32_t *ids, int64_t cap);
/* Bytes of n ids; at most `cap` are written, the full number is returned. */
int64_t slc_tokenizer_decode(const struct slc_tokenizer *t, const int32_t *ids, int64_t n,
                             char *text, int64_t cap);

#endif
