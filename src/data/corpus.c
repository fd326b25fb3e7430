/* SPDX-License-Identifier: Apache-2.0 */
#include "data/corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "data/corpus_private.h"
#include "data/h5.h"

struct slc_corpus {
    char *path;
    int fd;
    int64_t file_size;
    char tokenizer[SLC_CORPUS_NAME_MAX];
    int64_t vocab, digest;
    int width;
    struct slc_h5_array ids, starts, mask; /* mask.n = 0: none */
    /* Document starts, mapped: a corpus may have more of them than a rank has memory,
     * and the ranks of a node share the pages. */
    char *map;
    size_t map_bytes;
    const char *map_starts; /* aligned by nothing: read with memcpy */
};

static int read_header(struct slc_corpus *c, hid_t file, struct slc_err *e)
{
    char format[SLC_CORPUS_NAME_MAX];
    int64_t version;

    if (H5Aexists(file, "format") <= 0)
        return slc_errf(e, SLC_EXIT_INPUT, "%s is not a corpus file; sluice data build makes "
                                           "one",
                        c->path);
    if (slc_h5_get_text(file, "format", format, sizeof(format), c->path, e) < 0 ||
        slc_h5_get_int(file, "version", &version, c->path, e) < 0)
        return -1;
    if (strcmp(format, SLC_CORPUS_FORMAT) || version != SLC_CORPUS_VERSION)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s has format %.40s version %lld; this Sluice reads %s version %d",
                        c->path, format, (long long)version, SLC_CORPUS_FORMAT,
                        SLC_CORPUS_VERSION);
    if (slc_h5_get_text(file, "tokenizer", c->tokenizer, sizeof(c->tokenizer), c->path, e) <
            0 ||
        slc_h5_get_int(file, "vocab", &c->vocab, c->path, e) < 0 ||
        slc_h5_get_int(file, "digest", &c->digest, c->path, e) < 0)
        return -1;
    if (c->vocab < 1 || c->vocab > INT32_MAX)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: vocabulary of %lld ids", c->path,
                        (long long)c->vocab);
    c->width = slc_corpus_width(c->vocab);
    return 0;
}

static int find_arrays(struct slc_corpus *c, hid_t group, struct slc_err *e)
{
    if (slc_h5_get_array(group, "ids", c->width, c->file_size, &c->ids, c->path, e) < 0 ||
        slc_h5_get_array(group, "doc_start", 8, c->file_size, &c->starts, c->path, e) < 0)
        return -1;
    if (slc_h5_has(group, "mask") &&
        slc_h5_get_array(group, "mask", 1, c->file_size, &c->mask, c->path, e) < 0)
        return -1;
    if (c->ids.n < 1 || c->starts.n < 2 || (c->mask.n != 0 && c->mask.n != c->ids.n))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: ids, doc_start and mask do not fit together",
                        c->path);
    return 0;
}

/* Find the arrays of the part; HDF5 is closed again on return. */
static int read_layout(struct slc_corpus *c, enum slc_corpus_part part, struct slc_err *e)
{
    hid_t access, file, group = -1;
    char path[32];
    int rc = -1;

    /* The file that is open already, even if its name is given to a newer one now. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", c->fd);
    slc_h5_quiet();
    access = slc_h5_file_access();
    file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);

    if (file < 0)
        return slc_h5_failed(c->path, "not a readable HDF5 file", SLC_EXIT_INPUT, e);
    if (read_header(c, file, e) < 0)
        goto err_close;
    if (part == SLC_CORPUS_TRAIN) {
        rc = find_arrays(c, file, e);
        goto err_close;
    }
    if (!slc_h5_has(file, "validation")) {
        slc_errf(e, SLC_EXIT_INPUT,
                 "%s has no held-out part; build it with a validation share, or set "
                 "train.validate_every=0",
                 c->path);
        goto err_close;
    }
    group = H5Gopen2(file, "validation", H5P_DEFAULT);
    rc = group < 0 ? slc_h5_failed(c->path, "validation", SLC_EXIT_INPUT, e)
                   : find_arrays(c, group, e);
    if (group >= 0)
        H5Gclose(group);
err_close:
    H5Fclose(file);
    return rc;
}

static int map_starts(struct slc_corpus *c, struct slc_err *e)
{
    int64_t page = sysconf(_SC_PAGESIZE), from = c->starts.offset / page * page;

    c->map_bytes = (size_t)(c->starts.offset - from + c->starts.n * 8);
    void *map = mmap(NULL, c->map_bytes, PROT_READ, MAP_SHARED, c->fd, from);
    if (map == MAP_FAILED)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot map %s: %s", c->path, strerror(errno));
    c->map = map;
    c->map_starts = c->map + (c->starts.offset - from);
    int64_t last = slc_corpus_start(c, 0);
    bool ok = last == 0;
    for (int64_t d = 1; ok && d < c->starts.n; d++) {
        int64_t start = slc_corpus_start(c, d);
        ok = start > last;
        last = start;
    }
    if (!ok || last != c->ids.n)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: doc_start does not ascend from 0 to the number of tokens",
                        c->path);
    return 0;
}

struct slc_corpus *slc_corpus_open(const char *path, enum slc_corpus_part part,
                                   struct slc_err *e)
{
    struct slc_corpus *c = calloc(1, sizeof(*c));
    struct stat st;

    if (!c || !(c->path = strdup(path))) {
        free(c);
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to open %s", path);
        return NULL;
    }
    c->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0 || fstat(c->fd, &st) < 0) {
        slc_errf(e, SLC_EXIT_INPUT, "cannot open corpus %s: %s", path, strerror(errno));
        goto err_close;
    }
    if (!S_ISREG(st.st_mode)) {
        slc_errf(e, SLC_EXIT_INPUT, "corpus %s is not a regular file", path);
        goto err_close;
    }
    c->file_size = st.st_size;
    if (read_layout(c, part, e) < 0 || map_starts(c, e) < 0)
        goto err_close;
    return c;

err_close:
    slc_corpus_close(c);
    return NULL;
}

void slc_corpus_close(struct slc_corpus *c)
{
    if (!c)
        return;
    if (c->map)
        munmap(c->map, c->map_bytes);
    if (c->fd >= 0)
        close(c->fd);
    free(c->path);
    free(c);
}

int64_t slc_corpus_tokens(const struct slc_corpus *c)
{
    return c->ids.n;
}

int64_t slc_corpus_documents(const struct slc_corpus *c)
{
    return c->starts.n - 1;
}

int64_t slc_corpus_vocab(const struct slc_corpus *c)
{
    return c->vocab;
}

const char *slc_corpus_tokenizer(const struct slc_corpus *c)
{
    return c->tokenizer;
}

uint64_t slc_corpus_digest(const struct slc_corpus *c)
{
    return (uint64_t)c->digest;
}

bool slc_corpus_has_mask(const struct slc_corpus *c)
{
    return c->mask.n > 0;
}

int64_t slc_corpus_start(const struct slc_corpus *c, int64_t d)
{
    int64_t start;

    memcpy(&start, c->map_starts + d * 8, 8);
    return start;
}

/* Widen n stored ids and check them; returns the place of a bad one or -1. */
static int64_t widen(const struct slc_corpus *c, const void *stored, int64_t n, int32_t *ids)
{
    int64_t bad = -1;

    for (int64_t i = 0; i < n; i++) {
        ids[i] = c->width == 1   ? ((const uint8_t *)stored)[i]
                 : c->width == 2 ? ((const uint16_t *)stored)[i]
                                 : ((const int32_t *)stored)[i];
        if (ids[i] < 0 || ids[i] >= c->vocab)
            bad = i;
    }
    return bad;
}

static int read_ids(struct slc_corpus *c, int64_t at, int64_t n, int32_t *ids,
                    struct slc_err *e)
{
    int32_t block[4096];
    int64_t step = (int64_t)sizeof(block) / c->width;

    for (int64_t i = 0; i < n; i += step) {
        int64_t k = n - i < step ? n - i : step;
        if (slc_pread_all(c->fd, block, (size_t)(k * c->width),
                          c->ids.offset + (at + i) * c->width, c->path, e) < 0)
            return -1;
        int64_t bad = widen(c, block, k, ids + i);
        if (bad >= 0)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: token %lld is id %d, outside the vocabulary of %lld; the "
                            "file is damaged",
                            c->path, (long long)(at + i + bad), ids[i + bad],
                            (long long)c->vocab);
    }
    return 0;
}

int slc_corpus_read(struct slc_corpus *c, int64_t at, int64_t n, int32_t *ids,
                    uint8_t *mask, struct slc_err *e)
{
    SLC_ASSERT(at >= 0 && n >= 0 && n <= c->ids.n && at <= c->ids.n - n);
    if (ids && read_ids(c, at, n, ids, e) < 0)
        return -1;
    if (mask && c->mask.n == 0)
        memset(mask, 1, (size_t)n);
    else if (mask)
        return slc_pread_all(c->fd, mask, (size_t)n, c->mask.offset + at, c->path, e);
    return 0;
}
