/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_MOE_CASE_H
#define SLC_TESTS_MOE_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "moe/moe.h"

/*
 * A MoE block with made-up weights and tokens, a run of it through src/moe, and a dense
 * computation of the same in double that shares no code with it. All values are pure
 * functions of (seed, layer, global index), so any rank can make any part.
 */
enum moe_skew {
    MOE_EVEN, /* random router */
    MOE_ONE,  /* the last expert is in every token's choice, expert 0 in none (K < E) */
    MOE_SPLIT, /* token t prefers experts near t * E / N: ranks mostly talk to few */
};

struct moe_case {
    int64_t T, H, E, K, F; /* T: tokens of one rank */
    int64_t pools;         /* token t is of document t % pools */
    bool renorm, padding;  /* padding: every fifth token is padding */
    bool aux;              /* with gradients of auxiliary losses */
    enum moe_skew skew;
    uint64_t seed;
    bool bf16; /* rows and weights of a moe_layer; moe_data and results stay float */
};

/* All arrays of one layer on the host; n tokens from global token `first` on, experts
 * [e0, e1). */
struct moe_data {
    int64_t n, first, e0, e1;
    float *x, *add, *d_out; /* [n, H] */
    int32_t *pool;          /* [n] */
    float *prob_grad;       /* [pools, E] */
    float z_coef;
    float *router, *up, *down; /* [E,H], [e1-e0,2F,H], [e1-e0,H,F] */
};
/* Results, as floats. Router gradient and d(up), d(down) are sums over the n tokens. */
struct moe_result {
    float *out, *dx;
    float *drouter, *dup, *ddown;
    int32_t *ids;     /* [n, K] */
    float *pool_prob; /* [pools, E] */
    int32_t *pool_count;
    float z_sum;
};

/* total: tokens over all ranks (for MOE_SPLIT). */
void moe_data_init(struct moe_data *d, const struct moe_case *c, uint64_t layer,
                   int64_t first, int64_t n, int64_t total, int64_t e0, int64_t e1);
void moe_data_release(struct moe_data *d);
void moe_result_init(struct moe_result *r, const struct moe_case *c,
                     const struct moe_data *d);
void moe_result_release(struct moe_result *r);

/* The dense reference: forward and backward of all n tokens over all experts (d has
 * e0 = 0, e1 = E). Returns the loss <d_out, out> + auxiliary terms that dx is of. */
double moe_dense(const struct moe_case *c, const struct moe_data *d,
                 struct moe_result *r);

/* ||a - b|| / ||b||, 0 for two zeros. */
double moe_distance(const float *a, const float *b, int64_t n);

/*
 * One layer on a backend: device copies of data, a saved and device results. `moe` was
 * created with the sizes of c. Fetch after both passes.
 */
struct moe_layer {
    const struct moe_case *c;
    const struct moe_data *d;
    struct slc_backend *b;
    struct slc_queue *q;
    void *device, *host;
    void *x, *add, *d_out, *out, *dx, *router, *up, *down; /* fp32, or bf16 by c->bf16 */
    float *prob_grad;
    float *drouter, *dup, *ddown;
    int32_t *pool;
    struct slc_moe_saved saved;
    struct slc_moe_weights weights;
    struct slc_moe_grads grads;
};
int moe_layer_init(struct moe_layer *l, const struct moe_case *c,
                   const struct moe_data *d, struct slc_moe *m, struct slc_backend *b,
                   struct slc_queue *q, struct slc_err *e);
void moe_layer_release(struct moe_layer *l);
struct slc_moe_call moe_layer_forward(struct moe_layer *l);
struct slc_moe_call moe_layer_backward(struct moe_layer *l);
int moe_layer_fetch(struct moe_layer *l, struct moe_result *r, struct slc_err *e);
/* Make outputs and gradients zero for another pair of passes. */
void moe_layer_clear(struct moe_layer *l);

#endif
