/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_OPTIM_SHARD_H
#define SLC_OPTIM_SHARD_H

#include "comm/bulk.h"
#include "comm/group.h"
#include "model/param.h"

/*
 * How the members of a replica group split the parameters that all of them hold. The
 * parameters of the class, one behind the other, are a flat list of elements, cut into
 * buckets of about equal size. Buckets are numbered from the end of the list, the order in
 * which backward completes gradients. Each bucket is cut into one share for each member:
 * member i owns [cut[i], cut[i+1]) of it. All cuts fall at a multiple of SLC_EXTENT
 * elements of a tensor or at a tensor's edge, such that the members' shares of all buckets
 * together are as equal as that allows.
 */
struct slc_shard {
    struct slc_group *group; /* NULL: one rank */
    struct slc_params *ps;
    int size, index; /* of the group, of this rank in it */
    int n;           /* parameters */
    int *param;      /* [n] index in ps */
    int64_t *first;  /* [n+1] first element in the flat list */
    int64_t *at;     /* [n] first element in the flat local arrays of ps */
    int n_buckets;
    int64_t *cut;    /* [n_buckets][size+1] */
    int64_t *off;    /* [size+1] shares of the bucket in use */
    int64_t largest; /* elements of the largest bucket */
    struct slc_bulk *bulk; /* NULL: one rank, or memory the host cannot use */
    int *pending;    /* [n_buckets] parameters of it whose gradient is not complete */
    int ready;       /* buckets that are, from the first on */
    struct slc_coll *coll; /* of the backend, on its own memory; NULL: by the group's, on the
                              host's */
};

/* bucket: elements of one bucket; 0: chosen. in_place: sums and gathers work on the
 * memory of ps itself, in the background. Collective over the group. */
int slc_shard_init(struct slc_shard *s, struct slc_params *ps, bool expert,
                   struct slc_group *group, int64_t bucket, bool in_place,
                   struct slc_err *e);
void slc_shard_release(struct slc_shard *s);
/* Let shares travel in backend memory, if the backend can and the group has several members.
 * Collective over the group. Where the first member finds no library for it, all stay with
 * host memory, which it says. */
int slc_shard_join(struct slc_shard *s, struct slc_err *e);

/* The share of member i in bucket b. */
static inline int64_t slc_shard_cut(const struct slc_shard *s, int b, int i)
{
    return s->cut[(int64_t)b * (s->size + 1) + i];
}

/* A contiguous piece of one parameter. */
struct slc_piece {
    int param;
    int64_t local; /* first element, counted in this rank's part of the parameter */
    int64_t n;
};
/* The piece at *at of the flat list, ending before `end` at the latest; moves *at on.
 * False when *at is at the end. */
bool slc_shard_next(const struct slc_shard *s, int64_t *at, int64_t end,
                    struct slc_piece *piece);

/*
 * Fixed memory through which shares travel: `host` is what the collectives see; `stage`
 * is the same for ops (equal where ops can use host memory).
 */
struct slc_bucket {
    struct slc_backend *b;
    void *host, *stage;
    size_t bytes;
};
/* Large enough for the buckets of both shards; no memory where both have one member. */
int slc_bucket_init(struct slc_bucket *k, struct slc_backend *b, const struct slc_shard *s,
                    int n_shards, struct slc_err *e);
void slc_bucket_release(struct slc_bucket *k);

/*
 * Sum the gradients over the group: on return the own shares hold the sum. In place, it
 * may have begun before: slc_shard_reduce_begin starts it, slc_shard_grad_ready says that
 * the gradient of a parameter is complete.
 */
void slc_shard_reduce_begin(struct slc_shard *s);
int slc_shard_grad_ready(struct slc_shard *s, int param, struct slc_err *e);
int slc_shard_reduce(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e);
/* Send the own shares of the weights to all members: on return all weights are there. */
int slc_shard_gather(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e);

#endif
