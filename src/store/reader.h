/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_READER_H
#define SLC_STORE_READER_H

#include "store/manifest.h"

/*
 * Reads a checkpoint without libhdf5: the manifest says where bytes are, and no byte
 * leaves here that its block's CRC does not prove. One buffer of one block.
 */
struct slc_reader {
    char dir[4096];
    struct slc_manifest m;
    uint32_t *blocks; /* [m.n_blocks] CRC-32C */
    int fd;           /* state.h5 */
    unsigned char *buf;
    int64_t in_buf; /* number of the block there, -1: none */
    int64_t bytes;  /* read so far */
};

/* Proves manifest, blocks.crc, sizes and the metadata of state.h5 on member 0, then all
 * members read the same index. Collective. */
int slc_reader_open(struct slc_reader *r, struct slc_group *g, const char *dir,
                    struct slc_err *e);
void slc_reader_close(struct slc_reader *r);

/* Block k of tensor i, proven; valid until the next call. *bytes: its length. */
const unsigned char *slc_reader_block(struct slc_reader *r, int i, int64_t k,
                                      int64_t *bytes, struct slc_err *e);
/* Elements [start, start+count) of tensor i as they are in the file. */
int slc_reader_read(struct slc_reader *r, int i, int64_t start, int64_t count,
                    void *out, struct slc_err *e);

/* The parts of the proof; each is one error line. */
int slc_reader_load_manifest(const char *dir, char **text, size_t *len,
                             struct slc_manifest *m, struct slc_err *e);
int slc_reader_load_blocks(const char *dir, const struct slc_manifest *m,
                           uint32_t **blocks, struct slc_err *e);
/* Size of state.h5 and the CRC of its bytes outside the tensors. */
int slc_reader_check_metadata(const char *dir, const struct slc_manifest *m,
                              struct slc_err *e);
/* The same CRC, of an open file. */
int slc_reader_metadata_crc(int fd, const char *path, const struct slc_manifest *m,
                            uint32_t *crc, struct slc_err *e);
/* Opens state.h5 for slc_reader_block, which needs r->m and r->blocks. */
int slc_reader_open_data(struct slc_reader *r, const char *dir, struct slc_err *e);

#endif
