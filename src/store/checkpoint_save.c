/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/save_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "store/failpoint.h"
#include "store/folder.h"
#include "store/run_lock.h"
#include "store/state_file.h"

int slc_save_path(const struct slc_save *s, const char *name, char path[PATH_MAX],
                  struct slc_err *e)
{
    if (snprintf(path, PATH_MAX, "%s/%s", s->made.tmp, name) >= PATH_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", s->run_dir);
    return 0;
}

/* -- member 0 makes the file ----------------------------------------------------- */

/* Disk space before any data: a full disk is found while nothing is lost. */
static int reserve(int fd, int64_t bytes, const char *path, struct slc_err *e)
{
    struct statvfs fs;

    if (fallocate(fd, 0, 0, bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot reserve %lld bytes for %s: %s",
                        (long long)bytes, path, strerror(errno));
    if (fstatvfs(fd, &fs) == 0 && fs.f_blocks > 0 &&
        (int64_t)(fs.f_bavail * fs.f_frsize) < bytes)
        return slc_errf(e, SLC_EXIT_SYSTEM,
                        "%s needs %lld bytes, the disk has %lld left", path,
                        (long long)bytes, (long long)(fs.f_bavail * fs.f_frsize));
    return 0;
}

static int make_folder(struct slc_save *s, struct slc_err *e)
{
    char dir[PATH_MAX], suffix[32];

    if (slc_run_lock_check(s->run_dir, e) < 0)
        return -1;
    snprintf(suffix, sizeof(suffix), ".%s.tmp", slc_run_lock_nonce());
    if (snprintf(dir, sizeof(dir), "%s/checkpoints", s->run_dir) >= PATH_MAX ||
        slc_folder_path(s->run_dir, s->state->step, "", s->made.path, e) < 0 ||
        slc_folder_path(s->run_dir, s->state->step, suffix, s->made.tmp, e) < 0 ||
        slc_mkdirs(dir, e) < 0)
        return -1;
    slc_folder_sweep(s->run_dir);
    if (mkdir(s->made.tmp, 0777) < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create folder %s: %s", s->made.tmp,
                        strerror(errno));
    slc_failpoint("save:folder");
    return 0;
}

/* HDF5's own writes must not fail: its close could not cope. So the place of its metadata,
 * at the end of a file of this size, is tried first: a full disk, a quota, a size limit. */
static int probe_space(const struct slc_save *s, const char *path, struct slc_err *e)
{
    int64_t metadata = 65536 + 1024 * (int64_t)s->n, bytes = 0;
    int rc = 0, fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", path, strerror(errno));
    for (int i = 0; i < s->n; i++)
        bytes += slc_tensor_bytes(&s->t[i]);
    if (fallocate(fd, 0, bytes, metadata) < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot reserve %lld bytes for %s: %s",
                      (long long)(bytes + metadata), path, strerror(errno));
    close(fd);
    unlink(path);
    return rc;
}

static int make_file(struct slc_save *s, struct slc_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    int rc = -1;

    if (make_folder(s, e) < 0 || slc_save_path(s, "state.h5", path, e) < 0 ||
        probe_space(s, path, e) < 0 ||
        slc_state_file_create(path, s->state, s->size, s->t, s->n, s->offsets, e) < 0)
        return -1;
    slc_failpoint("save:file");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", path,
                        strerror(errno));
    if (fstat(fd, &st) < 0) {
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot look at %s: %s", path, strerror(errno));
    } else if (reserve(fd, st.st_size, path, e) == 0) {
        slc_failpoint("save:reserved");
        s->made.bytes = st.st_size;
        s->made.inode = st.st_ino;
        rc = fsync(fd) == 0 ? 0
                            : slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s: %s", path,
                                       strerror(errno));
    }
    close(fd);
    return rc;
}

/* -- the whole
 * ------------------------------------------------------------------------- */

static int run(struct slc_save *s, struct slc_err *e)
{
    int rc = 0;

    if (slc_plan_create(&s->plan, s->g, s->t, s->n, e) < 0)
        return -1;
    s->offsets = calloc((size_t)s->n + 1, sizeof(*s->offsets));
    if (!s->offsets)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory to save");
    else if (s->me == 0)
        rc = make_file(s, e);
    if (slc_agree(s->g, rc, e) < 0)
        return -1;
    if (s->size > 1 &&
        (slc_broadcast(s->g, &s->made, sizeof(s->made), 0, e) < 0 ||
         slc_broadcast(s->g, s->offsets, (size_t)s->n * sizeof(*s->offsets), 0, e) < 0))
        return -1;
    slc_failpoint("save:planned");
    if (slc_save_data(s, e) < 0 || slc_save_collect(s, e) < 0)
        return -1;
    slc_failpoint("save:crcs");
    if (s->me == 0)
        rc = slc_save_commit(s, e);
    s->committed = s->me == 0 && rc == 0;
    return slc_agree(s->g, rc, e);
}

static void clean_up(struct slc_save *s, int rc)
{
    if (s->fd >= 0)
        close(s->fd);
    if (rc < 0 && s->me == 0 && s->made.tmp[0])
        slc_folder_remove(s->made.tmp, NULL);
    free(s->offsets);
    free(s->buf);
    free(s->crcs);
    free(s->blocks);
    free(s->all);
    free(s->from);
    slc_manifest_release(&s->m);
    slc_plan_release(&s->plan);
}

int slc_ckpt_save(struct slc_group *g, const char *run_dir, int keep,
                  const struct slc_ckpt_state *state, const struct slc_ckpt_tensor *t,
                  int n, slc_ckpt_move_f *read, void *ctx,
                  struct slc_ckpt_report *report, struct slc_err *e)
{
    struct slc_save s = {.g = g,
                         .run_dir = run_dir,
                         .state = state,
                         .t = t,
                         .n = n,
                         .me = slc_agree_index(g),
                         .size = slc_agree_size(g),
                         .read = read,
                         .ctx = ctx,
                         .fd = -1};
    double started = slc_now();
    int64_t bytes = 0;
    int rc = run(&s, e);

    clean_up(&s, rc);
    if (rc < 0)
        return slc_err_prefix(e, "checkpoint of step %lld %s", (long long)state->step,
                              s.committed ? "saved, but" : "not saved");
    if (s.me == 0)
        slc_folder_keep(run_dir, state->step, keep);
    for (int i = 0; i < n; i++)
        bytes += slc_tensor_bytes(&t[i]);
    if (report)
        *report = (struct slc_ckpt_report){slc_now() - started, bytes};
    return 0;
}
