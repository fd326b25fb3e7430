/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/json.h"

#define LAST_LINE "\"crc32c\": \"%08x\"}\n"
#define LAST_BYTES 22

/* -- the small state ---------------------------------------------------------- */

void slc_ckpt_state_release(struct slc_ckpt_state *s)
{
    free(s->config);
    free(s->run_file);
    free(s->versions);
    memset(s, 0, sizeof(*s));
}

int slc_ckpt_state_copy(struct slc_ckpt_state *to, const struct slc_ckpt_state *from,
                        struct slc_err *e)
{
    *to = *from;
    to->config = strdup(from->config ? from->config : "");
    to->run_file = strdup(from->run_file ? from->run_file : "");
    to->versions = strdup(from->versions ? from->versions : "");
    if (to->config && to->run_file && to->versions)
        return 0;
    slc_ckpt_state_release(to);
    return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the state of a checkpoint");
}

/* Numbers that JSON's integers or reals cannot hold travel as text. */
static json_t *hex(uint64_t x)
{
    char text[24];

    snprintf(text, sizeof(text), "%016llx", (unsigned long long)x);
    return json_string(text);
}

static json_t *real(double x)
{
    char text[40];

    snprintf(text, sizeof(text), "%.17g", x);
    return json_string(text);
}

static json_t *state_json(const struct slc_ckpt_state *s)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:s, s:s, s:s}", "step",
        (json_int_t)s->step, "updates", (json_int_t)s->updates, "samples",
        (json_int_t)s->samples, "tokens", (json_int_t)s->tokens, "skipped",
        (json_int_t)s->skipped, "seed", hex(s->seed), "spec_digest",
        hex(s->spec_digest), "corpus_digest", hex(s->corpus_digest), "best_validation",
        real(s->best_validation), "config", s->config ? s->config : "", "run_file",
        s->run_file ? s->run_file : "", "versions", s->versions ? s->versions : "");
}

static int get_text(const json_t *o, const char *key, char **out, const char *where,
                    struct slc_err *e)
{
    const char *text;

    if (slc_json_need_str(o, key, &text, where, e) < 0)
        return -1;
    *out = strdup(text);
    return *out ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory to read %s", where);
}

static int get_hex(const json_t *o, const char *key, int digits, uint64_t *out,
                   const char *where, struct slc_err *e)
{
    const char *text;
    char *end;

    if (slc_json_need_str(o, key, &text, where, e) < 0)
        return -1;
    *out = strtoull(text, &end, 16);
    if ((int)strlen(text) != digits || *end)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" must have %d hexadecimal digits",
                        where, key, digits);
    return 0;
}

static int get_crc(const json_t *o, const char *key, uint32_t *out, const char *where,
                   struct slc_err *e)
{
    uint64_t x;

    if (get_hex(o, key, 8, &x, where, e) < 0)
        return -1;
    *out = (uint32_t)x;
    return 0;
}

static int read_state(struct slc_ckpt_state *s, const json_t *o, const char *where,
                      struct slc_err *e)
{
    const char *best;

    if (slc_json_need_int(o, "step", &s->step, where, e) < 0 ||
        slc_json_need_int(o, "updates", &s->updates, where, e) < 0 ||
        slc_json_need_int(o, "samples", &s->samples, where, e) < 0 ||
        slc_json_need_int(o, "tokens", &s->tokens, where, e) < 0 ||
        slc_json_need_int(o, "skipped", &s->skipped, where, e) < 0 ||
        get_hex(o, "seed", 16, &s->seed, where, e) < 0 ||
        get_hex(o, "spec_digest", 16, &s->spec_digest, where, e) < 0 ||
        get_hex(o, "corpus_digest", 16, &s->corpus_digest, where, e) < 0 ||
        slc_json_need_str(o, "best_validation", &best, where, e) < 0 ||
        get_text(o, "config", &s->config, where, e) < 0 ||
        get_text(o, "run_file", &s->run_file, where, e) < 0 ||
        get_text(o, "versions", &s->versions, where, e) < 0)
        return -1;
    s->best_validation = strtod(best, NULL);
    return 0;
}

/* -- writing ------------------------------------------------------------------ */

static json_t *crc_json(uint32_t crc)
{
    char text[12];

    snprintf(text, sizeof(text), "%08x", crc);
    return json_string(text);
}

static json_t *files_json(const struct slc_manifest *m)
{
    int64_t blocks = 0;

    for (int i = 0; i < m->n; i++)
        blocks += slc_manifest_blocks(m->t[i].entry.bytes);
    return json_pack("{s:{s:I, s:o}, s:{s:I, s:I, s:o}}", "state.h5", "bytes",
                     (json_int_t)m->file_bytes, "metadata_crc",
                     crc_json(m->metadata_crc), "blocks.crc", "bytes",
                     (json_int_t)(SLC_CKPT_BLOCKS_HEADER + 4 * blocks), "block_bytes",
                     (json_int_t)SLC_CKPT_BLOCK, "crc", crc_json(m->blocks_crc));
}

static json_t *tensor_json(const struct slc_manifest_tensor *t)
{
    json_t *shape = json_array();

    for (int i = 0; i < t->entry.ndim; i++)
        json_array_append_new(shape, json_integer(t->entry.shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:o}", "name", t->entry.name, "dtype",
                     slc_dtype_name(t->entry.dtype), "shape", shape, "offset",
                     (json_int_t)t->offset, "bytes", (json_int_t)t->entry.bytes, "crc",
                     crc_json(t->entry.crc));
}

/* One value and what follows it; false when it could not be made (texts not UTF-8). */
static bool put(FILE *f, json_t *o, const char *after)
{
    bool ok = o && json_dumpf(o, f, JSON_ENCODE_ANY) == 0;

    json_decref(o);
    fputs(after, f);
    return ok;
}

char *slc_manifest_text(const struct slc_manifest *m, size_t *len, struct slc_err *e)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, len);

    if (!f) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a manifest");
        return NULL;
    }
    fprintf(f,
            "{\n\"format\": \"sluice-checkpoint\", \"version\": 1,\n\"world\": %d,\n",
            m->world);
    fputs("\"state\": ", f);
    bool ok = put(f, state_json(&m->state), ",\n\"files\": ");
    ok = ok && put(f, files_json(m), ",\n\"tensors\": [\n");
    for (int i = 0; i < m->n && ok; i++)
        ok = put(f, tensor_json(&m->t[i]), i < m->n - 1 ? ",\n" : "\n");
    fputs("],\n", f);
    if (fflush(f) == 0)
        fprintf(f, LAST_LINE, slc_crc32c(0, text, *len));
    if (fclose(f) != 0 || !ok) {
        free(text);
        slc_errf(
            e, SLC_EXIT_SYSTEM,
            "cannot write a manifest: no memory, or a text of the state is not UTF-8");
        return NULL;
    }
    return text;
}

/* -- reading ------------------------------------------------------------------ */

static int read_shape(struct slc_ckpt_entry *x, const json_t *shape, const char *where,
                      struct slc_err *e)
{
    int64_t count = 1, size = (int64_t)slc_dtype_size(x->dtype);

    x->ndim = (int)json_array_size(shape);
    bool ok = json_is_array(shape) && x->ndim <= 4 && size > 0;
    for (int i = 0; i < x->ndim && ok; i++) {
        x->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        ok = x->shape[i] > 0 && !__builtin_mul_overflow(count, x->shape[i], &count);
    }
    if (!ok || __builtin_mul_overflow(count, size, &count) || count != x->bytes)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s: shape and bytes do not fit",
                        where, x->name);
    return 0;
}

static int read_tensor(struct slc_manifest_tensor *t, const json_t *o,
                       const char *where, struct slc_err *e)
{
    struct slc_ckpt_entry *x = &t->entry;
    const char *name, *dtype;
    int d = SLC_F32;

    if (slc_json_need_str(o, "name", &name, where, e) < 0 ||
        slc_json_need_str(o, "dtype", &dtype, where, e) < 0 ||
        slc_json_need_int(o, "offset", &t->offset, where, e) < 0 ||
        slc_json_need_int(o, "bytes", &x->bytes, where, e) < 0 ||
        get_crc(o, "crc", &x->crc, where, e) < 0)
        return -1;
    if (strlen(name) >= sizeof(x->name))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: name too long: %.64s", where, name);
    snprintf(x->name, sizeof(x->name), "%s", name);
    while (d <= SLC_U8 && strcmp(slc_dtype_name((enum slc_dtype)d), dtype))
        d++;
    if (d > SLC_U8)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s: unknown dtype %.32s", where,
                        x->name, dtype);
    x->dtype = (enum slc_dtype)d;
    return read_shape(x, json_object_get(o, "shape"), where, e);
}

static int by_name(const void *a, const void *b, void *tensors)
{
    const struct slc_manifest_tensor *t = tensors;

    return strcmp(t[*(const int *)a].entry.name, t[*(const int *)b].entry.name);
}

static int by_offset(const void *a, const void *b, void *tensors)
{
    const struct slc_manifest_tensor *t = tensors;
    int64_t x = t[*(const int *)a].offset, y = t[*(const int *)b].offset;

    return (x > y) - (x < y);
}

/* Extents inside the file, apart from each other; names once; then the name index. */
static int check_tensors(struct slc_manifest *m, const char *where, struct slc_err *e)
{
    int64_t at = 0;

    for (int i = 0; i < m->n; i++)
        m->by_name[i] = i;
    qsort_r(m->by_name, (size_t)m->n, sizeof(int), by_offset, m->t);
    for (int i = 0; i < m->n; i++) {
        const struct slc_manifest_tensor *t = &m->t[m->by_name[i]];
        if (t->offset < at || t->entry.bytes > m->file_bytes - t->offset)
            return slc_errf(
                e, SLC_EXIT_INPUT,
                "%s: tensor %s: its bytes overlap another or pass the end of "
                "state.h5",
                where, t->entry.name);
        at = t->offset + t->entry.bytes;
    }
    qsort_r(m->by_name, (size_t)m->n, sizeof(int), by_name, m->t);
    for (int i = 1; i < m->n; i++)
        if (!strcmp(m->t[m->by_name[i - 1]].entry.name, m->t[m->by_name[i]].entry.name))
            return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s is listed twice", where,
                            m->t[m->by_name[i]].entry.name);
    return 0;
}

static int read_files(struct slc_manifest *m, const json_t *o, const char *where,
                      struct slc_err *e)
{
    const json_t *state = json_object_get(o, "state.h5");
    const json_t *blocks = json_object_get(o, "blocks.crc");
    int64_t bytes, block;

    if (slc_json_need_int(state, "bytes", &m->file_bytes, where, e) < 0 ||
        get_crc(state, "metadata_crc", &m->metadata_crc, where, e) < 0 ||
        slc_json_need_int(blocks, "bytes", &bytes, where, e) < 0 ||
        slc_json_need_int(blocks, "block_bytes", &block, where, e) < 0 ||
        get_crc(blocks, "crc", &m->blocks_crc, where, e) < 0)
        return -1;
    if (block != SLC_CKPT_BLOCK || bytes < SLC_CKPT_BLOCKS_HEADER ||
        (bytes - SLC_CKPT_BLOCKS_HEADER) % 4)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: sizes of blocks.crc do not fit", where);
    m->n_blocks = (bytes - SLC_CKPT_BLOCKS_HEADER) / 4;
    return 0;
}

static int read_tensors(struct slc_manifest *m, const json_t *list, const char *where,
                        struct slc_err *e)
{
    int64_t block = 0;
    size_t n = json_array_size(list);

    if (!json_is_array(list) || n > 10000000)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"tensors\" must be a list", where);
    m->t = calloc(n + 1, sizeof(*m->t));
    m->by_name = calloc(n + 1, sizeof(int));
    if (!m->t || !m->by_name)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s",
                        where);
    for (m->n = 0; m->n < (int)n; m->n++) {
        struct slc_manifest_tensor *t = &m->t[m->n];
        if (read_tensor(t, json_array_get(list, (size_t)m->n), where, e) < 0)
            return -1;
        t->block = block;
        block += slc_manifest_blocks(t->entry.bytes);
    }
    if (block != m->n_blocks)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: %lld blocks, but the tensors have %lld",
                        where, (long long)m->n_blocks, (long long)block);
    return check_tensors(m, where, e);
}

static int check_last_line(const char *text, size_t len, const char *where,
                           struct slc_err *e)
{
    char want[LAST_BYTES + 1];

    if (len > LAST_BYTES) {
        snprintf(want, sizeof(want), LAST_LINE, slc_crc32c(0, text, len - LAST_BYTES));
        if (!memcmp(text + len - LAST_BYTES, want, LAST_BYTES))
            return 0;
    }
    return slc_errf(e, SLC_EXIT_CHECKPOINT,
                    "%s: damaged: its last line is not the CRC-32C of the lines before",
                    where);
}

int slc_manifest_parse(struct slc_manifest *m, const char *text, size_t len,
                       const char *where, struct slc_err *e)
{
    const char *format = "";
    int64_t version = 0, world = 0;

    memset(m, 0, sizeof(*m));
    if (check_last_line(text, len, where, e) < 0)
        return -1;
    json_t *o = slc_json_parse(text, len, where, e);
    if (!o)
        return -1;
    if (slc_json_need_str(o, "format", &format, where, e) < 0 ||
        slc_json_need_int(o, "version", &version, where, e) < 0 ||
        slc_json_need_int(o, "world", &world, where, e) < 0)
        goto err_release;
    if (strcmp(format, "sluice-checkpoint") || version != 1) {
        slc_errf(
            e, SLC_EXIT_UNSUPPORTED,
            "%s: not supported: checkpoint format %.32s version %lld; this version of "
            "sluice reads version 1",
            where, format, (long long)version);
        goto err_release;
    }
    m->world = (int)world;
    if (read_state(&m->state, json_object_get(o, "state"), where, e) < 0 ||
        read_files(m, json_object_get(o, "files"), where, e) < 0 ||
        read_tensors(m, json_object_get(o, "tensors"), where, e) < 0)
        goto err_release;
    json_decref(o);
    return 0;

err_release:
    json_decref(o);
    slc_manifest_release(m);
    return -1;
}

void slc_manifest_release(struct slc_manifest *m)
{
    slc_ckpt_state_release(&m->state);
    free(m->t);
    free(m->by_name);
    memset(m, 0, sizeof(*m));
}

int slc_manifest_find(const struct slc_manifest *m, const char *name)
{
    int lo = 0, hi = m->n - 1;

    while (lo <= hi) {
        int mid = lo + (hi - lo) / 2;
        int c = strcmp(name, m->t[m->by_name[mid]].entry.name);
        if (c == 0)
            return m->by_name[mid];
        if (c < 0)
            hi = mid - 1;
        else
            lo = mid + 1;
    }
    return -1;
}
