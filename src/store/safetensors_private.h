/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_SAFETENSORS_PRIVATE_H
#define SLC_STORE_SAFETENSORS_PRIVATE_H

#include "store/safetensors.h"

/* One or several safetensors files that are open for reading. */

#define SLC_ST_HEADER_MAX 100000000u /* bytes, as the reference implementation */

struct shard {
    char *path;
    int fd;
    int64_t bytes, data; /* size of the file, where its data starts */
};

struct entry {
    struct slc_st_tensor t;
    char *name;
    int shard;
    int64_t begin, end; /* bytes within the data of the shard */
};

struct slc_st {
    struct shard *shards;
    int n_shards;
    struct entry *entries;
    int n, capacity;
    int *by_name; /* indices of entries, sorted by name */
};

/* safetensors_header.c: adds the tensors of an open shard to the entries. -1 with e: the
 * header is not sound (a shape, a type, bytes that overlap or are left over). */
int slc_st_read_header(struct slc_st *s, int shard, struct slc_err *e);
/* A name that can be shown: not empty, at most 1024 bytes, no control characters. */
bool slc_st_printable(const char *name);

#endif
