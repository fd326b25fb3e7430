/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_BULK_H
#define SLC_COMM_BULK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "comm/group.h"

/*
 * Sums and gathers of large arrays over a group, bucket by bucket, that need not be waited
 * for: the caller says how far its own data is ready and looks in between. Data is written
 * straight into the windows of near members (put to far ones) in chunks that stay in the
 * cache, and added or copied out from there. Sums are taken in ascending member order.
 *
 * The array is a flat list of elements; where they lie in memory is a list of runs. A
 * bucket is cut into one share for each member:
 *   reduce: on the owner, the share becomes the sum over members. Other shares of the
 *           memory keep their values.
 *   gather: the owner's share (after the sum, if both) goes to all members.
 *
 * One operation at a time on one bulk; all members start the same ones in the same order.
 * From start until it is finished, the memory belongs to the operation but for what is not
 * yet said to be ready.
 */
struct slc_bulk;

struct slc_bulk_op {
    bool reduce, gather;
    size_t unit;          /* bytes of an element */
    enum slc_dtype dtype; /* of a sum: SLC_F32, SLC_F64, SLC_I64 */
    char *base;
    /* run i is elements [flat[i], flat[i+1]), from element at[i] of base on */
    int n_runs;
    const int64_t *flat, *at; /* [n_runs+1], [n_runs] */
    /* bucket b gives member i elements [cut[b*(size+1)+i], cut[b*(size+1)+i+1]) */
    int n_buckets;
    const int64_t *cut; /* [n_buckets][size+1] */
};

/* Collective over the group, of at least two. Memory of about 16 MiB at most. */
struct slc_bulk *slc_bulk_create(struct slc_group *g, struct slc_err *e);
void slc_bulk_destroy(struct slc_bulk *b); /* collective unless a failure is known */

/* Begin; what op points to stays unchanged until it is finished. Nothing is ready yet. */
void slc_bulk_start(struct slc_bulk *b, const struct slc_bulk_op *op);
/* The first `buckets` buckets of this rank's memory are ready. Grows only. While one is
 * under way, slc_world_progress moves it on, and so does every wait. */
void slc_bulk_ready(struct slc_bulk *b, int buckets);
/* Do a little, without waiting. -1: failure. */
int slc_bulk_progress(struct slc_bulk *b, struct slc_err *e);
/* Wait until the operation is done here and its memory may be used; all buckets become
 * ready. Peers may still be at it. */
int slc_bulk_finish(struct slc_bulk *b, struct slc_err *e);
bool slc_bulk_active(const struct slc_bulk *b);

#endif
