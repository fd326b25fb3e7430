/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_MANIFEST_H
#define SLC_STORE_MANIFEST_H

#include "store/checkpoint.h"

/*
 * manifest.json: what a checkpoint holds, where each tensor's bytes are in state.h5,
 * and the CRCs that prove them. Its last line is the CRC-32C of all lines before. One
 * JSON object; layout in doc/format.md.
 */
#define SLC_CKPT_BLOCK (1 << 20) /* bytes of a tensor per CRC in blocks.crc */
#define SLC_CKPT_BLOCKS_HEADER                                                         \
    16 /* "sluice01", number of blocks; then uint32 each, LE */

struct slc_manifest_tensor {
    struct slc_ckpt_entry entry;
    int64_t offset; /* in state.h5 */
    int64_t block;  /* first of its blocks in blocks.crc */
};

struct slc_manifest {
    struct slc_ckpt_state state;
    int world;             /* ranks that saved it */
    int64_t file_bytes;    /* of state.h5 */
    uint32_t metadata_crc; /* of all bytes of state.h5 outside the tensors */
    uint32_t blocks_crc;   /* of the file blocks.crc */
    int64_t n_blocks;
    struct slc_manifest_tensor *t;
    int n;
    int *by_name;
};

static inline int64_t slc_manifest_blocks(int64_t bytes)
{
    return (bytes + SLC_CKPT_BLOCK - 1) / SLC_CKPT_BLOCK;
}

/* The text, malloc'ed; t[i].block and n_blocks need not be set. */
char *slc_manifest_text(const struct slc_manifest *m, size_t *len, struct slc_err *e);
/* Checks the last line first; `where` names the file in messages. */
int slc_manifest_parse(struct slc_manifest *m, const char *text, size_t len,
                       const char *where, struct slc_err *e);
void slc_manifest_release(struct slc_manifest *m);
int slc_manifest_find(const struct slc_manifest *m,
                      const char *name); /* -1: not there */

/* Deep copy; release with slc_ckpt_state_release. */
int slc_ckpt_state_copy(struct slc_ckpt_state *to, const struct slc_ckpt_state *from,
                        struct slc_err *e);

#endif
