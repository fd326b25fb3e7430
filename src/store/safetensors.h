/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_SAFETENSORS_H
#define SLC_STORE_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

/*
 * Safetensors in and out, streamed. The reader is strict: header at most 100 MB, no
 * duplicate names, data without gap or overlap up to the end of the file, sizes that
 * fit the shapes. A folder holds one model.safetensors, or shards and their
 * model.safetensors.index.json; then every tensor of every shard is in the index, once.
 * Every defect is one line that names the file and, where there is one, the tensor.
 */
struct slc_st;
struct slc_st_tensor {
    const char *name;     /* borrowed */
    const char *type;     /* the file's word: "F32", "BF16", "F16", "I64", ... */
    bool readable;        /* F32 or BF16; any other type is refused when read */
    enum slc_dtype dtype; /* if readable */
    int ndim;
    int64_t shape[8], count;
};

/* path: a .safetensors file or a folder. */
struct slc_st *slc_st_open(const char *path, struct slc_err *e);
void slc_st_close(struct slc_st *s);
int slc_st_count(const struct slc_st *s);
/* Tensors come shard by shard, in the order of their data. */
const struct slc_st_tensor *slc_st_get(const struct slc_st *s, int i);
/* File that holds tensor i, for messages; borrowed. */
const char *slc_st_path(const struct slc_st *s, int i);
int slc_st_find(const struct slc_st *s, const char *name); /* -1: not there */
/* Elements [start, start+count) of tensor i as fp32 (bf16 is widened exactly). */
int slc_st_read_f32(struct slc_st *s, int i, int64_t start, int64_t count, float *out,
                    struct slc_err *e);

/* Writer: names, shapes and dtypes (fp32 or bf16) first, then data in order. Shards of
 * at most shard_bytes of data (a larger tensor gets one of its own) with an index when
 * there is more than one. Files appear by rename at finish; on error nothing is left.
 */
struct slc_st_writer;
/* dir exists already. */
struct slc_st_writer *slc_st_create(const char *dir, int64_t shard_bytes,
                                    struct slc_err *e);
int slc_st_declare(struct slc_st_writer *w, const char *name, enum slc_dtype dtype,
                   int ndim, const int64_t *shape, struct slc_err *e);
/* Next `count` elements of the current tensor, fp32 in memory; tensors in declared
 * order. */
int slc_st_write_f32(struct slc_st_writer *w, const float *data, int64_t count,
                     struct slc_err *e);
/* Every declared element must have been written. Frees w, also on error. */
int slc_st_finish(struct slc_st_writer *w, struct slc_err *e);
void slc_st_abandon(struct slc_st_writer *w); /* remove what was written, free w */

#endif
