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
 *   route -> dispatch post/test/finish -> experts -> combine post/test/finish
 * post returns at once, before any peer has posted; test never blocks and returns 1
 * when finish would not block; finish blocks. slc_moe_forward and slc_moe_backward
 * run the stages of one slot one after another.
 */
struct slc_moe;

struct slc_moe_options {
    struct slc_backend *backend;
    struct slc_group *group; /* expert group; NULL: this rank has all experts */
    int64_t T, H, E, K, F;
    int64_t pools;           /* most statistics pools in a batch (documents, or 1) */
    enum slc_dtype dtype;
    bool renorm, training;
    int slots;               /* 1 or 2 */
    double window_factor;    /* rows of a window over the expected number; >= 1 */
    int64_t window_rows;     /* > 0: exactly this many rows (tests: several rounds) */
    int force_far;
};

struct slc_moe *slc_moe_create(const struct slc_moe_options *o, struct slc_err *e);
void slc_moe_destroy(struct slc_moe *m);

/* Kept by one layer between forward and backward (plain struct; pointers carved from the
 * caller's arena of backend memory; plan_* are host values filled by forward). */
struct slc_moe_saved {
    int32_t *ids, *slot_rank, *slot_row, *counts;
    float *weights, *probs, *lse;
    int32_t *pool_count; /* [pools, E] */
    float *pool_prob;    /* [pools, E] */
    float *z_sum;        /* [1] */
    void *x;             /* [rows_cap, H] expert-major rows, valid if one round */
    void *h;             /* [rows_cap, 2F] before SwiGLU, valid if one round */
    int32_t *off, *row_of, *rec_of;
    float *row_weight;
    int32_t *plan;       /* host [R][R+E]: the count matrix of this layer */
    int rounds;
};
void slc_moe_saved_carve(const struct slc_moe *m, struct slc_moe_saved *s,
                         struct slc_arena *device, struct slc_arena *host);

struct slc_moe_weights {
    const void *router; /* [E, H] */
    const void *up;     /* [El, 2F, H] */
    const void *down;   /* [El, H, F] */
};
struct slc_moe_grads {
    float *router, *up, *down; /* accumulated into */
};

/*
 * out [T,H] = add + sum over each token's experts of weight * expert(x); add may be out.
 * x [T,H] must stay unchanged until backward (it is read again). pool [T] as in
 * router_forward (backend memory), n_pools of them; forced ids or NULL.
 */
int slc_moe_forward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                    struct slc_queue *q, const struct slc_moe_weights *w, const void *x,
                    const void *add, void *out, const int32_t *pool, int64_t n_pools,
                    const int32_t *forced, struct slc_err *e);
/*
 * dx [T,H] = gradient by x of everything in this block (router path included); d_out [T,H]
 * is the gradient by out (the caller adds it to the residual path itself).
 * prob_grad [n_pools,E] and z_coef: auxiliary losses, as in router_backward.
 */
int slc_moe_backward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                     struct slc_queue *q, const struct slc_moe_weights *w,
                     const struct slc_moe_grads *g, const void *x, const void *d_out,
                     void *dx, const int32_t *pool, int64_t n_pools,
                     const float *prob_grad, float z_coef, struct slc_err *e);

struct slc_moe_counters {
    unsigned long long rounds, near_bytes, far_bytes;
    double seconds_router, seconds_exchange, seconds_experts;
};
struct slc_moe_counters *slc_moe_counters(struct slc_moe *m);

/* Regions of scratch and windows, for the memory table. */
const struct slc_arena *slc_moe_memory(const struct slc_moe *m);

#endif
