/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_PROBE_FS_H
#define SLC_CMD_PROBE_FS_H

#include "comm/world.h"

/*
 * Does the file system of `dir` do what checkpoints need? From all ranks of the world
 * together: fallocate, pwrite by all ranks into neighbouring 4 KiB pages of one file, fsync,
 * the others' bytes seen afterwards, atomic rename seen by all. Rank 0 prints one line a
 * property. -1 with the first property that fails. Collective.
 */
int slc_probe_fs(struct slc_world *w, const char *dir, struct slc_err *e);

#endif
