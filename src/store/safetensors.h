/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_SAFETENSORS_H
#define SLC_STORE_SAFETENSORS_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

/*
 * Safetensors in and out, streamed. The reader is strict: header at most 100 MB, no
 * duplicate names, offsets sorted, contiguous and covering the file, sizes that fit the
 * shapes; a folder may hold one model.safetensors or shards with
 * model.safetensors.index.json.
 */
struct slc_st;
struct slc_st_tensor {
    const char *name; /* borrowed */
    enum slc_dtype dtype; /* F32, BF16; F16 is refused when read */
    int ndim;
    int64_t shape[8], count;
};

/* path: a .safetensors file or a folder. */
struct slc_st *slc_st_open(const char *path, struct slc_err *e);
void slc_st_close(struct slc_st *s);
int slc_st_count(const struct slc_st *s);
const struct slc_st_tensor *slc_st_get(const struct slc_st *s, int i);
int slc_st_find(const struct slc_st *s, const char *name); /* -1: not there */
/* Elements [start, start+count) of tensor i as fp32 (bf16 is widened exactly). */
int slc_st_read_f32(struct slc_st *s, int i, int64_t start, int64_t count, float *out,
                    struct slc_err *e);

/* Writer: names, shapes and dtypes first, then data in order. Shards of at most shard_bytes
 * with an index when there is more than one. Files appear by rename at close. */
struct slc_st_writer;
struct slc_st_writer *slc_st_create(const char *dir, int64_t shard_bytes, struct slc_err *e);
int slc_st_declare(struct slc_st_writer *w, const char *name, enum slc_dtype dtype, int ndim,
                   const int64_t *shape, struct slc_err *e);
/* Next `count` elements of the current tensor, fp32 in memory; tensors in declared order. */
int slc_st_write_f32(struct slc_st_writer *w, const float *data, int64_t count,
                     struct slc_err *e);
int slc_st_finish(struct slc_st_writer *w, struct slc_err *e); /* frees w also on error */

#endif
