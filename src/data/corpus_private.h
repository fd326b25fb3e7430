/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_CORPUS_PRIVATE_H
#define SLC_DATA_CORPUS_PRIVATE_H

#include <stdint.h>
#include <stdio.h>

#include "base/json.h"
#include "base/bar.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

#define SLC_CORPUS_FORMAT "sluice-corpus"
#define SLC_CORPUS_VERSION 1
#define SLC_CORPUS_NAME_MAX 256 /* longest tokenizer name in a file, with the 0 */

/* Bytes of one stored id: the narrowest of uint8, uint16, int32 that holds vocab - 1. */
static inline int slc_corpus_width(int64_t vocab)
{
    return vocab <= 256 ? 1 : vocab <= 65536 ? 2 : 4;
}

/*
 * The partial result of a build: the folder OUT.partial with the token ids (`ids`, in the
 * width of the final file), first tokens of documents (`starts`, int64), and target mask
 * (`mask`, uint8, from the first masked line on) as plain files, and progress.json, which
 * says how much of them and of the input is committed. What is behind that is cut off on
 * resume.
 */
struct slc_partial {
    char *dir;
    int dir_fd; /* holds the lock of the build */
    FILE *ids, *starts, *mask;
    int width;
    json_t *job; /* what is built from what: must be the same on resume */
    /* committed state, and what was written since */
    int input;       /* inputs before it are done */
    int64_t offset;  /* bytes of it that are done */
    int64_t line;    /* lines of it that are done */
    int64_t tokens, documents;
    int64_t input_tokens; /* of the current input */
    bool has_mask;
};

/* Open or create OUT.partial; `job` is borrowed. Starts over where the job differs. */
int slc_partial_open(struct slc_partial *p, const char *out, json_t *job, int width,
                     struct slc_err *e);
/* A new document starts at the present end. */
int slc_partial_document(struct slc_partial *p, struct slc_err *e);
/* Append n tokens; mask NULL: all are targets. */
int slc_partial_append(struct slc_partial *p, const int32_t *ids, const uint8_t *mask,
                       int64_t n, struct slc_err *e);
/* Make everything so far durable, with input, offset and line as they stand. */
int slc_partial_commit(struct slc_partial *p, struct slc_err *e);
/* Close; with `remove` also delete the folder. */
void slc_partial_close(struct slc_partial *p, bool remove);

/* Read the rest of inputs[p->input] into the partial result. */
struct slc_build {
    const struct slc_corpus_build_options *o;
    struct slc_tokenizer *tokenizer; /* NULL: ids only */
    int64_t vocab;
    struct slc_partial partial;
    int64_t commit_bytes; /* of input between two commits */
    int64_t uncommitted;  /* bytes of input since the last one */
    int64_t bytes_before; /* of inputs that are done */
    int64_t empty;        /* documents without a token, left out */
    struct slc_bar bar;
};
int slc_build_input(struct slc_build *b, struct slc_err *e);

/* Write the final file from the partial result. */
int slc_build_assemble(struct slc_build *b, struct slc_err *e);

#endif
