/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "data/corpus_private.h"

#define CHUNK (1 << 20)        /* bytes of text encoded at a time */
#define LINE_LIMIT (256 << 20) /* longest JSONL line */

/* One input being read, and the room for what one piece of it becomes. */
struct input {
    struct slc_build *b;
    const char *path;
    int fd;
    char *buf;        /* bytes read and not yet used: [at, used) */
    size_t cap, at, used;
    bool eof;
    int32_t *ids;
    uint8_t *mask;
    int64_t ids_cap;
};

static int need_ids(struct input *in, int64_t n, struct slc_err *e)
{
    if (n <= in->ids_cap)
        return 0;
    n += n / 4;
    int32_t *ids = realloc(in->ids, (size_t)n * sizeof(*ids));
    if (ids)
        in->ids = ids;
    uint8_t *mask = realloc(in->mask, (size_t)n);
    if (mask)
        in->mask = mask;
    if (!ids || !mask)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld tokens of %s", (long long)n,
                        in->path);
    in->ids_cap = n;
    return 0;
}

/* Read more behind what is there; sets eof at the end of the file. */
static int fill(struct input *in, struct slc_err *e)
{
    if (in->at > 0) {
        memmove(in->buf, in->buf + in->at, in->used - in->at);
        in->used -= in->at;
        in->at = 0;
    }
    if (in->used == in->cap) {
        char *buf = realloc(in->buf, 2 * in->cap);
        if (!buf)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a line of %s", in->path);
        in->buf = buf;
        in->cap *= 2;
    }
    ssize_t n;
    do
        n = read(in->fd, in->buf + in->used, in->cap - in->used);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot read %s: %s", in->path, strerror(errno));
    in->eof = n == 0;
    in->used += (size_t)n;
    return 0;
}

/* `bytes` of input are done: move on, commit now and then, show how far. */
static int advance(struct input *in, size_t bytes, struct slc_err *e)
{
    struct slc_build *b = in->b;

    in->at += bytes;
    b->partial.offset += (int64_t)bytes;
    b->uncommitted += (int64_t)bytes;
    if (b->uncommitted >= b->commit_bytes) {
        if (slc_partial_commit(&b->partial, e) < 0)
            return -1;
        b->uncommitted = 0;
    }
    if (b->o->progress)
        slc_bar_update(&b->bar, (double)(b->bytes_before + b->partial.offset) / 1e6,
                            in->path);
    return 0;
}

static int encode(struct input *in, const char *text, size_t len, int64_t *n,
                  struct slc_err *e)
{
    const struct slc_tokenizer *t = in->b->tokenizer;

    *n = slc_tokenizer_encode(t, text, len, in->ids, in->ids_cap);
    if (*n <= in->ids_cap)
        return 0;
    if (need_ids(in, *n, e) < 0)
        return -1;
    *n = slc_tokenizer_encode(t, text, len, in->ids, in->ids_cap);
    return 0;
}

/* A text file is one document, cut into pieces that are encoded one by one: for bytes
 * any cut gives the same ids. */
static int read_text(struct input *in, struct slc_err *e)
{
    struct slc_partial *p = &in->b->partial;

    if (!in->b->tokenizer)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "%s is text and no tokenizer is named; name one (bytes)", in->path);
    for (;;) {
        int64_t n;
        if (fill(in, e) < 0)
            return -1;
        if (in->used == 0)
            return 0;
        if (p->offset == 0 && slc_partial_document(p, e) < 0)
            return -1;
        if (encode(in, in->buf, in->used, &n, e) < 0 ||
            slc_partial_append(p, in->ids, NULL, n, e) < 0 || advance(in, in->used, e) < 0)
            return -1;
    }
}

static int line_error(const struct input *in, struct slc_err *e, const char *text)
{
    return slc_errf(e, SLC_EXIT_INPUT, "%s:%lld: %s", in->path,
                    (long long)in->b->partial.line, text);
}

/* Numbers of {"ids"} into in->ids. */
static int take_ids(struct input *in, const json_t *list, int64_t *n, struct slc_err *e)
{
    char text[128];

    if (!json_is_array(list))
        return line_error(in, e, "\"ids\" must be a list of integers");
    *n = (int64_t)json_array_size(list);
    if (need_ids(in, *n, e) < 0)
        return -1;
    for (int64_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_integer(v))
            return line_error(in, e, "\"ids\" must be a list of integers");
        json_int_t id = json_integer_value(v);
        if (id < 0 || id >= in->b->vocab) {
            snprintf(text, sizeof(text),
                     "id %lld at place %lld is outside the vocabulary, 0 to %lld",
                     (long long)id, (long long)i, (long long)in->b->vocab - 1);
            return line_error(in, e, text);
        }
        in->ids[i] = (int32_t)id;
    }
    return 0;
}

static int take_mask(struct input *in, const json_t *list, int64_t n, struct slc_err *e)
{
    if (!json_is_array(list) || (int64_t)json_array_size(list) != n)
        return line_error(in, e, "\"mask\" must be a list as long as \"ids\"");
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        json_int_t m = json_is_boolean(v) ? json_is_true(v)
                       : json_is_integer(v) ? json_integer_value(v)
                                            : -1;
        if (m != 0 && m != 1)
            return line_error(in, e, "\"mask\" must hold 0 and 1 only");
        in->mask[i] = (uint8_t)m;
    }
    return 0;
}

/* One parsed line becomes one document; *masked says whether in->mask is filled. */
static int take_document(struct input *in, const json_t *o, int64_t *n, bool *masked,
                         struct slc_err *e)
{
    const json_t *text = json_object_get(o, "text");
    const json_t *ids = json_object_get(o, "ids");
    const json_t *mask = json_object_get(o, "mask");

    *masked = mask && !json_is_null(mask);
    if (!json_is_object(o) || (!text == !ids))
        return line_error(in, e, "must be an object with either \"text\" or \"ids\"");
    if (ids) {
        if (take_ids(in, ids, n, e) < 0)
            return -1;
        return *masked ? take_mask(in, mask, *n, e) : 0;
    }
    if (!json_is_string(text))
        return line_error(in, e, "\"text\" must be a string");
    if (*masked)
        return line_error(in, e, "\"mask\" goes with \"ids\" only");
    if (!in->b->tokenizer)
        return line_error(in, e, "has text and no tokenizer is named; name one (bytes)");
    return encode(in, json_string_value(text), json_string_length(text), n, e);
}

static int take_line(struct input *in, const char *line, size_t len, struct slc_err *e)
{
    struct slc_partial *p = &in->b->partial;
    json_error_t je;
    char text[sizeof(je.text) + 32];
    int64_t n = 0;
    bool masked;

    p->line++;
    if (strspn(line, " \t\r") >= len)
        return 0;
    json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!o) {
        snprintf(text, sizeof(text), "column %d: %s", je.column, je.text);
        return line_error(in, e, text);
    }
    int rc = take_document(in, o, &n, &masked, e);
    json_decref(o);
    if (rc < 0)
        return -1;
    if (n == 0) {
        in->b->empty++;
        return 0;
    }
    if (slc_partial_document(p, e) < 0)
        return -1;
    return slc_partial_append(p, in->ids, masked ? in->mask : NULL, n, e);
}

static int read_lines(struct input *in, struct slc_err *e)
{
    size_t searched = 0; /* bytes behind `at` known to hold no newline */

    for (;;) {
        char *end = memchr(in->buf + in->at + searched, '\n', in->used - in->at - searched);
        if (!end && !in->eof) {
            searched = in->used - in->at;
            if (searched >= LINE_LIMIT) {
                in->b->partial.line++;
                return line_error(in, e, "is longer than 256 MiB; cut the document");
            }
            if (fill(in, e) < 0)
                return -1;
            continue;
        }
        if (!end && in->at == in->used)
            return 0;
        /* What is behind the line in memory ends the search for blanks too. */
        size_t len = end ? (size_t)(end - in->buf) - in->at : in->used - in->at;
        if (!end && in->used == in->cap && fill(in, e) < 0)
            return -1;
        in->buf[in->at + len] = '\n';
        if (take_line(in, in->buf + in->at, len, e) < 0 || advance(in, len + !!end, e) < 0)
            return -1;
        searched = 0;
    }
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

static int open_input(struct input *in, struct slc_err *e)
{
    in->fd = open(in->path, O_RDONLY | O_CLOEXEC);
    if (in->fd < 0)
        return slc_errf(e, SLC_EXIT_INPUT, "cannot open %s: %s", in->path, strerror(errno));
    if (lseek(in->fd, in->b->partial.offset, SEEK_SET) < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot seek in %s: %s", in->path,
                        strerror(errno));
    in->cap = CHUNK;
    in->buf = malloc(in->cap);
    if (!in->buf)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to read %s", in->path);
    return need_ids(in, CHUNK, e);
}

int slc_build_input(struct slc_build *b, struct slc_err *e)
{
    struct input in = {.b = b, .path = b->o->inputs[b->partial.input], .fd = -1};
    int rc = open_input(&in, e);

    if (rc == 0 && ends_with(in.path, ".txt"))
        rc = read_text(&in, e);
    else if (rc == 0)
        rc = read_lines(&in, e);
    if (rc == 0 && b->partial.input_tokens == 0)
        rc = slc_errf(e, SLC_EXIT_INPUT, "%s holds no text; leave it out", in.path);
    if (in.fd >= 0)
        close(in.fd);
    free(in.buf);
    free(in.ids);
    free(in.mask);
    return rc;
}
