/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_GROUP_H
#define SLC_COMM_GROUP_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "comm/world.h"

/*
 * A group is (members, my index): the unit of collectives and windows. All members
 * create it together, in the same order as their other groups, with the same
 * members. Endpoints are made at set-up, to members only.
 */
struct slc_group;

/* members: world ranks, ascending, containing this rank; copied. */
struct slc_group *slc_group_create(struct slc_world *w, const int *members, int size,
                                   struct slc_err *e);
void slc_group_destroy(struct slc_group *g); /* collective unless a failure is known */
int slc_group_size(const struct slc_group *g);
int slc_group_index(const struct slc_group *g); /* this rank's place in it */
int slc_group_member(const struct slc_group *g, int index); /* world rank */
struct slc_world *slc_group_world(const struct slc_group *g);

/*
 * Collectives on host memory, in place where noted. All members call them in the
 * same order with the same sizes; they block. -1 when a peer fails. Sums are
 * taken in ascending member order, so results are the same bits on every member
 * and in every run.
 */
int slc_barrier(struct slc_group *g, struct slc_err *e);
int slc_broadcast(struct slc_group *g, void *buf, size_t bytes, int root, struct slc_err *e);
/* recv [size][bytes] in member order; send may be its own place in recv. */
int slc_allgather(struct slc_group *g, const void *send, void *recv, size_t bytes,
                  struct slc_err *e);
/*
 * buf [off[size]] elements; member i owns elements [off[i], off[i+1]) (off has
 * size+1 entries, off[0] = 0, the same on all members; empty shares are fine).
 * reduce_scatter: on return each member's own share of buf holds the sum over
 * members; other shares are unspecified. Sends (size-1)/size of buf per rank.
 * allgatherv: each member's own share is sent to all; on return buf is complete.
 * allreduce: reduce_scatter and allgatherv over equal shares in one, piece by piece; a
 * small one is an all-gather that every member adds up.
 * Large ones go through windows (see bulk.h), whose memory is made at the first.
 */
int slc_reduce_scatter(struct slc_group *g, void *buf, const int64_t *off,
                       enum slc_dtype dtype, struct slc_err *e);
int slc_allgatherv(struct slc_group *g, void *buf, const int64_t *off,
                   enum slc_dtype dtype, struct slc_err *e);
int slc_allreduce(struct slc_group *g, void *buf, int64_t n, enum slc_dtype dtype,
                  struct slc_err *e); /* SLC_F32, SLC_F64, SLC_I64 sums */
/* max over members of one int64 (votes: "any rank wants to stop"). */
int slc_allreduce_max(struct slc_group *g, int64_t *value, struct slc_err *e);

/* Point to point between members, blocking, matched by (member, tag). */
int slc_send(struct slc_group *g, int to, uint32_t tag, const void *buf, size_t bytes,
             struct slc_err *e);
int slc_recv(struct slc_group *g, int from, uint32_t tag, void *buf, size_t bytes,
             struct slc_err *e);

/*
 * The collective table: device memory is served by filling it from the CUDA
 * module (NCCL); host memory by UCX. slc_group_create installs the host table.
 */
struct slc_coll_ops {
    int (*barrier)(struct slc_group *g, struct slc_err *e);
    int (*broadcast)(struct slc_group *g, void *buf, size_t bytes, int root, struct slc_err *e);
    int (*allgather)(struct slc_group *g, const void *send, void *recv, size_t bytes,
                     struct slc_err *e);
    int (*reduce_scatter)(struct slc_group *g, void *buf, const int64_t *off,
                          enum slc_dtype dtype, struct slc_err *e);
    int (*allgatherv)(struct slc_group *g, void *buf, const int64_t *off,
                      enum slc_dtype dtype, struct slc_err *e);
    int (*allreduce)(struct slc_group *g, void *buf, int64_t n, enum slc_dtype dtype,
                     struct slc_err *e);
};

#endif
