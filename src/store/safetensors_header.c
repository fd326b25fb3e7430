/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/safetensors_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define TENSORS_MAX 1000000u

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

bool slc_st_printable(const char *name)
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

    if (!slc_st_printable(name))
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

int slc_st_read_header(struct slc_st *s, int shard, struct slc_err *e)
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
    if (len > SLC_ST_HEADER_MAX)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: header too long: %llu bytes, at most %u are allowed",
                        f->path, (unsigned long long)len, SLC_ST_HEADER_MAX);
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
