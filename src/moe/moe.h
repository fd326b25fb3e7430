/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_MOE_H
#define SLC_MOE_MOE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "comm/group.h"

/*
 * The Mixture-of-Experts block after the norm: route, dispatch, experts, combine,
 * and their backward on the same plan. One slc_moe serves all layers of a model (its
 * windows and scratch); what a layer keeps for backward is a slc_moe_saved.
 * See router.h (routing and auxiliary losses), dispatch.h (the token exchange),
 * experts.h (grouped products).
 *
 * Stages, per slot (0 or 1: two half batches may be in flight):
 *   route, dispatch post/test/finish -> experts -> combine post/test/finish
 */
struct slc_moe;

struct slc_moe_options {
    struct slc_backend *backend;
    struct slc_group *group; /* expert group; NULL: this rank has all experts */
    int64_t T, H, E, K, F;
    int64_t pools; /* most statistics pools in a batch (documents, or 1) */
    enum slc_dtype dtype;
    bool renorm, training;
    int slots;            /* 1 or 2 */
    double window_factor; /* rows of a window over the expected number; >= 1 */
    int64_t window_rows;  /* > 0: exactly this many rows (tests: several rounds) */
    int force_far;
    bool timing; /* wait for the device before the clock is read */
};

struct slc_moe *slc_moe_create(const struct slc_moe_options *o, struct slc_err *e);
void slc_moe_destroy(struct slc_moe *m);

/*
 * Kept by one layer between forward and backward (plain struct; pointers carved from
 * the caller's arenas of backend and of host memory). rows_cap is the most expert rows
 * of one round. Not training: x and h of all saved are one scratch of the slc_moe.
 */
struct slc_moe_saved {
    int32_t *ids;                  /* [T, K] ascending, -1 for padding tokens */
    float *weights;                /* [T, K] */
    float *probs, *lse;            /* [T, E], [T] */
    int32_t *slot_rank, *slot_row; /* [T, S], ep > 1 */
    int32_t *own_token;  /* [T]: as in dispatch_index, ep > 1 */
    int32_t *counts;     /* [R + E]: records to each rank, assignments to each expert */
    int32_t *pool_count; /* [pools, E] */
    float *pool_prob;    /* [pools, E] */
    float *z_sum;        /* [1] */
    void *x;             /* [rows_cap, H] expert-major rows, valid if one round */
    void *h;             /* [rows_cap, 2F] before SwiGLU, valid if one round */
    int32_t *off, *row_of, *rec_of; /* as in expert_index, of the round done last */
    float *row_weight;
    int32_t *plan; /* host [R][R+E]: the count matrix of this layer; ep > 1 */
    int rounds;    /* of the last forward; 1 with ep = 1 */
};
void slc_moe_saved_carve(const struct slc_moe *m, struct slc_moe_saved *s,
                         struct slc_arena *device, struct slc_arena *host);

struct slc_moe_weights {
    const void *router; /* [E, H] */
    const void *up;     /* [El, 2F, H] */
    const void *down;   /* [El, H, F] */
};
/* Of the same shapes; NULL: not wanted. dtype of up and down: fp32 is added to; the
 * block's own bf16 is written (needs a plan of one round: ep = 1). */
struct slc_moe_grads {
    float *router;
    void *up, *down;
    enum slc_dtype dtype;
};

/*
 * One pass of the block over a batch of T tokens. Forward (d_out NULL):
 *   out [T,H] = add + sum over each token's experts of weight * expert(x)
 * Backward (d_out not NULL, after the forward that filled saved):
 *   dx [T,H] = gradient by x of everything in this block, router path included
 * x and d_out stay unchanged until the pass is over, x also until backward, where it is
 * read again. Backward uses up saved->h.
 */
struct slc_moe_call {
    struct slc_moe_saved *saved;
    struct slc_queue *queue; /* the same for both slots: they share scratch */
    const struct slc_moe_weights *weights;
    const void *x;
    const int32_t *pool; /* [T] as in router_forward (backend memory), NULL: all 0 */
    int64_t n_pools;
    /* forward */
    const void *add; /* [T,H] or NULL; may be out */
    void *out;
    const int32_t *forced; /* [T,K] ids instead of the top-k, or NULL */
    /* backward */
    const void *d_out; /* [T,H] gradient by out (the caller adds it to the residual) */
    void *dx;
    const struct slc_moe_grads *grads;
    const float
        *prob_grad; /* [n_pools,E] auxiliary loss, as in router_backward; NULL */
    float z_coef;
};

/*
 * The stages of one slot, in this order. post never waits for a peer; test never
 * blocks: 1 when finish would not, 0 not yet, -1 failure. combine_post follows experts
 * of the same slot before experts of the other one. With ep = 1 nothing travels and the
 * tests are 1 at once. A plan of several rounds does all rounds but the first inside
 * experts, which then blocks for peers. The call struct is copied, what it points to is
 * not.
 */
int slc_moe_dispatch_post(struct slc_moe *m, int slot, const struct slc_moe_call *c,
                          struct slc_err *e); /* forward: routes first */
int slc_moe_dispatch_test(struct slc_moe *m, int slot, struct slc_err *e);
int slc_moe_dispatch_finish(struct slc_moe *m, int slot, struct slc_err *e);
int slc_moe_experts(struct slc_moe *m, int slot, struct slc_err *e);
int slc_moe_combine_post(struct slc_moe *m, int slot, struct slc_err *e);
int slc_moe_combine_test(struct slc_moe *m, int slot, struct slc_err *e);
int slc_moe_combine_finish(struct slc_moe *m, int slot, struct slc_err *e);

/* All stages of one slot one after another. */
int slc_moe_run(struct slc_moe *m, int slot, const struct slc_moe_call *c,
                struct slc_err *e);

/* slc_moe_run with the members of slc_moe_call as arguments. */
int slc_moe_forward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                    struct slc_queue *q, const struct slc_moe_weights *w, const void *x,
                    const void *add, void *out, const int32_t *pool, int64_t n_pools,
                    const int32_t *forced, struct slc_err *e);
int slc_moe_backward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                     struct slc_queue *q, const struct slc_moe_weights *w,
                     const struct slc_moe_grads *g, const void *x, const void *d_out,
                     void *dx, const int32_t *pool, int64_t n_pools,
                     const float *prob_grad, float z_coef, struct slc_err *e);

/* Since create or since the caller reset them. Bytes are token rows and what returns,
 * to other ranks, with what goes along; a near write counts like a put. */
struct slc_moe_counters {
    unsigned long long rounds, near_bytes, far_bytes;
    unsigned long long early; /* members whose rows came with their count row */
    double seconds_router, seconds_exchange, seconds_experts; /* host time, waits too */
    double seconds_wait; /* the part of seconds_exchange spent waiting for peers */
};
struct slc_moe_counters *slc_moe_counters(struct slc_moe *m);

/* Regions of scratch, windows and staging, for the memory table (sizes only). */
const struct slc_arena *slc_moe_memory(const struct slc_moe *m);

#endif
