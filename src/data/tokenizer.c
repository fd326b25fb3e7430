/* SPDX-License-Identifier: Apache-2.0 */
#include "data/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* One kind of tokenizer; `state` is its own. */
struct slc_tokenizer_kind {
    const char *name;
    int64_t vocab;
    int64_t (*encode)(const void *state, const char *text, size_t len, int32_t *ids,
                      int64_t cap);
    int64_t (*decode)(const void *state, const int32_t *ids, int64_t n, char *text,
                      int64_t cap);
};

struct slc_tokenizer {
    const struct slc_tokenizer_kind *kind;
    const void *state;
};

static int64_t bytes_encode(const void *state, const char *text, size_t len, int32_t *ids,
                            int64_t cap)
{
    (void)state;
    for (int64_t i = 0; i < (int64_t)len && i < cap; i++)
        ids[i] = (unsigned char)text[i];
    return (int64_t)len;
}

static int64_t bytes_decode(const void *state, const int32_t *ids, int64_t n, char *text,
                            int64_t cap)
{
    static const char unknown[] = "\xef\xbf\xbd"; /* U+FFFD */
    int64_t at = 0;

    (void)state;
    for (int64_t i = 0; i < n; i++) {
        char byte = (char)ids[i];
        bool known = ids[i] >= 0 && ids[i] < 256;
        const char *s = known ? &byte : unknown;
        for (int j = 0; j < (known ? 1 : 3); j++, at++)
            if (at < cap)
                text[at] = s[j];
    }
    return at;
}

static const struct slc_tokenizer_kind kinds[] = {
    {"bytes", 256, bytes_encode, bytes_decode},
};

struct slc_tokenizer *slc_tokenizer_open(const char *name, struct slc_err *e)
{
    const struct slc_tokenizer_kind *kind = NULL;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (strcmp(kinds[i].name, name) == 0)
            kind = &kinds[i];
    if (!kind) {
        slc_errf(e, SLC_EXIT_UNSUPPORTED,
                 "not supported: tokenizer '%.60s'; use bytes, or tokenise elsewhere and give "
                 "lines of {\"ids\": [...]}",
                 name);
        return NULL;
    }
    struct slc_tokenizer *t = calloc(1, sizeof(*t));
    if (!t) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for tokenizer %s", name);
        return NULL;
    }
    t->kind = kind;
    return t;
}

void slc_tokenizer_close(struct slc_tokenizer *t)
{
    free(t);
}

const char *slc_tokenizer_name(const struct slc_tokenizer *t)
{
    return t->kind->name;
}

int64_t slc_tokenizer_vocab(const struct slc_tokenizer *t)
{
    return t->kind->vocab;
}

int64_t slc_tokenizer_encode(const struct slc_tokenizer *t, const char *text, size_t len,
                             int32_t *ids, int64_t cap)
{
    return t->kind->encode(t->state, text, len, ids, cap);
}

int64_t slc_tokenizer_decode(const struct slc_tokenizer *t, const int32_t *ids, int64_t n,
                             char *text, int64_t cap)
{
    return t->kind->decode(t->state, ids, n, text, cap);
}
