/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/save_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "store/failpoint.h"

static int open_file(struct slc_save *s, struct slc_err *e)
{
    char path[PATH_MAX];
    struct stat st;

    if (slc_save_path(s, "state.h5", path, e) < 0)
        return -1;
    s->fd = open(path, O_RDWR | O_CLOEXEC);
    if (s->fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", path,
                        strerror(errno));
    if (fstat(s->fd, &st) < 0 || st.st_size != s->made.bytes ||
        (uint64_t)st.st_ino != s->made.inode)
        return slc_errf(
            e, SLC_EXIT_SYSTEM,
            "%s is not the file that rank 0 made; is run.dir on a file system "
            "that all nodes share?",
            path);
    s->buf = aligned_alloc(4096, SLC_SAVE_BUFFER);
    if (!s->buf)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to save");
    return 0;
}

/* Bytes [begin, end) of tensor i into buf, by the caller's function. */
static int fill(struct slc_save *s, int i, int64_t begin, int64_t end,
                struct slc_err *e)
{
    int64_t size = (int64_t)slc_dtype_size(s->t[i].dtype);

    return s->read(s->ctx, i, begin / size, (end - begin) / size, s->buf, e);
}

/* Span k of tensor i: CRCs of all of it, everything but its fragment to the file. */
static int write_span(struct slc_save *s, int i, int64_t k, uint32_t *crcs,
                      const char *path, struct slc_err *e)
{
    int64_t pieces = slc_plan_pieces(&s->plan, i, k), foreign, own, begin, end, last;

    slc_plan_fragment(&s->plan, i, k, &foreign, &own);
    for (int64_t j = 0; j < pieces; j += SLC_SAVE_BUFFER / SLC_CKPT_BLOCK) {
        int64_t to = j + SLC_SAVE_BUFFER / SLC_CKPT_BLOCK < pieces
                         ? j + SLC_SAVE_BUFFER / SLC_CKPT_BLOCK
                         : pieces;
        slc_plan_piece(&s->plan, i, k, j, &begin, &end);
        slc_plan_piece(&s->plan, i, k, to - 1, &(int64_t){0}, &last);
        if (fill(s, i, begin, last, e) < 0)
            return -1;
        for (int64_t p = j; p < to; p++) {
            int64_t a, b;
            slc_plan_piece(&s->plan, i, k, p, &a, &b);
            crcs[p] = slc_crc32c(0, s->buf + (a - begin), (size_t)(b - a));
        }
        int64_t from = begin > own ? begin : own < last ? own : last;
        if (slc_pwrite_all(s->fd, s->buf + (from - begin), (size_t)(last - from),
                           s->offsets[i] + from, path, e) < 0)
            return -1;
        slc_failpoint("save:data");
    }
    return 0;
}

int64_t slc_save_pieces(const struct slc_save *s, int rank)
{
    int64_t n = 0;

    for (int i = 0; i < s->n; i++)
        for (int64_t k = s->plan.first[i]; k < s->plan.first[i + 1]; k++)
            if (s->plan.spans[k].rank == rank)
                n += slc_plan_pieces(&s->plan, i, k);
    return n;
}

static int write_spans(struct slc_save *s, struct slc_err *e)
{
    char path[PATH_MAX];
    int64_t at = 0;

    if (slc_save_path(s, "state.h5", path, e) < 0)
        return -1;
    for (int i = 0; i < s->n; i++)
        for (int64_t k = s->plan.first[i]; k < s->plan.first[i + 1]; k++) {
            if (s->plan.spans[k].rank != s->me)
                continue;
            if (write_span(s, i, k, s->crcs + at, path, e) < 0)
                return -1;
            at += slc_plan_pieces(&s->plan, i, k);
        }
    return 0;
}

/*
 * Fragments to the owners of their pages, in the plan's order on all ranks, so that
 * every send meets its receive. A rank that failed takes part all the same; what it
 * sends is never committed.
 */
static int exchange_fragments(struct slc_save *s, int rc, struct slc_err *e)
{
    char path[PATH_MAX];

    if (slc_save_path(s, "state.h5", path, e) < 0)
        rc = -1;
    for (int i = 0; i < s->n && s->size > 1; i++)
        for (int64_t k = s->plan.first[i]; k < s->plan.first[i + 1]; k++) {
            int64_t a, b;
            int owner = slc_plan_fragment(&s->plan, i, k, &a, &b);
            int from = s->plan.spans[k].rank;
            if (a == b || (s->me != owner && s->me != from))
                continue;
            if (s->me == from) {
                if (rc == 0)
                    rc = fill(s, i, a, b, e);
                if (slc_send(s->g, owner, SLC_SAVE_TAG_FRAGMENT, s->buf,
                             (size_t)(b - a), e) < 0)
                    return -1;
                continue;
            }
            if (slc_recv(s->g, from, SLC_SAVE_TAG_FRAGMENT, s->buf, (size_t)(b - a),
                         e) < 0)
                return -1;
            if (rc == 0)
                rc = slc_pwrite_all(s->fd, s->buf, (size_t)(b - a), s->offsets[i] + a,
                                    path, e);
        }
    return rc;
}

static int finish_file(struct slc_save *s, struct slc_err *e)
{
    int fd = s->fd, rc = 0;

    s->fd = -1;
    slc_failpoint("save:before-fsync");
    if (fsync(fd) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s/state.h5: %s", s->made.tmp,
                      strerror(errno));
    if (close(fd) < 0 && rc == 0) /* NFS says here that the disk was full */
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot close %s/state.h5: %s", s->made.tmp,
                      strerror(errno));
    return rc;
}

int slc_save_data(struct slc_save *s, struct slc_err *e)
{
    int rc = open_file(s, e);

    s->crcs = malloc(((size_t)slc_save_pieces(s, s->me) + 1) * sizeof(*s->crcs));
    if (!s->crcs && rc == 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory to save");
    if (slc_agree(s->g, rc, e) < 0)
        return -1;
    rc = write_spans(s, e);
    rc = exchange_fragments(s, rc, e);
    slc_failpoint("save:fragments");
    if (rc == 0)
        rc = finish_file(s, e);
    return slc_agree(s->g, rc, e);
}
