/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_WINDOW_H
#define SLC_COMM_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/group.h"

/*
 * A window is memory of the same size on every member of a group that the others
 * write directly: allocated by UCX (so that shared memory needs no help from the
 * target), zeroed, page aligned. Near members (same node, mapped) are written
 * through a pointer; far ones by put. One-sided: the target takes no part.
 *
 * Order: data put (or written) to a member is visible there once a signal posted
 * to it after the data is seen by slc_window_load. Nothing else orders. A signal
 * is one aligned uint64 in the window, written by one member only.
 */
struct slc_window;

/* Collective over the group. */
struct slc_window *slc_window_create(struct slc_group *g, size_t bytes, struct slc_err *e);
void slc_window_destroy(struct slc_window *w); /* collective unless a failure is known */

void *slc_window_local(struct slc_window *w);
size_t slc_window_bytes(const struct slc_window *w);
/* Mapped base of member i's window (own: the local base), NULL if i is far. */
void *slc_window_near(struct slc_window *w, int i);
/* True when what is put to member i travels in messages: what is posted one after the other
 * goes together, and each message costs both sides far more than a copy of a few KiB. */
bool slc_window_by_message(const struct slc_window *w, int i);

/*
 * Start writing bytes to member i at offset; src stays unchanged until
 * slc_window_flushed says so. Works for near members too (a plain copy).
 * Returns at once. Large puts are cut into chunks, several in flight.
 */
int slc_window_put(struct slc_window *w, int i, size_t offset, const void *src,
                   size_t bytes, struct slc_err *e);
/*
 * Post value to the uint64 at offset of member i's window, to be seen there only
 * after everything written or put to i before this call. Returns at once; sent by
 * progress once the puts before it are flushed. `offset` is a multiple of 8.
 */
int slc_window_signal(struct slc_window *w, int i, size_t offset, uint64_t value,
                      struct slc_err *e);
/* The uint64 at offset of the local window, acquire order. Does not progress. */
uint64_t slc_window_load(struct slc_window *w, size_t offset);
/* True when every put and signal posted so far has left its source for good, so that
 * sources may be reused. Arrival is told by signals only. False for ever once a member is
 * lost. Call slc_world_progress between tests. */
bool slc_window_flushed(struct slc_window *w);

#endif
