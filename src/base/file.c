/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_failed(const char *path, struct slc_err *e)
{
    return slc_errf(e, errno == ENOENT ? SLC_EXIT_INPUT : SLC_EXIT_SYSTEM,
                    "cannot open %s: %s", path, strerror(errno));
}

int slc_file_read(const char *path, size_t max, char **data, size_t *len,
                  struct slc_err *e)
{
    struct stat st;
    char *buf = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return open_failed(path, e);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        slc_errf(e, SLC_EXIT_INPUT, "%s is not a regular file", path);
        goto err_close;
    }
    if ((size_t)st.st_size > max) {
        slc_errf(e, SLC_EXIT_INPUT, "%s has %lld bytes, more than the %zu allowed here",
                 path, (long long)st.st_size, max);
        goto err_close;
    }
    buf = malloc((size_t)st.st_size + 1);
    if (!buf) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the %lld bytes of %s",
                 (long long)st.st_size, path);
        goto err_close;
    }
    if (slc_pread_all(fd, buf, (size_t)st.st_size, 0, path, e) < 0)
        goto err_close;
    buf[st.st_size] = '\0';
    close(fd);
    *data = buf;
    *len = (size_t)st.st_size;
    return 0;

err_close:
    free(buf);
    close(fd);
    return -1;
}

int slc_pread_all(int fd, void *buf, size_t len, off_t at, const char *path,
                  struct slc_err *e)
{
    char *p = buf;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot read %s at byte %lld: %s", path,
                            (long long)at, strerror(errno));
        if (n == 0)
            return slc_errf(e, SLC_EXIT_INPUT, "%s ends at byte %lld, %zu bytes early",
                            path, (long long)at, len);
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int slc_pwrite_all(int fd, const void *buf, size_t len, off_t at, const char *path,
                   struct slc_err *e)
{
    const char *p = buf;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot write %s at byte %lld: %s", path,
                            (long long)at, strerror(n < 0 ? errno : ENOSPC));
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static void parent_of(const char *path, char dir[PATH_MAX])
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        snprintf(dir, PATH_MAX, ".");
    else if (slash == path)
        snprintf(dir, PATH_MAX, "/");
    else
        snprintf(dir, PATH_MAX, "%.*s", (int)(slash - path), path);
}

int slc_file_replace(const char *path, const void *data, size_t len, struct slc_err *e)
{
    char tmp[PATH_MAX], dir[PATH_MAX];

    if (snprintf(tmp, sizeof(tmp), "%s.%ld.tmp", path, (long)getpid()) >= PATH_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", tmp, strerror(errno));
    if (slc_pwrite_all(fd, data, len, 0, tmp, e) < 0)
        goto err_unlink;
    if (fsync(fd) < 0) {
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s: %s", tmp, strerror(errno));
        goto err_unlink;
    }
    int rc = close(fd);
    fd = -1;
    if (rc < 0 || rename(tmp, path) < 0) {
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot replace %s: %s", path, strerror(errno));
        goto err_unlink;
    }
    parent_of(path, dir);
    return slc_fsync_dir(dir, e);

err_unlink:
    if (fd >= 0)
        close(fd);
    unlink(tmp);
    return -1;
}

int slc_mkdirs(const char *path, struct slc_err *e)
{
    char part[PATH_MAX];
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof(part))
        return slc_errf(e, SLC_EXIT_CONFIG, "not a usable folder name: '%s'", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0777) < 0 && errno != EEXIST)
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create folder %s: %s", part,
                            strerror(errno));
        part[i] = path[i];
    }
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return slc_errf(e, SLC_EXIT_SYSTEM, "%s exists and is not a folder", path);
    return 0;
}

int slc_fsync_dir(const char *path, struct slc_err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return open_failed(path, e);
    int rc = fsync(fd);
    int saved = errno;
    close(fd);
    if (rc < 0 && saved != EINVAL) /* some file systems cannot sync a folder */
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync folder %s: %s", path,
                        strerror(saved));
    return 0;
}
