/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_ROUTER_H
#define SLC_MOE_ROUTER_H

#include "moe/moe.h"
#include "moe/shape.h"

/*
 * Routing: logits = x W^T in fp32, softmax over the experts, the K largest (ties to the
 * lowest id), weights divided by their sum if renorm. See router_forward in ops.h.
 */
struct slc_router {
    const struct slc_moe_shape *shape;
    bool renorm;
    float *dlogits;    /* [T, E], scratch of backward */
    void *dlogits_low; /* [T, E] of dtype, NULL when dtype is fp32 */
};

/* Takes its scratch from an arena (training only); measure and carve alike. */
void slc_router_carve(struct slc_router *r, const struct slc_moe_shape *s, bool renorm,
                      bool training, struct slc_arena *device);
int slc_router_prepare(const struct slc_router *r, struct slc_backend *b, int64_t pools,
                       struct slc_err *e);

/* Fills ids, weights, probs, lse and the pool statistics of s. w [E, H]. */
void slc_router_forward(const struct slc_router *r, struct slc_queue *q,
                        struct slc_moe_saved *s, const void *w, const void *x,
                        const int32_t *pool, int64_t n_pools, const int32_t *forced);
/*
 * dx [T, H] += dlogits W, dw [E, H] += dlogits^T x, with dlogits from dweights [T, K]
 * (gradient by the routing weights) and the auxiliary terms; see router_backward.
 */
void slc_router_backward(const struct slc_router *r, struct slc_queue *q,
                         const struct slc_moe_saved *s, const void *w, float *dw,
                         const void *x, void *dx, const float *dweights,
                         const int32_t *pool, int64_t n_pools, const float *prob_grad,
                         float z_coef);

#endif
