/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "cmd/probe_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "comm/group.h"
#include "store/agree.h"

#define PAGE 4096
#define ROUNDS 64 /* pages a rank writes, interleaved with the other ranks' */

struct probe {
    struct slc_world *w;
    struct slc_group *all; /* NULL alone */
    int rank, size;
    char path[4096], renamed[4096];
};

static int create_file(const struct probe *p, struct slc_err *e)
{
    if (p->rank != 0)
        return 0;
    int fd = open(p->path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0666);
    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", p->path,
                        strerror(errno));
    off_t bytes = (off_t)PAGE * ROUNDS * p->size;
    const char *kind = "reserves space";
    if (fallocate(fd, 0, 0, bytes) < 0) {
        kind = errno == EOPNOTSUPP ? "not supported; a full disk shows later"
                                   : strerror(errno);
        if (ftruncate(fd, bytes) < 0) {
            close(fd);
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot extend %s: %s", p->path,
                            strerror(errno));
        }
    }
    printf("  ok    %-22s %s\n", "fallocate", kind);
    close(fd);
    return 0;
}

static void fill_page(unsigned char *page, int rank, int round)
{
    for (int i = 0; i < PAGE; i++)
        page[i] = (unsigned char)(rank * 37 + round * 11 + i * 7 + i / 256);
}

static int write_pages(const struct probe *p, struct slc_err *e)
{
    unsigned char page[PAGE];
    int rc = 0, fd = open(p->path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM,
                        "%s made by rank 0 is not visible to rank %d: %s; is the folder "
                        "shared by all nodes?",
                        p->path, p->rank, strerror(errno));
    for (int i = 0; rc == 0 && i < ROUNDS; i++) {
        fill_page(page, p->rank, i);
        rc = slc_pwrite_all(fd, page, PAGE, (off_t)PAGE * (i * p->size + p->rank), p->path,
                            e);
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s: %s", p->path, strerror(errno));
    if (close(fd) < 0 && rc == 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot close %s: %s", p->path, strerror(errno));
    return rc;
}

/* Every rank reads all pages: a lost or stale one is what breaks shared checkpoints. */
static int read_pages(const struct probe *p, struct slc_err *e)
{
    unsigned char page[PAGE], want[PAGE];
    int rc = 0, fd = open(p->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", p->path, strerror(errno));
    for (int i = 0; rc == 0 && i < ROUNDS * p->size; i++) {
        rc = slc_pread_all(fd, page, PAGE, (off_t)PAGE * i, p->path, e);
        fill_page(want, i % p->size, i / p->size);
        if (rc == 0 && memcmp(page, want, PAGE) != 0)
            rc = slc_errf(e, SLC_EXIT_SYSTEM,
                          "page %d of %s, written by rank %d, reads wrong on rank %d: this "
                          "file system cannot hold shared checkpoints",
                          i, p->path, i % p->size, p->rank);
    }
    close(fd);
    return rc;
}

static int rename_file(const struct probe *p, struct slc_err *e)
{
    if (p->rank == 0 && rename(p->path, p->renamed) < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot rename %s: %s", p->path,
                        strerror(errno));
    return 0;
}

static int see_renamed(const struct probe *p, struct slc_err *e)
{
    if (access(p->renamed, F_OK) < 0 || access(p->path, F_OK) == 0)
        return slc_errf(e, SLC_EXIT_SYSTEM,
                        "rank %d does not see the rename of %s at once: checkpoints commit "
                        "by rename; mount with a shorter attribute cache",
                        p->rank, p->path);
    return 0;
}

static int step(struct probe *p, int (*f)(const struct probe *, struct slc_err *),
                const char *name, struct slc_err *e)
{
    double t0 = slc_now();

    if (slc_agree(p->all, f(p, e), e) < 0)
        return -1;
    if (p->rank == 0 && name)
        printf("  ok    %-22s %.1f ms\n", name, 1e3 * (slc_now() - t0));
    return 0;
}

static int run(struct probe *p, struct slc_err *e)
{
    if (step(p, create_file, NULL, e) < 0 ||
        step(p, write_pages, "pwrite, fsync", e) < 0 ||
        step(p, read_pages, "all pages seen", e) < 0 ||
        step(p, rename_file, "rename", e) < 0 ||
        step(p, see_renamed, "rename seen", e) < 0)
        return -1;
    return 0;
}

int slc_probe_fs(struct slc_world *w, const char *dir, struct slc_err *e)
{
    struct probe p = {.w = w, .rank = slc_world_rank(w), .size = slc_world_size(w)};
    struct statfs fs;

    snprintf(p.path, sizeof(p.path), "%.3900s/sluice-doctor.probe", dir);
    snprintf(p.renamed, sizeof(p.renamed), "%.3900s/sluice-doctor.renamed", dir);
    if (p.size > 1) {
        int *members = calloc((size_t)p.size, sizeof(*members));
        if (!members)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory");
        for (int i = 0; i < p.size; i++)
            members[i] = i;
        p.all = slc_group_create(w, members, p.size, e);
        free(members);
        if (!p.all)
            return -1;
    }
    if (p.rank == 0 && statfs(dir, &fs) == 0)
        printf("  ok    %-22s type 0x%lx, %.1f GiB free\n", "file system",
               (unsigned long)fs.f_type,
               (double)fs.f_bavail * (double)fs.f_bsize / (1 << 30));
    int rc = run(&p, e);
    if (p.rank == 0) {
        unlink(p.path);
        unlink(p.renamed);
        fflush(stdout);
    }
    slc_group_destroy(p.all);
    return rc;
}
