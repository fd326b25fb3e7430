/* SPDX-License-Identifier: Apache-2.0 */
#include "store/folder.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "store/agree.h"
#include "store/failpoint.h"
#include "store/reader.h"

int slc_folder_path(const char *run_dir, int64_t step, const char *suffix,
                    char path[4096], struct slc_err *e)
{
    if (snprintf(path, 4096, "%s/checkpoints/step-%08lld%s", run_dir, (long long)step,
                 suffix) >= 4096)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", run_dir);
    return 0;
}

/* "step-" and digits alone; -1: something else. */
static int64_t parse_step(const char *name)
{
    char *end;

    if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9' ||
        strlen(name) > 23)
        return -1;
    int64_t step = strtoll(name + 5, &end, 10);
    return *end ? -1 : step;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x < y) - (x > y);
}

static DIR *open_checkpoints(const char *run_dir, char path[4096], struct slc_err *e)
{
    if (snprintf(path, 4096, "%s/checkpoints", run_dir) >= 4096) {
        slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", run_dir);
        return NULL;
    }
    DIR *d = opendir(path);
    if (!d && errno != ENOENT)
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot read folder %s: %s", path,
                 strerror(errno));
    return d;
}

int slc_folder_steps(const char *run_dir, int64_t **steps, int *n, struct slc_err *e)
{
    char path[4096];
    int64_t *list = NULL, step;
    struct slc_err open_err = SLC_ERR_INIT;
    DIR *d = open_checkpoints(run_dir, path, &open_err);
    struct dirent *x;

    *n = 0;
    *steps = NULL;
    if (!d)
        return open_err.code ? slc_errf(e, open_err.code, "%s", open_err.text) : 0;
    while ((x = readdir(d))) {
        if ((step = parse_step(x->d_name)) < 0)
            continue;
        int64_t *more = realloc(list, ((size_t)*n + 1) * sizeof(*list));
        if (!more) {
            free(list);
            closedir(d);
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to list %s", path);
        }
        list = more;
        list[(*n)++] = step;
    }
    closedir(d);
    if (*n)
        qsort(list, (size_t)*n, sizeof(*list), descending);
    *steps = list;
    return 0;
}

int slc_folder_remove(const char *path, struct slc_err *e)
{
    char file[PATH_MAX];
    DIR *d = opendir(path);
    struct dirent *x;

    if (!d)
        return errno == ENOENT ? 0
                               : slc_errf(e, SLC_EXIT_SYSTEM, "cannot remove %s: %s",
                                          path, strerror(errno));
    while ((x = readdir(d))) {
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, ".."))
            continue;
        if (snprintf(file, sizeof(file), "%s/%s", path, x->d_name) < PATH_MAX)
            unlink(file);
    }
    closedir(d);
    if (rmdir(path) < 0 && errno != ENOENT)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot remove %s: %s", path,
                        strerror(errno));
    return 0;
}

void slc_folder_sweep(const char *run_dir)
{
    char path[4096], one[PATH_MAX];
    struct slc_err e = SLC_ERR_INIT;
    DIR *d = open_checkpoints(run_dir, path, NULL);
    struct dirent *x;

    while (d && (x = readdir(d))) {
        size_t n = strlen(x->d_name);
        if (n < 9 || strncmp(x->d_name, "step-", 5) ||
            strcmp(x->d_name + n - 4, ".tmp"))
            continue;
        if (snprintf(one, sizeof(one), "%s/%s", path, x->d_name) >= PATH_MAX)
            continue;
        if (slc_folder_remove(one, &e) < 0)
            slc_warn("store", "%s", e.text);
        else
            slc_info("store", "removed %s, an unfinished save", one);
    }
    if (d)
        closedir(d);
}

/* Cheap: manifest and blocks.crc prove themselves, state.h5 has its size. */
static bool looks_good(const char *path)
{
    struct slc_manifest m;
    uint32_t *blocks = NULL;
    char *text, file[PATH_MAX + 16];
    size_t len;
    struct stat st;
    bool good;

    if (slc_reader_load_manifest(path, &text, &len, &m, NULL) < 0)
        return false;
    snprintf(file, sizeof(file), "%s/state.h5", path);
    good = slc_reader_load_blocks(path, &m, &blocks, NULL) == 0 &&
           stat(file, &st) == 0 && st.st_size == m.file_bytes;
    free(blocks);
    free(text);
    slc_manifest_release(&m);
    return good;
}

/* Out of sight by one rename first, so that a half removed folder is never taken for a
 * checkpoint. */
static void remove_step(const char *run_dir, int64_t step)
{
    char path[4096], old[4096];
    struct slc_err e = SLC_ERR_INIT;

    if (slc_folder_path(run_dir, step, "", path, NULL) < 0 ||
        slc_folder_path(run_dir, step, ".old.tmp", old, NULL) < 0)
        return;
    if (rename(path, old) < 0) {
        slc_warn("store", "cannot remove %s: %s", path, strerror(errno));
        return;
    }
    slc_failpoint("keep:renamed");
    if (slc_folder_remove(old, &e) < 0)
        slc_warn("store", "%s", e.text);
}

void slc_folder_keep(const char *run_dir, int64_t step, int keep)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[4096];
    int64_t *steps;
    int n, good = 1; /* the one of `step` itself */

    if (slc_folder_steps(run_dir, &steps, &n, &e) < 0) {
        slc_warn("store", "%s", e.text);
        return;
    }
    for (int i = 0; i < n; i++) {
        if (steps[i] >= step)
            continue;
        if (good >= keep)
            remove_step(run_dir, steps[i]);
        else if (slc_folder_path(run_dir, steps[i], "", path, NULL) == 0 &&
                 looks_good(path))
            good++;
    }
    free(steps);
}
