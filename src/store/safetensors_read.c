/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/safetensors_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

static int open_shard(struct slc_st *s, const char *path, struct slc_err *e)
{
    struct shard *f = realloc(s->shards, (size_t)(s->n_shards + 1) * sizeof(*f));
    struct stat st;

    if (!f)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to open %s", path);
    s->shards = f;
    f += s->n_shards;
    *f = (struct shard){.path = strdup(path), .fd = open(path, O_RDONLY | O_CLOEXEC)};
    s->n_shards++;
    if (f->fd < 0)
        return slc_errf(e, SLC_EXIT_INPUT, "cannot open %s: %s", path, strerror(errno));
    if (!f->path || fstat(f->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return slc_errf(e, SLC_EXIT_INPUT, "%s is not a regular file", path);
    f->bytes = st.st_size;
    return slc_st_read_header(s, s->n_shards - 1, e);
}

static int by_name(const void *a, const void *b, void *entries)
{
    const struct entry *x = entries;

    return strcmp(x[*(const int *)a].name, x[*(const int *)b].name);
}

static int sort_names(struct slc_st *s, const char *path, struct slc_err *e)
{
    s->by_name = malloc(((size_t)s->n + 1) * sizeof(int));
    if (!s->by_name)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                        path);
    for (int i = 0; i < s->n; i++)
        s->by_name[i] = i;
    qsort_r(s->by_name, (size_t)s->n, sizeof(int), by_name, s->entries);
    for (int i = 1; i < s->n; i++) {
        const struct entry *a = &s->entries[s->by_name[i - 1]];
        const struct entry *b = &s->entries[s->by_name[i]];
        if (!strcmp(a->name, b->name))
            return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s is also in %s",
                            s->shards[a->shard].path, a->name,
                            s->shards[b->shard].path);
    }
    return 0;
}

/* Each shard the index names, once, in the index's order. */
static int open_shards(struct slc_st *s, const char *dir, const json_t *map,
                       const char *index, struct slc_err *e)
{
    char path[PATH_MAX];
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)map, name, v)
    {
        const char *file = json_string_value(v);
        bool seen = false;
        if (!file || !*file || strchr(file, '/') || file[0] == '.' ||
            !slc_st_printable(file))
            return slc_errf(
                e, SLC_EXIT_INPUT,
                "%s: tensor %s: its file must be a plain name in this folder", index,
                name);
        if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= PATH_MAX)
            return slc_errf(e, SLC_EXIT_INPUT, "path is too long: %s/%s", dir, file);
        for (int i = s->n_shards - 1; i >= 0 && !seen; i--)
            seen = !strcmp(s->shards[i].path, path);
        if (!seen && open_shard(s, path, e) < 0)
            return -1;
    }
    return 0;
}

static int check_index(const struct slc_st *s, const json_t *map, const char *index,
                       struct slc_err *e)
{
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)map, name, v)
    {
        int i = slc_st_find(s, name);
        const char *file = json_string_value(v);
        const char *slash = i < 0 ? NULL : strrchr(slc_st_path(s, i), '/');
        if (i < 0 || strcmp(slash + 1, file))
            return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s is not in %s as it says",
                            index, name, file);
    }
    if (json_object_size(map) == (size_t)s->n)
        return 0;
    for (int i = 0; i < s->n; i++)
        if (!json_object_get(map, s->entries[i].name))
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: tensor %s of %s is not in the index", index,
                            s->entries[i].name, slc_st_path(s, i));
    return 0;
}

static int open_index(struct slc_st *s, const char *dir, const char *index,
                      struct slc_err *e)
{
    json_t *o = slc_json_load(index, SLC_ST_HEADER_MAX, e);
    const json_t *map = json_object_get(o, "weight_map");
    int rc = -1;

    if (!o)
        return -1;
    if (!json_is_object(map) || json_object_size(map) == 0)
        slc_errf(e, SLC_EXIT_INPUT, "%s: \"weight_map\" is missing or empty", index);
    else if (open_shards(s, dir, map, index, e) == 0 && sort_names(s, index, e) == 0)
        rc = check_index(s, map, index, e);
    json_decref(o);
    return rc;
}

static int open_folder(struct slc_st *s, const char *dir, struct slc_err *e)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/model.safetensors.index.json", dir) >=
        PATH_MAX)
        return slc_errf(e, SLC_EXIT_INPUT, "path is too long: %s", dir);
    if (access(path, F_OK) == 0)
        return open_index(s, dir, path, e);
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    if (access(path, F_OK) < 0)
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s has neither model.safetensors nor model.safetensors.index.json", dir);
    if (open_shard(s, path, e) < 0)
        return -1;
    return sort_names(s, path, e);
}

struct slc_st *slc_st_open(const char *path, struct slc_err *e)
{
    struct slc_st *s = calloc(1, sizeof(*s));
    struct stat st;
    int rc;

    if (!s) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to open %s", path);
        return NULL;
    }
    if (stat(path, &st) < 0)
        rc = slc_errf(e, SLC_EXIT_INPUT, "cannot open %s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        rc = open_folder(s, path, e);
    else if ((rc = open_shard(s, path, e)) == 0)
        rc = sort_names(s, path, e);
    if (rc < 0) {
        slc_st_close(s);
        return NULL;
    }
    return s;
}

void slc_st_close(struct slc_st *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        free(s->entries[i].name);
    for (int i = 0; i < s->n_shards; i++) {
        if (s->shards[i].fd >= 0)
            close(s->shards[i].fd);
        free(s->shards[i].path);
    }
    free(s->by_name);
    free(s->entries);
    free(s->shards);
    free(s);
}

int slc_st_count(const struct slc_st *s)
{
    return s->n;
}

const struct slc_st_tensor *slc_st_get(const struct slc_st *s, int i)
{
    return &s->entries[i].t;
}

const char *slc_st_path(const struct slc_st *s, int i)
{
    return s->shards[s->entries[i].shard].path;
}

int slc_st_find(const struct slc_st *s, const char *name)
{
    int lo = 0, hi = s->n - 1;

    while (lo <= hi) {
        int mid = lo + (hi - lo) / 2;
        int c = strcmp(name, s->entries[s->by_name[mid]].name);
        if (c == 0)
            return s->by_name[mid];
        if (c < 0)
            hi = mid - 1;
        else
            lo = mid + 1;
    }
    return -1;
}

/* bf16 read into the upper half of out, then widened from the front: element i is
 * written at 4i..4i+3, and what is still to be read begins at 2 count + 2i + 2, never
 * below. */
static void widen(float *out, int64_t count)
{
    const char *from = (const char *)out + 2 * count;

    for (int64_t i = 0; i < count; i++) {
        uint16_t x;
        memcpy(&x, from + 2 * i, 2);
        out[i] = slc_bf16_to_f32(x);
    }
}

int slc_st_read_f32(struct slc_st *s, int i, int64_t start, int64_t count, float *out,
                    struct slc_err *e)
{
    const struct entry *x = &s->entries[i];
    const struct shard *f = &s->shards[x->shard];
    int64_t size = (int64_t)slc_dtype_size(x->t.dtype);
    bool bf16 = x->t.dtype == SLC_BF16;

    if (!x->t.readable)
        return slc_errf(
            e, SLC_EXIT_UNSUPPORTED,
            "not supported: tensor %s of %s has type %s; convert it to F32 or "
            "BF16",
            x->name, f->path, x->t.type);
    SLC_ASSERT(start >= 0 && count >= 0 && start <= x->t.count - count);
    if (slc_pread_all(f->fd, (char *)out + (bf16 ? 2 * count : 0),
                      (size_t)(count * size), f->data + x->begin + start * size,
                      f->path, e) < 0)
        return -1;
    if (bf16)
        widen(out, count);
    return 0;
}
