/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "store/agree.h"

#define MANIFEST_MAX ((size_t)4 << 30)
#define GAP_MAX 65536

static int path_in(char path[PATH_MAX], const char *dir, const char *name,
                   struct slc_err *e)
{
    if (snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return slc_errf(e, SLC_EXIT_INPUT, "path is too long: %s", dir);
    return 0;
}

/* Whatever is wrong with a file of a checkpoint, the checkpoint is what cannot be used.
 */
static int as_checkpoint(struct slc_err *e)
{
    if (e && e->code == SLC_EXIT_INPUT)
        e->code = SLC_EXIT_CHECKPOINT;
    return -1;
}

/* step-00000012 -> 12; -1 for a folder of another name (a copy may be called anything).
 */
static int64_t step_of(const char *dir)
{
    const char *slash = strrchr(dir, '/'), *name = slash ? slash + 1 : dir;
    int64_t step = 0;

    if (strncmp(name, "step-", 5) || strlen(name) != 13)
        return -1;
    for (name += 5; *name; name++) {
        if (*name < '0' || *name > '9')
            return -1;
        step = 10 * step + (*name - '0');
    }
    return step;
}

int slc_reader_load_manifest(const char *dir, char **text, size_t *len,
                             struct slc_manifest *m, struct slc_err *e)
{
    char path[PATH_MAX];

    *text = NULL;
    if (path_in(path, dir, "manifest.json", e) < 0 ||
        slc_file_read(path, MANIFEST_MAX, text, len, e) < 0 ||
        slc_manifest_parse(m, *text, *len, path, e) < 0) {
        free(*text);
        *text = NULL;
        return as_checkpoint(e);
    }
    if (step_of(dir) >= 0 && step_of(dir) != m->state.step) {
        slc_errf(e, SLC_EXIT_CHECKPOINT, "%s is of step %lld, not of its folder's step",
                 path, (long long)m->state.step);
        slc_manifest_release(m);
        free(*text);
        *text = NULL;
        return -1;
    }
    return 0;
}

/* From the bytes of blocks.crc, which are proven. */
static uint32_t *unpack_blocks(const char *data, int64_t n)
{
    uint32_t *blocks = malloc(((size_t)n + 1) * sizeof(*blocks));
    const unsigned char *b = (const unsigned char *)data + SLC_CKPT_BLOCKS_HEADER;

    for (int64_t i = 0; blocks && i < n; i++, b += 4)
        blocks[i] = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
                    (uint32_t)b[3] << 24;
    return blocks;
}

int slc_reader_load_blocks(const char *dir, const struct slc_manifest *m,
                           uint32_t **blocks, struct slc_err *e)
{
    char path[PATH_MAX], *data = NULL;
    size_t len, want = SLC_CKPT_BLOCKS_HEADER + 4 * (size_t)m->n_blocks;
    int rc = -1;

    if (path_in(path, dir, "blocks.crc", e) < 0 ||
        slc_file_read(path, (size_t)1 << 40, &data, &len, e) < 0)
        return as_checkpoint(e);
    if (len != want)
        slc_errf(e, SLC_EXIT_CHECKPOINT,
                 "%s: damaged: %zu bytes, the manifest says %zu", path, len, want);
    else if (slc_crc32c(0, data, len) != m->blocks_crc)
        slc_errf(e, SLC_EXIT_CHECKPOINT,
                 "%s: damaged: its CRC is not that of the manifest", path);
    else if (!(*blocks = unpack_blocks(data, m->n_blocks)))
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to read %s", path);
    else
        rc = 0;
    free(data);
    return rc;
}

struct gap {
    int64_t begin, end;
};

static int by_begin(const void *a, const void *b)
{
    const struct gap *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* CRC of [at, end) joined to *crc. */
static int add_gap(int fd, const char *path, int64_t at, int64_t end,
                   unsigned char *buf, uint32_t *crc, struct slc_err *e)
{
    while (at < end) {
        size_t n = end - at < GAP_MAX ? (size_t)(end - at) : GAP_MAX;
        if (slc_pread_all(fd, buf, n, at, path, e) < 0)
            return -1;
        *crc = slc_crc32c(*crc, buf, n);
        at += (int64_t)n;
    }
    return 0;
}

int slc_reader_metadata_crc(int fd, const char *path, const struct slc_manifest *m,
                            uint32_t *crc, struct slc_err *e)
{
    struct gap *tensors = malloc(((size_t)m->n + 1) * sizeof(*tensors));
    unsigned char *buf = malloc(GAP_MAX);
    int64_t at = 0;
    int rc = 0;

    *crc = 0;
    if (!tensors || !buf)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory to check %s", path);
    for (int i = 0; i < m->n && rc == 0; i++)
        tensors[i] = (struct gap){m->t[i].offset, m->t[i].offset + m->t[i].entry.bytes};
    if (rc == 0)
        qsort(tensors, (size_t)m->n, sizeof(*tensors), by_begin);
    for (int i = 0; i < m->n && rc == 0; at = tensors[i++].end)
        rc = add_gap(fd, path, at, tensors[i].begin, buf, crc, e);
    if (rc == 0)
        rc = add_gap(fd, path, at, m->file_bytes, buf, crc, e);
    free(buf);
    free(tensors);
    return rc;
}

static int open_state(const char *dir, char path[PATH_MAX], struct slc_err *e)
{
    if (path_in(path, dir, "state.h5", e) < 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        slc_errf(e, errno == ENOENT ? SLC_EXIT_CHECKPOINT : SLC_EXIT_SYSTEM,
                 "cannot open %s: %s", path, strerror(errno));
    return fd;
}

int slc_reader_check_metadata(const char *dir, const struct slc_manifest *m,
                              struct slc_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    uint32_t crc;
    int rc = -1, fd = open_state(dir, path, e);

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0)
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot look at %s: %s", path, strerror(errno));
    else if (st.st_size != m->file_bytes)
        slc_errf(e, SLC_EXIT_CHECKPOINT,
                 "%s: damaged: %lld bytes, the manifest says %lld", path,
                 (long long)st.st_size, (long long)m->file_bytes);
    else if (slc_reader_metadata_crc(fd, path, m, &crc, e) < 0)
        as_checkpoint(e);
    else if (crc != m->metadata_crc)
        slc_errf(e, SLC_EXIT_CHECKPOINT,
                 "%s: damaged: the CRC of its metadata is not that of the manifest",
                 path);
    else
        rc = 0;
    close(fd);
    return rc;
}

/* Member 0: the proof, and the texts that the others parse. */
static int prove(struct slc_reader *r, char **text, size_t *len, struct slc_err *e)
{
    if (slc_reader_load_manifest(r->dir, text, len, &r->m, e) < 0)
        return -1;
    if (slc_reader_load_blocks(r->dir, &r->m, &r->blocks, e) < 0 ||
        slc_reader_check_metadata(r->dir, &r->m, e) < 0)
        return -1;
    return 0;
}

static int share(struct slc_reader *r, struct slc_group *g, char **text, size_t *len,
                 struct slc_err *e)
{
    size_t n = (size_t)r->m.n_blocks * sizeof(*r->blocks);
    char *blocks = (char *)r->blocks;
    int rc = 0;

    if (slc_agree_size(g) == 1)
        return 0;
    if (slc_agree_share(g, text, len, e) < 0)
        return -1;
    if (slc_agree_index(g) != 0)
        rc = slc_manifest_parse(&r->m, *text, *len, "manifest.json of rank 0", e);
    if (slc_agree(g, rc, e) < 0 || slc_agree_share(g, &blocks, &n, e) < 0)
        return -1;
    r->blocks = (uint32_t *)(void *)blocks;
    return 0;
}

static int set_dir(struct slc_reader *r, const char *dir, struct slc_err *e)
{
    if (dir != r->dir &&
        snprintf(r->dir, sizeof(r->dir), "%s", dir) >= (int)sizeof(r->dir))
        return slc_errf(e, SLC_EXIT_INPUT, "path is too long: %s", dir);
    while (strlen(r->dir) > 1 && r->dir[strlen(r->dir) - 1] == '/')
        r->dir[strlen(r->dir) - 1] = '\0';
    return 0;
}

int slc_reader_open_data(struct slc_reader *r, const char *dir, struct slc_err *e)
{
    char path[PATH_MAX];

    if (set_dir(r, dir, e) < 0)
        return -1;
    r->fd = open_state(dir, path, e);
    if (r->fd < 0)
        return -1;
    r->buf = malloc(SLC_CKPT_BLOCK);
    return r->buf ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory to read %s", path);
}

int slc_reader_open(struct slc_reader *r, struct slc_group *g, const char *dir,
                    struct slc_err *e)
{
    char *text = NULL;
    size_t len = 0;
    int rc = 0;

    memset(r, 0, sizeof(*r));
    r->fd = -1;
    r->in_buf = -1;
    if (set_dir(r, dir, e) < 0)
        return -1;
    if (slc_agree_index(g) == 0)
        rc = prove(r, &text, &len, e);
    rc = slc_agree(g, rc, e) < 0 ? -1 : share(r, g, &text, &len, e);
    free(text);
    if (rc < 0)
        goto err_close;
    if (slc_agree(g, slc_reader_open_data(r, r->dir, e), e) < 0)
        goto err_close;
    return 0;

err_close:
    slc_reader_close(r);
    return -1;
}

void slc_reader_close(struct slc_reader *r)
{
    if (r->fd >= 0)
        close(r->fd);
    free(r->buf);
    free(r->blocks);
    slc_manifest_release(&r->m);
    memset(r, 0, sizeof(*r));
    r->fd = -1;
}

const unsigned char *slc_reader_block(struct slc_reader *r, int i, int64_t k,
                                      int64_t *bytes, struct slc_err *e)
{
    const struct slc_manifest_tensor *t = &r->m.t[i];
    int64_t at = k * SLC_CKPT_BLOCK, n = t->entry.bytes - at;
    char path[PATH_MAX];

    SLC_ASSERT(k >= 0 && n > 0);
    *bytes = n < SLC_CKPT_BLOCK ? n : SLC_CKPT_BLOCK;
    if (r->in_buf == t->block + k)
        return r->buf;
    r->in_buf = -1;
    if (path_in(path, r->dir, "state.h5", e) < 0 ||
        slc_pread_all(r->fd, r->buf, (size_t)*bytes, t->offset + at, path, e) < 0) {
        as_checkpoint(e);
        return NULL;
    }
    if (slc_crc32c(0, r->buf, (size_t)*bytes) != r->blocks[t->block + k]) {
        slc_errf(e, SLC_EXIT_CHECKPOINT,
                 "%s: damaged: tensor %s, bytes %lld to %lld (of the file: from %lld)",
                 path, t->entry.name, (long long)at, (long long)(at + *bytes - 1),
                 (long long)(t->offset + at));
        return NULL;
    }
    r->in_buf = t->block + k;
    r->bytes += *bytes;
    return r->buf;
}

int slc_reader_read(struct slc_reader *r, int i, int64_t start, int64_t count,
                    void *out, struct slc_err *e)
{
    int64_t size = (int64_t)slc_dtype_size(r->m.t[i].entry.dtype);
    int64_t at = start * size, end = at + count * size, bytes;
    char *to = out;

    SLC_ASSERT(start >= 0 && count >= 0 && end <= r->m.t[i].entry.bytes);
    while (at < end) {
        int64_t inside = at % SLC_CKPT_BLOCK;
        const unsigned char *b = slc_reader_block(r, i, at / SLC_CKPT_BLOCK, &bytes, e);
        if (!b)
            return -1;
        int64_t n = bytes - inside < end - at ? bytes - inside : end - at;
        memcpy(to, b + inside, (size_t)n);
        to += n;
        at += n;
    }
    return 0;
}
