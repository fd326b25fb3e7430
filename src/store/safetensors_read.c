/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/safetensors.h"

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

#define HEADER_MAX 100000000u /* as the reference implementation */
#define TENSORS_MAX 1000000u

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

/* Every type of the format; only the first two are read. */
static const struct type {
    const char *name;
    int bits;
} types[] = {
    {"F32", 32},        {"BF16", 16},       {"F16", 16}, {"F64", 64},    {"I8", 8},
    {"I16", 16},        {"I32", 32},        {"I64", 64}, {"U8", 8},      {"U16", 16},
    {"U32", 32},        {"U64", 64},        {"BOOL", 8}, {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E8M0", 8},     {"C64", 64},        {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

static const struct type *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (!strcmp(types[i].name, name))
            return &types[i];
    return NULL;
}

/* Shape and bytes of one tensor; product and size are checked for overflow. */
static int read_shape(struct entry *x, const json_t *shape, int bits, const char *path,
                      struct slc_err *e)
{
    int64_t total;

    if (!json_is_array(shape) || json_array_size(shape) > 8)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: tensor %s: shape must be a list of at most 8 sizes", path,
                        x->name);
    x->t.ndim = (int)json_array_size(shape);
    x->t.count = 1;
    for (int i = 0; i < x->t.ndim; i++) {
        const json_t *v = json_array_get(shape, (size_t)i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: tensor %s: size %d of its shape is not a whole number",
                            path, x->name, i);
        x->t.shape[i] = json_integer_value(v);
        if (__builtin_mul_overflow(x->t.count, x->t.shape[i], &x->t.count))
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: tensor %s: the product of its shape is too large",
                            path, x->name);
    }
    if (__builtin_mul_overflow(x->t.count, (int64_t)bits, &total))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: tensor %s: the product of its shape is too large", path,
                        x->name);
    if (total % 8 != 0 || total / 8 != x->end - x->begin)
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: tensor %s: its shape and type need %lld bits, data_offsets "
            "give %lld bytes",
            path, x->name, (long long)total, (long long)(x->end - x->begin));
    return 0;
}

static int read_offsets(struct entry *x, const json_t *pair, const char *path,
                        struct slc_err *e)
{
    const json_t *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);

    if (!json_is_array(pair) || json_array_size(pair) != 2 || !json_is_integer(a) ||
        !json_is_integer(b) || json_integer_value(a) < 0 ||
        json_integer_value(b) < json_integer_value(a))
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: tensor %s: data_offsets must be [begin, end] with 0 <= begin "
            "<= end",
            path, x->name);
    x->begin = json_integer_value(a);
    x->end = json_integer_value(b);
    return 0;
}

static bool printable(const char *name)
{
    if (!*name || strlen(name) > 1024)
        return false;
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7f)
            return false;
    return true;
}

static int read_tensor(struct entry *x, const char *name, const json_t *o,
                       const char *path, struct slc_err *e)
{
    const char *type = json_string_value(json_object_get(o, "dtype"));
    const struct type *known;

    if (!printable(name))
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: a tensor name is empty, longer than 1024 bytes, or has control "
            "characters",
            path);
    x->name = strdup(name);
    if (!x->name)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                        path);
    x->t.name = x->name;
    if (!json_is_object(o) || json_object_size(o) != 3 || !type ||
        !json_object_get(o, "shape") || !json_object_get(o, "data_offsets"))
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: tensor %s: must have dtype, shape and data_offsets, no more", path,
            name);
    known = find_type(type);
    if (!known)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s: unknown dtype \"%.32s\"",
                        path, name, type);
    x->t.type = known->name;
    x->t.readable = known == &types[0] || known == &types[1];
    x->t.dtype = known == &types[1] ? SLC_BF16 : SLC_F32;
    if (read_offsets(x, json_object_get(o, "data_offsets"), path, e) < 0)
        return -1;
    return read_shape(x, json_object_get(o, "shape"), known->bits, path, e);
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Data without gap or overlap, up to the end of the file. */
static int check_cover(struct entry *x, int n, const struct shard *f, struct slc_err *e)
{
    int64_t at = 0, have = f->bytes - f->data;

    qsort(x, (size_t)n, sizeof(*x), by_offset);
    for (int i = 0; i < n; i++) {
        if (x[i].begin < at)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: tensor %s: its data overlaps tensor %s", f->path,
                            x[i].name, x[i - 1].name);
        if (x[i].begin > at)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: tensor %s: gap of %lld bytes before its data", f->path,
                            x[i].name, (long long)(x[i].begin - at));
        at = x[i].end;
        if (at > have)
            return slc_errf(
                e, SLC_EXIT_INPUT,
                "%s: tensor %s: truncated: its data end at byte %lld, the file "
                "has %lld",
                f->path, x[i].name, (long long)at, (long long)have);
    }
    if (at < have)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: %lld bytes after the last tensor",
                        f->path, (long long)(have - at));
    return 0;
}

static int grow(struct slc_st *s, size_t more, const char *path, struct slc_err *e)
{
    size_t want = (size_t)s->n + more;

    if (want > TENSORS_MAX)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: more than %u tensors", path,
                        TENSORS_MAX);
    if (want > (size_t)s->capacity) {
        struct entry *x = realloc(s->entries, want * sizeof(*x));
        if (!x)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                            path);
        memset(x + s->capacity, 0, (want - (size_t)s->capacity) * sizeof(*x));
        s->entries = x;
        s->capacity = (int)want;
    }
    return 0;
}

static int check_metadata(const json_t *o, const char *path, struct slc_err *e)
{
    const char *key;
    json_t *v;

    if (!json_is_object(o))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: __metadata__ must be an object", path);
    json_object_foreach((json_t *)o, key, v) if (!json_is_string(v)) return slc_errf(
        e, SLC_EXIT_INPUT, "%s: __metadata__ must hold texts only", path);
    return 0;
}

static int read_entries(struct slc_st *s, int shard, const json_t *header,
                        struct slc_err *e)
{
    const struct shard *f = &s->shards[shard];
    int first = s->n;
    const char *name;
    json_t *o;

    if (!json_is_object(header))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: the header is not a JSON object",
                        f->path);
    if (grow(s, json_object_size(header), f->path, e) < 0)
        return -1;
    json_object_foreach((json_t *)header, name, o)
    {
        if (!strcmp(name, "__metadata__")) {
            if (check_metadata(o, f->path, e) < 0)
                return -1;
            continue;
        }
        struct entry *x = &s->entries[s->n++];
        x->shard = shard;
        if (read_tensor(x, name, o, f->path, e) < 0)
            return -1;
    }
    return check_cover(s->entries + first, s->n - first, f, e);
}

static int read_header(struct slc_st *s, int shard, struct slc_err *e)
{
    struct shard *f = &s->shards[shard];
    unsigned char b[8];
    uint64_t len = 0;
    int rc = -1;

    if (f->bytes < 8)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: %lld bytes is too short for safetensors", f->path,
                        (long long)f->bytes);
    if (slc_pread_all(f->fd, b, 8, 0, f->path, e) < 0)
        return -1;
    for (int i = 7; i >= 0; i--)
        len = len << 8 | b[i];
    if (len > HEADER_MAX)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: header too long: %llu bytes, at most %u are allowed",
                        f->path, (unsigned long long)len, HEADER_MAX);
    if ((int64_t)len > f->bytes - 8)
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: header too long: %llu bytes, but the file is truncated or has "
            "only %lld after the length",
            f->path, (unsigned long long)len, (long long)(f->bytes - 8));
    f->data = 8 + (int64_t)len;
    char *text = malloc(len + 1);
    if (!text)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the header of %s", f->path);
    if (slc_pread_all(f->fd, text, len, 8, f->path, e) < 0)
        goto out;
    if (len == 0 || text[0] != '{') {
        slc_errf(e, SLC_EXIT_INPUT, "%s: not safetensors: the header must start with {",
                 f->path);
        goto out;
    }
    json_t *header = slc_json_parse(text, len, f->path, e);
    if (header)
        rc = read_entries(s, shard, header, e);
    json_decref(header);
out:
    free(text);
    return rc;
}

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
    return read_header(s, s->n_shards - 1, e);
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
        if (!file || !*file || strchr(file, '/') || file[0] == '.' || !printable(file))
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
    json_t *o = slc_json_load(index, HEADER_MAX, e);
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
