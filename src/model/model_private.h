/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_MODEL_PRIVATE_H
#define SLC_MODEL_MODEL_PRIVATE_H

#include "base/clock.h"
#include "model/model.h"
#include "moe/moe.h"

/*
 * What the files of this folder share. Pointers are backend memory unless a comment
 * says host. `elem` is the bytes of one activation.
 *
 * The residual stream is x[0] (embedding), x[1], ... x[L] (input of the final norm):
 * layer l reads x[l] and writes x[l+1]. Without training only two of them exist and are
 * used in turn; see slc_model_x.
 */

/* Kept by one layer between forward and backward. With `recompute`, or without
 * training, one of these serves all layers. */
struct slc_layer_saved {
    void *x2;             /* [T,H] residual after attention: input of the MLP norm */
    void *qkv;            /* [T,QKV] before norm and RoPE */
    void *o;              /* [T,NQ*D] attention out */
    void *h;              /* [T,2*FD] dense layers: before SwiGLU */
    float *rstd1, *rstd2; /* [T] of the two norms */
    float *rstd_qk;       /* [T, NQ+NK] or [T,2] */
    float *lse;           /* [T,NQ] */
    struct slc_moe_saved moe; /* MoE layers */
};

/* Where a layer's parameters are in the inventory; -1: it has none of the kind. */
struct slc_layer_params {
    int attn_norm, qkv, q_norm, k_norm, attn_out, mlp_norm, router, up, down;
    int moe; /* number among the MoE layers, -1: dense */
};

/* A forward whose results were not read yet. */
struct slc_model_waiting {
    struct slc_loss_weights w;
    int64_t n_pools, n_tokens;
    bool grad;
    double *count; /* [E] assignments over layers (and ranks), scope micro */
};

struct slc_model {
    const struct slc_spec *spec;
    struct slc_params *ps;
    struct slc_model_options o;
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_moe *moe; /* NULL: no MoE layer */
    struct {             /* of the exchange in flight in each slot */
        struct slc_moe_weights weights;
        struct slc_moe_grads grads;
    } call[2];
    size_t elem;
    int64_t T, QKV, QD, KD; /* QD = NQ*D, KD = NK*D, QKV = QD + 2 KD */
    int n_moe;
    int64_t pools; /* room for statistics pools */
    int64_t chunk; /* rows of logits at a time */
    int n_saved;
    bool forced, graded; /* of the last forward: ids were given; backward may follow */

    struct slc_layer_params *layers; /* host [L] */
    struct slc_layer_saved *saved;   /* host [n_saved] */
    int embed, final_norm, head;     /* parameters; head is embed when tied */

    struct slc_arena device, host, table; /* table: device's and the MoE's regions */
    void *device_base, *host_base;

    void **x; /* host [L+1 or 2] */
    float *rstd_f, *inv_freq;

    /* the batch */
    int32_t *ids, *targets, *pos, *seg, *pool;
    int64_t n_seg, n_pools, n_tokens, longest; /* longest: of a segment */
    int32_t *h_pool, *h_seg; /* host */

    /* scratch: n and a are [T,H]; the rest is shared by the blocks of a layer */
    void *n, *a;
    void *q_, *k_, *v_, *dq, *dk, *dv, *dqkv, *d_o; /* attention */
    void *act, *da0, *dh;                           /* dense MLP */
    void *dx, *dn; /* [T,H] the gradient that flows down, and by a norm's output */

    /* head */
    void *logits;      /* [chunk,V] */
    float *token_loss; /* [T] */
    double *loss_sum;  /* [1] */

    /* router ids and statistics of all MoE layers: [n_moe] of [T,K], [n_pools,E], [1];
     * the statistics and loss_sum lie in the result block of the forward under way */
    int32_t *route_ids, *count;
    float *prob, *z, *prob_grad;
    char *result, *h_result; /* [results] blocks, and their host copies: result.c */
    struct slc_model_waiting *waiting; /* host [results] */
    int n_waiting;
    int32_t *h_count;   /* host, of the forward under way */
    float *h_prob_grad; /* host scratch */
    double *h_sum;      /* host scratch [E] */
    int64_t *load;      /* host [n_moe,E] */
    float z_coef;       /* of router_backward */
    struct slc_loss_weights w; /* of the last forward */

    struct slc_model_counters counters;
};

static inline void *slc_model_x(const struct slc_model *m, int64_t l)
{
    return m->x[m->o.training ? l : l % 2];
}
static inline struct slc_layer_saved *slc_model_saved(const struct slc_model *m, int l)
{
    return &m->saved[m->n_saved > 1 ? l : 0];
}
/* Router statistics are pooled by document rather than over the batch. */
static inline bool slc_model_by_document(const struct slc_model *m)
{
    return m->o.training && m->o.aux_scope == SLC_AUX_SEQUENCE;
}
/* Host seconds since start into *counter; with timing, of the work and not its launch. */
static inline void slc_model_phase(struct slc_model *m, double *counter, double start)
{
    if (m->o.timing)
        slc_queue_sync(m->q, NULL); /* an error is sticky: the next read reports it */
    *counter += slc_now() - start;
}
/* Row t of an activation array [.., width]. */
static inline void *slc_model_row(const struct slc_model *m, const void *p, int64_t t,
                                  int64_t width)
{
    return (char *)p + (size_t)(t * width) * m->elem;
}

/* memory.c: all regions, on a measuring or a real arena. */
void slc_model_layout(struct slc_model *m);

/* linear.c: y [rows,N] = x [rows,K] W^T with W = parameter i; its gradients. */
void slc_linear_forward(struct slc_model *m, int i, void *y, const void *x,
                        int64_t rows, int64_t N, int64_t K);
/* dx [rows,K] = dy W (dx NULL: not wanted), dW += dy^T x. Does not report grad_ready.
 */
void slc_linear_backward(struct slc_model *m, int i, void *dx, const void *dy,
                         const void *x, int64_t rows, int64_t N, int64_t K);
int slc_linear_prepare(struct slc_model *m, int64_t rows, int64_t N, int64_t K,
                       struct slc_err *e);
/* y = norm(x + add) with parameter i; see rmsnorm_forward. */
void slc_norm_forward(struct slc_model *m, int i, void *y, void *sum, float *rstd,
                      const void *x, const void *add, int64_t rows);
/* dx = gradient by the norm's input + dres; reports grad_ready. */
void slc_norm_backward(struct slc_model *m, int i, void *dx, const void *dy,
                       const void *x, const void *dres, const float *rstd);

/* attention.c: x2 = x + attention(norm(x)), n = norm(x2). Backward: m->dx holds the
 * gradient by x2 and gets that by x. */
void slc_attention_forward(struct slc_model *m, int l, const void *x);
void slc_attention_backward(struct slc_model *m, int l, const void *x);

/* dense.c: out = x2 + down(swiglu(up(n))). Backward: m->dn = gradient by n of m->dx. */
void slc_dense_forward(struct slc_model *m, int l, void *out);
void slc_dense_backward(struct slc_model *m, int l);

/*
 * layer.c: a decoder layer is four stages: attention and router, dispatch, experts,
 * combine, each for one slot of the exchange, so that a second half batch can compute
 * while the first one's rows travel. Here one batch runs them in turn. Forward of
 * layers [first, last) from x[first] to x[last]; backward from the gradient by x[last]
 * in m->dx to that by x[first].
 */
int slc_layers_forward(struct slc_model *m, int first, int last, struct slc_err *e);
int slc_layers_backward(struct slc_model *m, int first, int last, struct slc_err *e);

/* head.c: final norm, logits and loss, chunk by chunk; with `grad` also the gradient by
 * the norm's output (in m->dn) and by the head's weights. */
void slc_head_forward(struct slc_model *m, bool grad);
void slc_head_backward(struct slc_model *m);

/* result.c: the blocks; begin makes one the place of this forward's statistics. */
size_t slc_result_bytes(const struct slc_model *m);
void slc_result_layout(struct slc_model *m);
struct slc_model_waiting *slc_result_begin(struct slc_model *m, bool grad);

/* aux_loss.c: gradient of the auxiliary losses after the layers' forward; their values and
 * the loads from what came back to the host. */
int slc_aux_gradient(struct slc_model *m, struct slc_model_waiting *w, struct slc_err *e);
void slc_aux_value(struct slc_model *m, const struct slc_model_waiting *w, const float *z,
                   const int32_t *count, const float *prob, struct slc_model_result *out);
/* Gradient of the auxiliary loss by one token's probabilities in MoE layer i, or NULL.
 */
const float *slc_aux_grad(const struct slc_model *m, int i);

#endif
