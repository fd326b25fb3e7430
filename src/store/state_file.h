/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_STATE_FILE_H
#define SLC_STORE_STATE_FILE_H

#include "store/manifest.h"

/*
 * state.h5 through libhdf5: rank 0 creates it, `verify` walks it. Tensors are
 * contiguous datasets without fill value, allocated at once, so that their bytes can be
 * written with pwrite at the offsets HDF5 reports; small state is written here:
 * counters as attributes of the root, texts as datasets in the group "state".
 */

/* Create and close. offsets [n] gets where each tensor's bytes begin. */
int slc_state_file_create(const char *path, const struct slc_ckpt_state *s, int world,
                          const struct slc_ckpt_tensor *t, int n, int64_t *offsets,
                          struct slc_err *e);

/*
 * Walk the file (only after its metadata CRC was proven) and call `say` with one line
 * for everything that is not as the manifest says. Returns the number of lines, -1 when
 * the walk itself fails.
 */
int slc_state_file_walk(const char *path, const struct slc_manifest *m,
                        void (*say)(void *ctx, const char *line), void *ctx,
                        struct slc_err *e);

#endif
