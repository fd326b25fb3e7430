/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_EXPERTS_H
#define SLC_MOE_EXPERTS_H

#include "moe/moe.h"
#include "moe/shape.h"

/*
 * The experts of this rank on the records of one round: W_down(silu(gate) * up), as
 * grouped products over expert-major rows. `view` lists the records: the window of the
 * exchange, or with ep = 1 the tokens themselves.
 *
 * In s: x [rows_cap, H], h [rows_cap, 2F] and the row index. Scratch, shared by all
 * layers: a and aw [rows_cap, F] by both slots, y [rows_cap, H] and dweight [rows_cap] of
 * each. It is in use from load (or load_grad) until what reads y is on the queue.
 */
struct slc_experts {
    const struct slc_moe_shape *shape;
    void *x, *h; /* not training: the x and h of every saved */
    void *y, *a, *aw;
    float *dweight; /* [rows_cap] gradient by the routing weight of each row */
    int32_t *load;  /* [El_max] */
};

void slc_experts_carve(struct slc_experts *x, const struct slc_moe_shape *s,
                       bool training, struct slc_arena *device);
/* Only y and dweight of a further slot: combine may read those of one slot while experts
 * work on the other. */
void slc_experts_carve_results(struct slc_experts *x, bool training,
                               struct slc_arena *device);
int slc_experts_prepare(const struct slc_experts *x, struct slc_backend *b,
                        bool training, struct slc_err *e);

/* Build the row index of view and gather its rows into s->x; load [El] as in
 * expert_index. The reads of view are over when what was enqueued here is done. */
void slc_experts_load(const struct slc_experts *x, struct slc_queue *q,
                      struct slc_moe_saved *s, const struct slc_rows *view,
                      int32_t *load);
/* s->h = s->x W_up^T. */
void slc_experts_up(const struct slc_experts *x, struct slc_queue *q,
                    struct slc_moe_saved *s, const struct slc_moe_weights *w);
/* y = experts(s->x), not yet weighted; fills s->h. */
void slc_experts_forward(const struct slc_experts *x, struct slc_queue *q,
                         struct slc_moe_saved *s, const struct slc_moe_weights *w);
/* Gather the rows of the output gradient from view into y by the index in s. */
void slc_experts_load_grad(const struct slc_experts *x, struct slc_queue *q,
                           const struct slc_moe_saved *s, const struct slc_rows *view);
/* From y = d(weighted output): y = dX, dweight, and the gradients of the weights added
 * to g. s->h is used up. */
void slc_experts_backward(const struct slc_experts *x, struct slc_queue *q,
                          struct slc_moe_saved *s, const struct slc_moe_weights *w,
                          const struct slc_moe_grads *g);

#endif
