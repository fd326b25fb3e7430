/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define CONVERT 16384 /* elements converted to bf16 at a time */

struct declared {
    char *name;
    enum slc_dtype dtype;
    int ndim, shard;
    int64_t shape[8], count, begin, end; /* bytes within the data of the shard */
};

struct slc_st_writer {
    char *dir;
    int64_t shard_bytes;
    struct declared *t;
    int n, capacity;
    int n_shards, shard; /* 0: not laid out yet; the shard being written, -1: none */
    int fd;
    int64_t data; /* where data starts in the open shard */
    int current;  /* tensor being written, and its elements so far */
    int64_t done;
    uint16_t convert[CONVERT];
};

struct slc_st_writer *slc_st_create(const char *dir, int64_t shard_bytes,
                                    struct slc_err *e)
{
    struct slc_st_writer *w = calloc(1, sizeof(*w));

    if (w)
        w->dir = strdup(dir);
    if (!w || !w->dir) {
        free(w);
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to write %s", dir);
        return NULL;
    }
    w->shard_bytes = shard_bytes;
    w->shard = -1;
    w->fd = -1;
    return w;
}

int slc_st_declare(struct slc_st_writer *w, const char *name, enum slc_dtype dtype,
                   int ndim, const int64_t *shape, struct slc_err *e)
{
    SLC_ASSERT(w->n_shards == 0 && ndim >= 0 && ndim <= 8);
    SLC_ASSERT(dtype == SLC_F32 || dtype == SLC_BF16);
    if (w->n == w->capacity) {
        int more = w->capacity ? 2 * w->capacity : 64;
        struct declared *t = realloc(w->t, (size_t)more * sizeof(*t));
        if (!t)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                            w->dir);
        w->t = t;
        w->capacity = more;
    }
    struct declared *t = &w->t[w->n];
    *t = (struct declared){
        .name = strdup(name), .dtype = dtype, .ndim = ndim, .count = 1};
    if (!t->name)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                        w->dir);
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        t->count *= shape[i];
    }
    w->n++;
    return 0;
}

static int path_of(const struct slc_st_writer *w, int shard, const char *suffix,
                   char path[PATH_MAX], struct slc_err *e)
{
    int n = w->n_shards == 1
                ? snprintf(path, PATH_MAX, "%s/model.safetensors%s", w->dir, suffix)
                : snprintf(path, PATH_MAX, "%s/model-%05d-of-%05d.safetensors%s",
                           w->dir, shard + 1, w->n_shards, suffix);

    if (n >= PATH_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", w->dir);
    return 0;
}

/* Tensors to shards, in order. */
static void lay_out(struct slc_st_writer *w)
{
    int64_t at = 0;
    int shard = 0;

    for (int i = 0; i < w->n; i++) {
        int64_t bytes = w->t[i].count * (int64_t)slc_dtype_size(w->t[i].dtype);
        if (at > 0 && bytes > w->shard_bytes - at) {
            shard++;
            at = 0;
        }
        w->t[i].shard = shard;
        w->t[i].begin = at;
        w->t[i].end = at += bytes;
    }
    w->n_shards = shard + 1;
}

static json_t *tensor_header(const struct declared *t)
{
    json_t *shape = json_array();

    for (int i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I,I]}", "dtype",
                     t->dtype == SLC_BF16 ? "BF16" : "F32", "shape", shape,
                     "data_offsets", (json_int_t)t->begin, (json_int_t)t->end);
}

/* The 8 length bytes and the JSON, padded with spaces so that data starts aligned. */
static char *header_text(const struct slc_st_writer *w, size_t *len)
{
    /* "format": "pt" is what Transformers looks for before it loads a file. */
    json_t *o = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");

    for (int i = 0; i < w->n; i++)
        if (w->t[i].shard == w->shard)
            json_object_set_new(o, w->t[i].name, tensor_header(&w->t[i]));
    size_t n = json_dumpb(o, NULL, 0, JSON_COMPACT);
    size_t padded = (n + 7) / 8 * 8;
    char *text = n ? malloc(8 + padded) : NULL;
    if (text) {
        for (int i = 0; i < 8; i++)
            text[i] = (char)((uint64_t)padded >> (8 * i));
        json_dumpb(o, text + 8, n, JSON_COMPACT);
        memset(text + 8 + n, ' ', padded - n);
        *len = 8 + padded;
    }
    json_decref(o);
    return text;
}

static int close_shard(struct slc_st_writer *w, struct slc_err *e)
{
    int rc = 0, fd = w->fd;
    char path[PATH_MAX];

    if (fd < 0)
        return 0;
    w->fd = -1;
    if (path_of(w, w->shard, ".tmp", path, e) < 0) {
        close(fd);
        return -1;
    }
    if (fsync(fd) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s: %s", path, strerror(errno));
    if (close(fd) < 0 && rc == 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot close %s: %s", path, strerror(errno));
    return rc;
}

static int open_next_shard(struct slc_st_writer *w, struct slc_err *e)
{
    char path[PATH_MAX];
    size_t len = 0;
    int rc;

    if (close_shard(w, e) < 0)
        return -1;
    w->shard++;
    if (path_of(w, w->shard, ".tmp", path, e) < 0)
        return -1;
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", path,
                        strerror(errno));
    char *text = header_text(w, &len);
    if (!text)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the header of %s", path);
    rc = slc_pwrite_all(w->fd, text, len, 0, path, e);
    w->data = (int64_t)len;
    free(text);
    return rc;
}

/* Step over finished tensors, to the shard of the next one. */
static int advance(struct slc_st_writer *w, struct slc_err *e)
{
    if (w->n_shards == 0)
        lay_out(w);
    while (w->current < w->n && w->done == w->t[w->current].count) {
        w->current++;
        w->done = 0;
    }
    int last = w->current < w->n ? w->t[w->current].shard : w->n_shards - 1;
    while (w->shard < last)
        if (open_next_shard(w, e) < 0)
            return -1;
    return 0;
}

static int write_part(struct slc_st_writer *w, const float *data, int64_t count,
                      struct slc_err *e)
{
    const struct declared *t = &w->t[w->current];
    int64_t size = (int64_t)slc_dtype_size(t->dtype);
    int64_t at = w->data + t->begin + w->done * size;
    const void *from = data;
    char path[PATH_MAX];

    if (t->dtype == SLC_BF16) {
        for (int64_t i = 0; i < count; i++)
            w->convert[i] = slc_f32_to_bf16(data[i]);
        from = w->convert;
    }
    if (path_of(w, w->shard, ".tmp", path, e) < 0 ||
        slc_pwrite_all(w->fd, from, (size_t)(count * size), at, path, e) < 0)
        return -1;
    w->done += count;
    return 0;
}

int slc_st_write_f32(struct slc_st_writer *w, const float *data, int64_t count,
                     struct slc_err *e)
{
    while (count > 0) {
        if (advance(w, e) < 0)
            return -1;
        SLC_ASSERT(w->current < w->n);
        int64_t part = w->t[w->current].count - w->done;
        if (part > count)
            part = count;
        if (w->t[w->current].dtype == SLC_BF16 && part > CONVERT)
            part = CONVERT;
        if (write_part(w, data, part, e) < 0)
            return -1;
        data += part;
        count -= part;
    }
    return 0;
}

static int write_index(const struct slc_st_writer *w, struct slc_err *e)
{
    json_t *map = json_object();
    int64_t total = 0;
    char path[PATH_MAX];

    for (int i = 0; i < w->n; i++) {
        if (path_of(w, w->t[i].shard, "", path, e) < 0) {
            json_decref(map);
            return -1;
        }
        json_object_set_new(map, w->t[i].name, json_string(strrchr(path, '/') + 1));
        total += w->t[i].end - w->t[i].begin;
    }
    json_t *o = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total,
                          "weight_map", map);
    char *text = json_dumps(o, JSON_INDENT(2));
    int rc = -1;
    json_decref(o);
    if (snprintf(path, sizeof(path), "%s/model.safetensors.index.json", w->dir) >=
        PATH_MAX)
        slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", w->dir);
    else if (!text)
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to write %s", path);
    else
        rc = slc_file_replace(path, text, strlen(text), e);
    free(text);
    return rc;
}

static int publish(struct slc_st_writer *w, struct slc_err *e)
{
    char tmp[PATH_MAX], path[PATH_MAX];

    for (int i = 0; i < w->n_shards; i++) {
        if (path_of(w, i, ".tmp", tmp, e) < 0 || path_of(w, i, "", path, e) < 0)
            return -1;
        if (rename(tmp, path) < 0)
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot rename %s: %s", tmp,
                            strerror(errno));
    }
    if (w->n_shards > 1 && write_index(w, e) < 0)
        return -1;
    return slc_fsync_dir(w->dir, e);
}

static void free_writer(struct slc_st_writer *w)
{
    for (int i = 0; i < w->n; i++)
        free(w->t[i].name);
    free(w->t);
    free(w->dir);
    free(w);
}

int slc_st_finish(struct slc_st_writer *w, struct slc_err *e)
{
    if (advance(w, e) < 0)
        goto err_abandon;
    SLC_ASSERT(w->current == w->n);
    if (close_shard(w, e) < 0 || publish(w, e) < 0)
        goto err_abandon;
    free_writer(w);
    return 0;

err_abandon:
    slc_st_abandon(w);
    return -1;
}

void slc_st_abandon(struct slc_st_writer *w)
{
    char path[PATH_MAX];

    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    for (int i = 0; i <= w->shard; i++)
        if (path_of(w, i, ".tmp", path, NULL) == 0)
            unlink(path);
    free_writer(w);
}
