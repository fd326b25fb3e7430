/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "data/corpus_private.h"
#include "data/h5.h"

#define BLOCK (1 << 20)
#define SOURCES_MAX 32768 /* an attribute of an HDF5 file has 64 KiB at most */

/* The final file being written. */
struct assembly {
    struct slc_build *b;
    char path[PATH_MAX]; /* in the partial folder until it is whole */
    hid_t file;
    int64_t block[BLOCK / 8];
    uint64_t digest; /* of everything written so far */
    double written;  /* MB */
    int64_t cut;     /* tokens before it are for training, the others held out */
    int64_t cut_doc; /* documents that start before it */
};

static int start_of(struct slc_partial *p, int64_t d, int64_t *start, struct slc_err *e)
{
    if (d == p->documents) {
        *start = p->tokens;
        return 0;
    }
    return slc_pread_all(fileno(p->starts), start, 8, d * 8, p->dir, e);
}

/*
 * Hold out the last share of the tokens. The cut moves to the nearest document start
 * if that changes the held-out part by no more than half; a longer document is cut.
 */
static int find_cut(struct assembly *a, struct slc_err *e)
{
    struct slc_partial *p = &a->b->partial;
    int64_t held = (int64_t)((double)p->tokens * a->b->o->validation);
    int64_t low = 0, high = p->documents, before, after;

    a->cut = p->tokens - held;
    a->cut_doc = p->documents;
    if (a->b->o->validation > 0 && (held < 2 || a->cut < 2))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%lld tokens are too few to hold out a share of %g; give more text",
                        (long long)p->tokens, a->b->o->validation);
    if (held == 0)
        return 0;
    while (low < high) { /* first document that starts at or after the cut */
        int64_t mid = low + (high - low) / 2, start;
        if (start_of(p, mid, &start, e) < 0)
            return -1;
        if (start < a->cut)
            low = mid + 1;
        else
            high = mid;
    }
    if (start_of(p, low - 1, &before, e) < 0 || start_of(p, low, &after, e) < 0)
        return -1;
    a->cut_doc = low;
    if (after - a->cut <= a->cut - before && after < p->tokens &&
        after - a->cut <= held / 2) {
        a->cut = after;
    } else if (before > 0 && a->cut - before <= held / 2) {
        a->cut = before;
        a->cut_doc = low - 1;
    }
    return 0;
}

static int put_block(struct assembly *a, hid_t d, hid_t type, int64_t at, int64_t n,
                     size_t bytes, struct slc_err *e)
{
    hsize_t start = (hsize_t)at, count = (hsize_t)n;
    uint64_t both[2] = {a->digest, slc_hash64(a->block, bytes)};
    hid_t memory = H5Screate_simple(1, &count, NULL), file = H5Dget_space(d);

    a->digest = slc_hash64(both, sizeof(both));
    H5Sselect_hyperslab(file, H5S_SELECT_SET, &start, NULL, &count, NULL);
    herr_t rc = H5Dwrite(d, type, memory, file, H5P_DEFAULT, a->block);
    H5Sclose(file);
    H5Sclose(memory);
    if (rc < 0)
        return slc_h5_failed(a->path, "cannot write", SLC_EXIT_SYSTEM, e);
    a->written += (double)bytes / 1e6;
    if (a->b->o->progress)
        slc_bar_update(&a->b->bar, a->written, "writing the corpus file");
    return 0;
}

/* Elements [from, from+n) of a token file become dataset `name`. */
static int copy_array(struct assembly *a, hid_t group, const char *name, FILE *source,
                      int width, int64_t from, int64_t n, struct slc_err *e)
{
    hid_t type = width == 1   ? H5T_STD_U8LE
                 : width == 2 ? H5T_STD_U16LE
                              : H5T_STD_I32LE;
    hid_t d = slc_h5_create_array(group, name, type, n);

    if (d < 0)
        return slc_h5_failed(a->path, "cannot create a dataset", SLC_EXIT_SYSTEM, e);
    int rc = 0;
    int64_t step = BLOCK / width;
    for (int64_t at = 0; rc == 0 && at < n; at += step) {
        int64_t k = n - at < step ? n - at : step;
        rc = slc_pread_all(fileno(source), a->block, (size_t)(k * width),
                           (from + at) * width, a->b->partial.dir, e);
        if (rc == 0)
            rc = put_block(a, d, type, at, k, (size_t)(k * width), e);
    }
    H5Dclose(d);
    return rc;
}

/*
 * Document bounds [at, at+k) of the n of one part into a->block, counted from its first
 * token `from`: `from` itself where the part begins inside a document (lead), the starts
 * of documents first, first+1, ..., and at the end `end`.
 */
static int fill_starts(struct assembly *a, int64_t first, int64_t lead, int64_t from,
                       int64_t end, int64_t n, int64_t at, int64_t k, struct slc_err *e)
{
    struct slc_partial *p = &a->b->partial;
    int64_t low = at < lead ? lead - at : 0; /* places of the block that are starts */
    int64_t high = at + k == n ? k - 1 : k;

    if (low < high && slc_pread_all(fileno(p->starts), a->block + low,
                                    (size_t)(high - low) * 8,
                                    (first + at + low - lead) * 8, p->dir, e) < 0)
        return -1;
    if (low > 0)
        a->block[0] = from;
    if (high < k)
        a->block[high] = end;
    for (int64_t i = 0; i < k; i++)
        a->block[i] -= from;
    return 0;
}

static int put_starts(struct assembly *a, hid_t group, int64_t first, int64_t last,
                      int64_t from, int64_t end, struct slc_err *e)
{
    int64_t start;

    if (start_of(&a->b->partial, first, &start, e) < 0)
        return -1;
    int64_t lead = start != from; /* the part begins inside a document */
    int64_t n = lead + last - first + 1, step = BLOCK / 8;
    hid_t d = slc_h5_create_array(group, "doc_start", H5T_STD_I64LE, n);
    if (d < 0)
        return slc_h5_failed(a->path, "cannot create a dataset", SLC_EXIT_SYSTEM, e);
    int rc = 0;
    for (int64_t at = 0; rc == 0 && at < n; at += step) {
        int64_t k = n - at < step ? n - at : step;
        rc = fill_starts(a, first, lead, from, end, n, at, k, e);
        if (rc == 0)
            rc = put_block(a, d, H5T_STD_I64LE, at, k, (size_t)k * 8, e);
    }
    H5Dclose(d);
    return rc;
}

static int put_part(struct assembly *a, hid_t group, int held, struct slc_err *e)
{
    struct slc_partial *p = &a->b->partial;
    int64_t from = held ? a->cut : 0, end = held ? p->tokens : a->cut;
    int64_t first = held ? a->cut_doc : 0, last = held ? p->documents : a->cut_doc;

    if (copy_array(a, group, "ids", p->ids, p->width, from, end - from, e) < 0 ||
        put_starts(a, group, first, last, from, end, e) < 0)
        return -1;
    return p->has_mask ? copy_array(a, group, "mask", p->mask, 1, from, end - from, e) : 0;
}

static int put_sources(struct assembly *a)
{
    const struct slc_corpus_build_options *o = a->b->o;
    char *text = malloc(SOURCES_MAX);
    int at = 0;

    if (!text)
        return -1;
    text[0] = '\0';
    for (int i = 0; i < o->n_inputs && at < SOURCES_MAX; i++)
        at += snprintf(text + at, (size_t)(SOURCES_MAX - at), "%s%s", i ? "\n" : "",
                       o->inputs[i]);
    int rc = slc_h5_put_text(a->file, "sources", text);
    free(text);
    return rc;
}

static int put_attributes(struct assembly *a, struct slc_err *e)
{
    const struct slc_build *b = a->b;
    const char *name = b->tokenizer ? slc_tokenizer_name(b->tokenizer) : "none";
    uint64_t all[3] = {a->digest, slc_hash64(name, strlen(name)), (uint64_t)b->vocab};
    int64_t digest = (int64_t)slc_hash64(all, sizeof(all));

    if (slc_h5_put_text(a->file, "format", SLC_CORPUS_FORMAT) < 0 ||
        slc_h5_put_int(a->file, "version", SLC_CORPUS_VERSION) < 0 ||
        slc_h5_put_text(a->file, "tokenizer", name) < 0 ||
        slc_h5_put_int(a->file, "vocab", b->vocab) < 0 ||
        slc_h5_put_real(a->file, "validation", b->o->validation) < 0 ||
        slc_h5_put_int(a->file, "digest", digest) < 0 || put_sources(a) < 0)
        return slc_h5_failed(a->path, "cannot write an attribute", SLC_EXIT_SYSTEM, e);
    return 0;
}

static int put_all(struct assembly *a, struct slc_err *e)
{
    if (put_part(a, a->file, 0, e) < 0)
        return -1;
    if (a->cut < a->b->partial.tokens) {
        hid_t group = H5Gcreate2(a->file, "validation", H5P_DEFAULT, H5P_DEFAULT,
                                 H5P_DEFAULT);
        if (group < 0)
            return slc_h5_failed(a->path, "cannot create a group", SLC_EXIT_SYSTEM, e);
        int rc = put_part(a, group, 1, e);
        H5Gclose(group);
        if (rc < 0)
            return -1;
    }
    return put_attributes(a, e);
}

/* Make the file durable under its name. */
static int publish(struct assembly *a, struct slc_err *e)
{
    const char *out = a->b->o->out;
    char dir[PATH_MAX];
    int fd = open(a->path, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 ? fsync(fd) : -1;

    if (fd >= 0)
        close(fd);
    if (rc < 0 || rename(a->path, out) < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot write %s: %s", out, strerror(errno));
    snprintf(dir, sizeof(dir), "%s", out);
    return slc_fsync_dir(dirname(dir), e);
}

int slc_build_assemble(struct slc_build *b, struct slc_err *e)
{
    struct slc_partial *p = &b->partial;
    struct assembly *a = calloc(1, sizeof(*a));
    int rc = -1;

    if (!a)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to write %s", b->o->out);
    a->b = b;
    if (find_cut(a, e) < 0)
        goto err_free;
    snprintf(a->path, sizeof(a->path), "%s/corpus.h5", p->dir);
    slc_bar_start(&b->bar, "data", "MB",
                       (double)(p->tokens * (p->width + p->has_mask) + p->documents * 8) / 1e6,
                       0);
    slc_h5_quiet();
    hid_t access = slc_h5_file_access();
    H5Pset_alignment(access, 4096, 4096);
    a->file = H5Fcreate(a->path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    if (a->file < 0) {
        slc_h5_failed(a->path, "cannot create", SLC_EXIT_SYSTEM, e);
        goto err_free;
    }
    rc = put_all(a, e);
    if (H5Fclose(a->file) < 0 && rc == 0)
        rc = slc_h5_failed(a->path, "cannot close", SLC_EXIT_SYSTEM, e);
    if (rc == 0)
        rc = publish(a, e);
    if (b->o->progress)
        slc_bar_finish(&b->bar);
err_free:
    free(a);
    return rc;
}
