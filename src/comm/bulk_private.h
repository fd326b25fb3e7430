/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_BULK_PRIVATE_H
#define SLC_COMM_BULK_PRIVATE_H

#include "comm/bulk.h"

/* out[j] = x[0][j] + x[1][j] + ... in this order; out may be one of them. */
void slc_bulk_sum(enum slc_dtype dtype, void *out, const char *const *x, int n_x,
                  size_t n);
/* memcpy that does not bring the destination into the cache first. */
void slc_bulk_copy_past_cache(char *dst, const char *src, size_t bytes);
/* One step of each operation under way; called by slc_world_progress. */
int slc_bulks_progress(struct slc_world *w, struct slc_err *e);

#endif
