/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_FILE_H
#define SLC_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* File helpers. `what` in messages is always the path. All retry EINTR and
 * short transfers; errors name path, errno text and, where known, the remedy. */

/* Whole file into malloc'ed memory with a 0 byte after it; at most `max` bytes
 * (a larger file is an SLC_EXIT_INPUT error). Caller frees *data. */
int slc_file_read(const char *path, size_t max, char **data, size_t *len,
                  struct slc_err *e);

/* Write `len` bytes so that `path` is either the old or the whole new content:
 * temporary file beside it, fsync, rename, fsync of the folder. */
int slc_file_replace(const char *path, const void *data, size_t len, struct slc_err *e);

int slc_pread_all(int fd, void *buf, size_t len, off_t at, const char *path,
                  struct slc_err *e);
int slc_pwrite_all(int fd, const void *buf, size_t len, off_t at, const char *path,
                   struct slc_err *e);

/* mkdir -p. Existing folders are fine. */
int slc_mkdirs(const char *path, struct slc_err *e);

/* fsync of the folder itself, so that a rename in it is durable. */
int slc_fsync_dir(const char *path, struct slc_err *e);

#endif
