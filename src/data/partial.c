/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "data/corpus_private.h"

/* Files of the folder; progress.json first, because without it the rest counts nothing. */
static const char *const names[] = {"progress.json", "ids", "starts", "mask", "corpus.h5"};

static int failed(const struct slc_partial *p, const char *name, struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_SYSTEM, "cannot write %s/%s: %s", p->dir, name,
                    strerror(errno));
}

/* The file cut to what is committed, positioned at its end. */
static FILE *open_cut(struct slc_partial *p, const char *name, int64_t bytes,
                      struct slc_err *e)
{
    int fd = openat(p->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        goto err_close;
    if (st.st_size < bytes) {
        slc_errf(e, SLC_EXIT_INPUT,
                 "%s/%s is shorter than its progress.json says; remove the folder to start "
                 "over",
                 p->dir, name);
        close(fd);
        return NULL;
    }
    if (ftruncate(fd, bytes) < 0 || lseek(fd, bytes, SEEK_SET) < 0)
        goto err_close;
    FILE *f = fdopen(fd, "r+");
    if (f)
        return f;
err_close:
    failed(p, name, e);
    if (fd >= 0)
        close(fd);
    return NULL;
}

/* Committed progress of the same job into p; 0 where there is none to go on from. */
static int load_progress(struct slc_partial *p, struct slc_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    int64_t input = 0, has_mask = 0;

    if (fstatat(p->dir_fd, "progress.json", &st, 0) < 0)
        return 0;
    snprintf(path, sizeof(path), "%s/progress.json", p->dir);
    json_t *o = slc_json_load(path, 64u << 20, e);
    if (!o)
        return -1;
    int rc = 0;
    if (!json_equal(json_object_get(o, "job"), p->job)) {
        slc_warn("data", "%s is of other inputs or options; starting over", p->dir);
        if (unlinkat(p->dir_fd, "progress.json", 0) < 0 || fsync(p->dir_fd) < 0)
            rc = failed(p, "progress.json", e);
    } else if (slc_json_need_int(o, "input", &input, path, e) < 0 ||
               slc_json_need_int(o, "offset", &p->offset, path, e) < 0 ||
               slc_json_need_int(o, "line", &p->line, path, e) < 0 ||
               slc_json_need_int(o, "tokens", &p->tokens, path, e) < 0 ||
               slc_json_need_int(o, "documents", &p->documents, path, e) < 0 ||
               slc_json_need_int(o, "input_tokens", &p->input_tokens, path, e) < 0 ||
               slc_json_need_int(o, "has_mask", &has_mask, path, e) < 0) {
        rc = -1;
    } else if (input < 0 || input > INT_MAX || p->offset < 0 || p->tokens < 0 ||
               p->documents < 0) {
        rc = slc_errf(e, SLC_EXIT_INPUT, "%s is damaged; remove the folder to start over",
                      path);
    }
    p->input = (int)input;
    p->has_mask = has_mask != 0;
    json_decref(o);
    return rc;
}

static int lock_folder(struct slc_partial *p, struct slc_err *e)
{
    p->dir_fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->dir_fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open folder %s: %s", p->dir,
                        strerror(errno));
    if (flock(p->dir_fd, LOCK_EX | LOCK_NB) < 0)
        return slc_errf(e, SLC_EXIT_BUSY, "another build is writing %s (%s)", p->dir,
                        strerror(errno));
    return 0;
}

int slc_partial_open(struct slc_partial *p, const char *out, json_t *job, int width,
                     struct slc_err *e)
{
    *p = (struct slc_partial){.dir_fd = -1, .width = width, .job = job};
    if (strlen(out) > PATH_MAX - 64)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %.60s...", out);
    p->dir = malloc(strlen(out) + sizeof(".partial"));
    if (!p->dir)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to build %s", out);
    sprintf(p->dir, "%s.partial", out);
    if (slc_mkdirs(p->dir, e) < 0 || lock_folder(p, e) < 0 || load_progress(p, e) < 0)
        goto err_close;
    p->ids = open_cut(p, "ids", p->tokens * width, e);
    p->starts = p->ids ? open_cut(p, "starts", p->documents * 8, e) : NULL;
    p->mask = p->starts ? open_cut(p, "mask", p->has_mask ? p->tokens : 0, e) : NULL;
    if (!p->mask)
        goto err_close;
    return 0;

err_close:
    slc_partial_close(p, false);
    return -1;
}

int slc_partial_document(struct slc_partial *p, struct slc_err *e)
{
    if (fwrite(&p->tokens, 8, 1, p->starts) != 1)
        return failed(p, "starts", e);
    p->documents++;
    return 0;
}

static int append_ones(struct slc_partial *p, int64_t n, struct slc_err *e)
{
    uint8_t ones[4096];

    memset(ones, 1, sizeof(ones));
    while (n > 0) {
        size_t k = n < (int64_t)sizeof(ones) ? (size_t)n : sizeof(ones);
        if (fwrite(ones, 1, k, p->mask) != k)
            return failed(p, "mask", e);
        n -= (int64_t)k;
    }
    return 0;
}

static int append_ids(struct slc_partial *p, const int32_t *ids, int64_t n,
                      struct slc_err *e)
{
    union {
        uint8_t b[4096];
        uint16_t h[4096];
    } narrow;

    if (p->width == 4)
        return fwrite(ids, 4, (size_t)n, p->ids) == (size_t)n ? 0 : failed(p, "ids", e);
    for (int64_t at = 0; at < n; at += 4096) {
        size_t k = n - at < 4096 ? (size_t)(n - at) : 4096;
        for (size_t i = 0; i < k; i++) {
            if (p->width == 1)
                narrow.b[i] = (uint8_t)ids[at + (int64_t)i];
            else
                narrow.h[i] = (uint16_t)ids[at + (int64_t)i];
        }
        if (fwrite(&narrow, (size_t)p->width, k, p->ids) != k)
            return failed(p, "ids", e);
    }
    return 0;
}

int slc_partial_append(struct slc_partial *p, const int32_t *ids, const uint8_t *mask,
                       int64_t n, struct slc_err *e)
{
    if (mask && !p->has_mask) {
        if (append_ones(p, p->tokens, e) < 0)
            return -1;
        p->has_mask = true;
    }
    if (append_ids(p, ids, n, e) < 0)
        return -1;
    if (mask && fwrite(mask, 1, (size_t)n, p->mask) != (size_t)n)
        return failed(p, "mask", e);
    if (!mask && p->has_mask && append_ones(p, n, e) < 0)
        return -1;
    p->tokens += n;
    p->input_tokens += n;
    return 0;
}

static int make_durable(struct slc_partial *p, FILE *f, const char *name, struct slc_err *e)
{
    if (fflush(f) != 0 || fsync(fileno(f)) < 0)
        return failed(p, name, e);
    return 0;
}

int slc_partial_commit(struct slc_partial *p, struct slc_err *e)
{
    char path[PATH_MAX];

    if (make_durable(p, p->ids, "ids", e) < 0 ||
        make_durable(p, p->starts, "starts", e) < 0 ||
        make_durable(p, p->mask, "mask", e) < 0)
        return -1;
    json_t *o = json_pack("{s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "job", p->job, "input",
                          (json_int_t)p->input, "offset", (json_int_t)p->offset, "line",
                          (json_int_t)p->line, "tokens", (json_int_t)p->tokens, "documents",
                          (json_int_t)p->documents, "input_tokens",
                          (json_int_t)p->input_tokens, "has_mask",
                          (json_int_t)p->has_mask);
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    if (!text)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to record progress in %s", p->dir);
    snprintf(path, sizeof(path), "%s/progress.json", p->dir);
    int rc = slc_file_replace(path, text, strlen(text), e);
    free(text);
    return rc;
}

/* Remove our files, temporary ones of a killed build included, and nothing else. */
static void remove_folder(struct slc_partial *p)
{
    DIR *d = opendir(p->dir);

    unlinkat(p->dir_fd, names[0], 0);
    fsync(p->dir_fd);
    for (struct dirent *f; d && (f = readdir(d));)
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
            if (strncmp(f->d_name, names[i], strlen(names[i])) == 0)
                unlinkat(p->dir_fd, f->d_name, 0);
    if (d)
        closedir(d);
    if (rmdir(p->dir) < 0)
        slc_warn("data", "cannot remove %s: %s", p->dir, strerror(errno));
}

void slc_partial_close(struct slc_partial *p, bool remove)
{
    FILE *files[] = {p->ids, p->starts, p->mask};

    for (size_t i = 0; i < 3; i++)
        if (files[i])
            fclose(files[i]); /* what mattered was committed before */
    if (remove)
        remove_folder(p);
    if (p->dir_fd >= 0)
        close(p->dir_fd);
    free(p->dir);
    *p = (struct slc_partial){.dir_fd = -1};
}
