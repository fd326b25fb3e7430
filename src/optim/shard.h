/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_OPTIM_SHARD_H
#define SLC_OPTIM_SHARD_H

#include "comm/group.h"
#include "model/param.h"

/*
 * How the members of a replica group split the parameters that all of them hold. The
 * parameters of the class, one behind the other, are a flat list of elements; member i
 * owns [cut[i], cut[i+1]) of it. A cut falls at a multiple of SLC_EXTENT elements of a
 * tensor or at a tensor's edge, as near as that is to an equal share.
 */
struct slc_shard {
    struct slc_group *group; /* NULL: one rank */
    struct slc_params *ps;
    int size, index;  /* of the group, of this rank in it */
    int n;            /* parameters */
    int *param;       /* [n] index in ps */
    int64_t *first;   /* [n+1] first element in the flat list */
    int64_t *cut;     /* [size+1] */
    int64_t *off;     /* [size+1] shares of the bucket in use */
    int64_t chunk;    /* elements of a member in one bucket */
    int64_t rounds;   /* buckets until the largest share is through */
};

/* bucket: elements that travel at a time, over all members; 0: chosen. */
int slc_shard_init(struct slc_shard *s, struct slc_params *ps, bool expert,
                   struct slc_group *group, int64_t bucket, struct slc_err *e);
void slc_shard_release(struct slc_shard *s);

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

/* Sum the gradients over the group: on return the own share holds the sum. */
int slc_shard_reduce(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e);
/* Send the own share of the weights to all members: on return all weights are there. */
int slc_shard_gather(struct slc_shard *s, struct slc_bucket *k, struct slc_queue *q,
                     struct slc_err *e);

#endif
