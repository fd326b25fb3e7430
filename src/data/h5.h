/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_DATA_H5_H
#define SLC_DATA_H5_H

#include <hdf5.h>
#include <stdint.h>

#include "base/err.h"

/*
 * The HDF5 calls of corpus files. Reading trusts nothing: HDF5 is not safe on crafted
 * files, so only hard links to plain contiguous one-dimensional datasets of the expected
 * types are accepted and their extent is checked against the file; the data itself is
 * read with pread.
 */

/* Quiet HDF5's own printing; once per call that uses it. */
void slc_h5_quiet(void);
/* Access list for open and create, without file locks (network file systems may have none;
 * a corpus file is whole before it has its name). The caller closes it. */
hid_t slc_h5_file_access(void);
/* "PATH: what: HDF5's innermost words"; returns -1. */
int slc_h5_failed(const char *path, const char *what, int code, struct slc_err *e);

int slc_h5_put_text(hid_t at, const char *name, const char *text);
int slc_h5_put_int(hid_t at, const char *name, int64_t v);
int slc_h5_put_real(hid_t at, const char *name, double v);
/* A contiguous dataset of n elements, allocated at once. Negative on failure. */
hid_t slc_h5_create_array(hid_t at, const char *name, hid_t type, int64_t n);

/* Text of at most cap-1 bytes. */
int slc_h5_get_text(hid_t at, const char *name, char *text, size_t cap, const char *path,
                    struct slc_err *e);
int slc_h5_get_int(hid_t at, const char *name, int64_t *v, const char *path,
                   struct slc_err *e);

/* Where a dataset lies in the file. */
struct slc_h5_array {
    int64_t offset; /* bytes */
    int64_t n;      /* elements */
};
/* 1 when the link is there (hard, by this name), 0 when not. */
int slc_h5_has(hid_t at, const char *name);
/* Check dataset `name` of integers of `width` bytes and find it. */
int slc_h5_get_array(hid_t at, const char *name, int width, int64_t file_size,
                     struct slc_h5_array *out, const char *path, struct slc_err *e);

#endif
