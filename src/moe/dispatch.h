/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_DISPATCH_H
#define SLC_MOE_DISPATCH_H

#include "comm/group.h"
#include "moe/moe.h"
#include "moe/shape.h"

/*
 * The token exchange of one expert group (ep > 1): token rows go to the ranks of their
 * experts, results come back. All of it is one-sided into one symmetric window.
 *
 * One exchange of a slot, numbered n = 1, 2, .. alike on all members:
 *   post      forward: index the routing, fetch the own count row [R+E], publish it
 *             to every member (a small put, then a signal with the number n).
 *             backward: the plan is known, only the signal is published.
 *             Where rows travel in messages and are few they go along (early.c).
 *   plan      once the rows n of all members are here (see plan.h)
 *   send      rows travel in uses of the window. A use is one round of token rows with
 *             ids and weights, or one round of output-gradient rows. Near members are
 *             packed straight into their window, far ones in chunks into staging,
 *             whence one put per member and chunk. After the data: a signal to each
 *             member that gets rows.
 *   read      the expert side gathers a use from its window; then the use is over
 *   combine   one row per record goes back into the source's combine window, near or
 *             far as before; a signal after the last round; the source adds them up
 *
 * Uses are numbered on and on; use u lies in half u % 2 of the window. Credits, without
 * any barrier: a member publishes n only when it has read all its uses before n and its
 * combine window of n-1. So n seen from d allows writing the first two uses of n to d;
 * use i of the exchange, i >= 2, waits for d's credit signal for use i-2. Rows of s
 * being here mean that s published n, so its combine window may be written.
 * A signal line holds only every second number of its kind, and the next one on a line
 * is posted only after the previous was seen, so signals cannot overtake each other.
 *
 * Where ops can (own_in_place of the backend) a rank's own records do not travel: their
 * rows are read from x and d_out, and results of a plan of one round from y.
 *
 * A layer whose plan needs one round keeps its expert-major rows; one that needs more
 * sends tokens and gradients again in backward, alternating (tokens, gradients) uses.
 */
struct slc_dispatch;

struct slc_dispatch_options {
    struct slc_backend *backend;
    struct slc_group *group;
    const struct slc_moe_shape *shape; /* outlives the dispatch */
    struct slc_moe_counters *counters; /* near_bytes, far_bytes are added to */
    int slots, force_far;
    bool training;
};

/* Collective over the group: makes the window, compares the shapes of all members. */
struct slc_dispatch *slc_dispatch_create(const struct slc_dispatch_options *o,
                                         struct slc_err *e);
void slc_dispatch_destroy(struct slc_dispatch *d);
/* Bytes of window and staging, for the memory table. */
size_t slc_dispatch_bytes(const struct slc_dispatch *d);

/* Start an exchange: forward with d_out NULL. x and d_out [T, H] stay unchanged until
 * combine is finished. Waits for this rank's own queue only. */
int slc_dispatch_post(struct slc_dispatch *d, int slot, struct slc_queue *q,
                      struct slc_moe_saved *s, const void *x, const void *d_out,
                      struct slc_err *e);
/* 1 when the next use to read is here, 0 not yet, -1 failure. Never blocks. */
int slc_dispatch_test(struct slc_dispatch *d, int slot, struct slc_err *e);
/* Wait for the next use; view: its records, in the window and own ones where they are
 * (s->rounds is set by now). */
int slc_dispatch_finish(struct slc_dispatch *d, int slot, struct slc_rows *view,
                        struct slc_err *e);
/* All reads of the use are on the queue: it may be overwritten once they ran. */
void slc_dispatch_release(struct slc_dispatch *d, int slot);

/* Send back the rows of the round read last: row_weight, row_scalar as in expert_sum. With
 * a plan of one round they and y stay unchanged until combine is finished; else later work
 * on the queue may overwrite them. */
int slc_combine_post(struct slc_dispatch *d, int slot, const void *y,
                     const float *row_weight, const float *row_scalar,
                     struct slc_err *e);
/* 1 when all rows of this rank's tokens are back and all it owes is sent. */
int slc_combine_test(struct slc_dispatch *d, int slot, struct slc_err *e);
/* out [T, H] = add + sum over ranks; dweights [T, K] or NULL. Ends the exchange. */
int slc_combine_finish(struct slc_dispatch *d, int slot, void *out, const void *add,
                       float *dweights, struct slc_err *e);

#endif
