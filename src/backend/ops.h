/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BACKEND_OPS_H
#define SLC_BACKEND_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

#ifdef __CUDACC__
#define SLC_OPS_INLINE static __host__ __device__ __forceinline__
#else
#define SLC_OPS_INLINE static inline
#endif

/*
 * The op table: what each kernel must compute. One op is one function
 * `void op(struct slc_queue *q, const struct slc_<op>_args *a)`; the same op has
 * the same file name in kernels/ref (the oracle), kernels/cpu and kernels/cuda.
 *
 * Letters: T tokens, H hidden, E experts (of the model), El experts of this
 * rank, K experts per token, F expert width, V vocabulary, D head width, R ranks
 * of the expert group, M experts per record. Arrays are row-major and dense
 * unless a stride is given. `dtype` is the dtype of activations and weights of
 * the op (SLC_F32 or SLC_BF16); statistics, router values, losses and gradient
 * buffers named so are fp32. Sums are taken in fp32 in an order that depends only
 * on shapes (never on timing or thread count), so two runs give the same bits.
 * "acc" arguments: false writes the output, true adds to it.
 * A count of 0 rows is allowed everywhere and does nothing.
 * Outputs do not alias inputs unless the comment allows it.
 */

struct slc_queue;

/* -- plain memory --------------------------------------------------------- */

/* dst[0..bytes) = src; regions do not overlap. */
struct slc_copy_args {
    void *dst;
    const void *src;
    int64_t bytes;
};
/* dst[0..bytes) = 0. */
struct slc_zero_args {
    void *dst;
    int64_t bytes;
};
/* dst[i] = convert(src[i]); to bf16 by round to nearest even. */
struct slc_cast_args {
    void *dst;
    enum slc_dtype dst_dtype;
    const void *src;
    enum slc_dtype src_dtype;
    int64_t n;
};
/* y[i] = a[i] + b[i]; y may be a or b. */
struct slc_add_args {
    void *y;
    const void *a, *b;
    int64_t n;
    enum slc_dtype dtype;
};
/* x[i] *= alpha. */
struct slc_scale_args {
    void *x;
    float alpha;
    int64_t n;
    enum slc_dtype dtype;
};
/*
 * out[0] (+)= sum of x[i]^2, accumulated in double. A NaN or infinity in x makes
 * the result not finite: this is also the finiteness test of gradients.
 */
struct slc_sum_squares_args {
    double *out;
    const void *x;
    int64_t n;
    enum slc_dtype dtype;
    bool acc;
};
/* out[0] (+)= sum of x[i], in double, in ascending order of i. */
struct slc_sum_args {
    double *out;
    const float *x;
    int64_t n;
    bool acc;
};

/* -- embedding ------------------------------------------------------------ */

/* y[t] = w[ids[t]]; y [T,H], w [V,H]; ids in [0,V) (the corpus was checked). */
struct slc_embedding_forward_args {
    void *y;
    const void *w;
    const int32_t *ids;
    int64_t T, H, V;
    enum slc_dtype dtype;
};
/* dw[ids[t]] += dy[t]; dw [V,H] fp32; terms of one id are added in ascending t. */
struct slc_embedding_backward_args {
    float *dw;
    const void *dy;
    const int32_t *ids;
    int64_t T, H, V;
    enum slc_dtype dtype;
};

/* -- RMSNorm -------------------------------------------------------------- */

/*
 * s = x (+ add); y = s * rstd * w with rstd = 1/sqrt(mean(s^2) + eps) in fp32.
 * x, add, sum, y [T,H]; w [H]; rstd [T]. add may be NULL (then sum may be NULL
 * too); with add the sum is written to `sum`, which may be x or add.
 * bf16: s is rounded to bf16 before use; s * rstd is rounded to bf16 before
 * the product with w, as Transformers does. (Zhang and Sennrich 2019)
 */
struct slc_rmsnorm_forward_args {
    void *y, *sum;
    float *rstd;
    const void *x, *add, *w;
    int64_t T, H;
    float eps;
    enum slc_dtype dtype;
};
/*
 * With n = s * rstd, g = dy * w: dx = rstd * (g - n * mean(g * n)) (+ dres);
 * dw += sum over t of dy * n. x is the forward's s. dres (the gradient that goes
 * around the norm on the residual) may be NULL and may be dx. dw [H] fp32, may
 * be NULL (then not computed).
 */
struct slc_rmsnorm_backward_args {
    void *dx;
    float *dw;
    const void *dy, *x, *w, *dres;
    const float *rstd;
    int64_t T, H;
    enum slc_dtype dtype;
};

/* -- dense products ------------------------------------------------------- */

/*
 * C[M,N] (+)= op(A) op(B), fp32 accumulation. op(A) is [M,K]: a is [M,K] with
 * row stride lda, or, with trans_a, [K,M]. op(B) is [K,N]: b is [K,N] with row
 * stride ldb, or, with trans_b, [N,K]. c has row stride ldc. Strides are in
 * elements; 0 means dense. A and B have dtype `dtype`, C has `c_dtype` (fp32, or
 * `dtype`). fp32 is never computed as TF32.
 *   y = x W^T (torch Linear):  a = x [T,in], b = W [out,in], trans_b
 *   dx = dy W:                 a = dy [T,out], b = W [out,in]
 *   dW += dy^T x:              a = dy [T,out] trans_a, b = x [T,in], c fp32, acc
 */
struct slc_matmul_args {
    void *c;
    const void *a, *b;
    int64_t M, N, K;
    int64_t lda, ldb, ldc;
    bool trans_a, trans_b, acc;
    enum slc_dtype dtype, c_dtype;
};

/* -- attention ------------------------------------------------------------ */

enum slc_qk_norm {
    SLC_QK_NORM_NONE,
    SLC_QK_NORM_HEAD, /* RMSNorm over each head, weights [D] (Qwen3) */
    SLC_QK_NORM_FULL, /* RMSNorm over all heads together, weights [NQ*D], [NK*D] (OLMoE) */
};
/*
 * Split the projection, normalise, clip, rotate. qkv [T,(NQ+2NK)*D] is laid out
 * q heads, k heads, v heads. q [T,NQ,D], k [T,NK,D], v [T,NK,D] come out:
 * q, k = norm(.) (eps), then q, k, v clamped to [-clip, clip] if clip > 0, then
 * q, k rotated in the half-split convention of Transformers (rotate_half):
 *   x'[i] = x[i] cos - x[i+D/2] sin, x'[i+D/2] = x[i+D/2] cos + x[i] sin,
 *   angle = pos[t] * inv_freq[i], i < D/2, in fp32; inv_freq [D/2] fp32.
 * rstd [T, NQ+NK] (HEAD) or [T, 2] (FULL) is kept for backward; NULL for NONE.
 */
struct slc_qkv_rope_forward_args {
    void *q, *k, *v;
    float *rstd;
    const void *qkv, *q_weight, *k_weight;
    const int32_t *pos; /* [T] */
    const float *inv_freq;
    int64_t T, NQ, NK, D;
    float eps, clip;
    enum slc_qk_norm norm;
    enum slc_dtype dtype;
};
/*
 * Gradient of the above: from dq, dk, dv to dqkv (may not alias them);
 * dq_weight, dk_weight += in fp32. qkv and rstd are the forward's.
 */
struct slc_qkv_rope_backward_args {
    void *dqkv;
    float *dq_weight, *dk_weight;
    const void *dq, *dk, *dv;
    const void *qkv, *q_weight, *k_weight;
    const float *rstd;
    const int32_t *pos;
    const float *inv_freq;
    int64_t T, NQ, NK, D;
    float eps, clip;
    enum slc_qk_norm norm;
    enum slc_dtype dtype;
};
/*
 * Causal attention inside each document: for segment s, tokens t of
 * [seg[s], seg[s+1]): o[t,h] = sum_u softmax_u(scale * q[t,h].k[u,g]) v[u,g],
 * u in the segment, u <= t, and t - u < window if window > 0; g = h / (NQ/NK).
 * seg is int32 [n_seg+1], ascending, seg[n_seg] = T; empty segments are allowed
 * (the host bound n_seg serves every packing). max_len bounds segment lengths.
 * seg_host: the same bounds in host memory, read by the call only, or NULL; a backend
 * may cut its work by them.
 * lse [T,NQ] = log sum exp of the scaled scores, kept for backward.
 * fp32 softmax; memory linear in T.
 */
struct slc_attention_forward_args {
    void *o;
    float *lse;
    const void *q, *k, *v;
    const int32_t *seg, *seg_host;
    int64_t T, NQ, NK, D, n_seg, max_len, window;
    float scale;
    enum slc_dtype dtype;
};
/* P is recomputed from lse; delta = rowsum(do * o); ds = P * (do.v - delta);
 * dq = scale * ds k, dk = scale * ds^T q, dv = P^T do, grouped heads summed. */
struct slc_attention_backward_args {
    void *dq, *dk, *dv;
    const void *d_o, *q, *k, *v, *o;
    const float *lse;
    const int32_t *seg, *seg_host;
    int64_t T, NQ, NK, D, n_seg, max_len, window;
    float scale;
    enum slc_dtype dtype;
};

/* -- SwiGLU --------------------------------------------------------------- */

/* a[r,f] = silu(h[r,f]) * h[r,F+f]; h [rows,2F] is gate then up; a [rows,F].
 * rows_dev, if not NULL, is one int32 in backend memory: only its first
 * min(rows, *rows_dev) rows are computed. (Shazeer 2020) */
struct slc_swiglu_forward_args {
    void *a;
    const void *h;
    const int32_t *rows_dev;
    int64_t rows, F;
    enum slc_dtype dtype;
};
/*
 * From da0 [rows,F], the gradient before the router weight, with the row's
 * weight w[r] (NULL: 1): dh = d(swiglu)(w da0), dw[r] = <da0, a> (fp32; NULL: not
 * wanted), aw[r] = w[r] * a[r] (NULL: not wanted; for the wgrad of the down
 * projection). a is recomputed from h. dh may be h.
 */
struct slc_swiglu_backward_args {
    void *dh, *aw;
    float *dw;
    const void *da0, *h;
    const float *w;
    const int32_t *rows_dev;
    int64_t rows, F;
    enum slc_dtype dtype;
};

/* -- router --------------------------------------------------------------- */

/*
 * probs[t] = softmax(logits[t]) over E in fp32; the K largest (compared as logits, so
 * that every backend agrees), ties to the lowest expert id; ids [T,K] are written in ascending id with weights [T,K] = their
 * probs, divided by their sum if renorm. lse [T] = logsumexp of the logits.
 * forced [T,K] (NULL: off) gives the ids instead (ascending).
 * pool [T] int32 names the statistics pool of a token (a document, or 0 for all);
 * a negative pool is padding: ids -1, weights 0, nothing counted. pool NULL: all 0.
 * Per pool: count [P,E] int32 = assignments, prob_sum [P,E] = sum of probs;
 * z_sum [1] = sum over tokens of lse^2; all three are written, each may be NULL.
 * lse is written for padding too. probs may be logits.
 */
struct slc_router_forward_args {
    float *probs, *weights, *lse;
    int32_t *ids;
    int32_t *count;
    float *prob_sum, *z_sum;
    const float *logits;
    const int32_t *pool, *forced;
    int64_t T, E, K, P;
    bool renorm;
};
/*
 * dlogits [T,E] from dweights [T,K] (gradient of the loss by the written
 * weights), prob_grad [P,E] (gradient by each token's probs in a pool: the
 * auxiliary loss; NULL: none) and z_coef (adds z_coef * 2 * lse * probs).
 * Padding rows are zero. dlogits may not alias probs.
 */
struct slc_router_backward_args {
    float *dlogits;
    const float *probs, *weights, *lse, *dweights, *prob_grad;
    const int32_t *ids, *pool;
    float z_coef;
    int64_t T, E, K, P;
    bool renorm;
};

/* -- token exchange ------------------------------------------------------- */

/*
 * Rows [first, first+count) of a numbered list, somewhere in memory: row i has
 * its data at data + (i-first)*stride and its M ids and M scalars at
 * ids/scalars + (i-first)*meta_stride (bytes). Windows hold data and meta in one
 * record, plain arrays have their own strides. NULL members are not touched.
 *
 * As src of the expert side, some records may be tokens of this rank, read where they are:
 * of records [own_first, own_first+own_count) record i is row own_token[i-own_first] of
 * own [.., H], and the list has only its ids and scalars. Needs own_in_place of the backend.
 */
struct slc_rows {
    char *data;
    int64_t stride;
    char *ids;     /* int32 [M] */
    char *scalars; /* float [M] */
    int64_t meta_stride;
    int32_t first, count;
    const char *own; /* NULL: all rows are in the list */
    const int32_t *own_token;
    int32_t own_first, own_count;
};
/* What rec_of has for a row of record j of src: j, or -2 - t for token t of src->own. */
SLC_OPS_INLINE int32_t slc_rows_name(const struct slc_rows *src, int64_t j)
{
    const int64_t own = j - src->own_first;

    if (!src->own || own < 0 || own >= src->own_count)
        return (int32_t)j;
    return -2 - src->own_token[own];
}
/* The data of `bytes` bytes that rec names; NULL for padding, -1. */
SLC_OPS_INLINE const char *slc_rows_data(const struct slc_rows *src, int32_t rec, size_t bytes)
{
    if (rec >= 0)
        return src->data + rec * src->stride;
    return rec == -1 ? NULL : src->own + (size_t)(-2 - rec) * bytes;
}

/*
 * Source side. Expert e lives on rank r with first_expert[r] <= e <
 * first_expert[r+1] (int32 [R+1], backend memory). A token becomes one record for
 * each rank that owns at least one of its experts; records to one rank are
 * numbered 0.. in ascending token order. ids [T,K] ascending, -1 = none.
 *   counts [R+E] = records to each rank, then assignments to each expert
 *   slot_rank [T,S], slot_row [T,S]: the token's records in ascending rank:
 *     which rank, and the record's number there; rank -1 past the last.
 *   own_token [T]: the token of each record to rank `me` (NULL: not wanted; needs
 *     own_in_place of the backend)
 * S = min(K, R).
 */
struct slc_dispatch_index_args {
    int32_t *counts, *slot_rank, *slot_row, *own_token;
    const int32_t *ids, *first_expert;
    int64_t T, E, K, R, S, me;
};
/*
 * For every token and slot whose record number lies in [first, first+count) of
 * dst[rank] (struct slc_rows [R] in backend memory): copy x[t] (H elements) to the
 * row's data (NULL: not) and, if the row list has ids, the token's experts on that rank as
 * local ids (id - first_expert[rank]) ascending, -1 padded to M, with their
 * weights as scalars. Ranks whose dst has count 0 are skipped. Writes only the
 * bytes of the record. In backward x is the output gradient and ids is NULL.
 */
struct slc_dispatch_pack_args {
    const struct slc_rows *dst;
    const void *x;
    const int32_t *ids, *slot_rank, *slot_row, *first_expert;
    const float *weights;
    int64_t T, H, K, R, S, M;
    enum slc_dtype dtype;
};
/*
 * Expert side. src (struct slc_rows, host; its pointers are backend memory) holds
 * n = src.count records with M local expert ids and weights each. Rows are
 * expert-major, within an expert in ascending record number; expert i starts at
 * off[i], a multiple of row_align; off [El+1] int32, off[El] = rows in use
 * (padded). row_of [n,M] = the row of each (record, id), -1 for none;
 * rec_of [rows_cap] = the record (0-based) of each row, -1 for padding, -2 - t for token t
 * of src.own;
 * row_weight [rows_cap] (NULL: not wanted) = its router weight, 0 for padding. load [El] int32 =
 * rows per expert without padding (acc adds). rows_cap >= n*min(M,El) plus padding.
 * base is subtracted from every id, so that plain router ids serve when R = 1.
 */
struct slc_expert_index_args {
    int32_t *off, *row_of, *rec_of, *load;
    float *row_weight;
    struct slc_rows src;
    int64_t El, M, rows_cap, row_align, base;
    bool acc;
};
/* x[i] = data of record rec_of[i] of src, or the token's row of src.own, zero for padding
 * rows, for i < off[El]; x [rows_cap,H]. src: as in expert_index (host struct). */
struct slc_expert_gather_args {
    void *x;
    struct slc_rows src;
    const int32_t *rec_of, *off;
    int64_t El, H, rows_cap;
    enum slc_dtype dtype;
};
/*
 * y[i] = x[i] W[e]^T for the rows i of each expert e, fp32 accumulation:
 * trans_w true:  W is [El,N,Kd], y [rows,N] (forward);
 * trans_w false: W is [El,Kd,N], y = x W[e] (the gradient by the input).
 * x [rows_cap,Kd]. Padding rows of y are zero when those of x are. rec_of (NULL: not
 * known): of expert_index; rows where it is -1 are zero in x and need not be computed.
 */
struct slc_grouped_matmul_args {
    void *y;
    const void *x, *w;
    const int32_t *off, *rec_of;
    int64_t El, N, Kd, rows_cap;
    bool trans_w;
    enum slc_dtype dtype;
};
/* dw[e] (+)= dy_e^T x_e; dy [rows_cap,N], x [rows_cap,Kd], dw [El,N,Kd] of
 * dw_dtype (fp32 gradient buffer, or dtype with acc false). Experts without rows
 * add nothing (or write zero). rec_of as in grouped_matmul, rows of dy and x. */
struct slc_grouped_wgrad_args {
    void *dw;
    const void *dy, *x;
    const int32_t *off, *rec_of;
    int64_t El, N, Kd, rows_cap;
    bool acc;
    enum slc_dtype dtype, dw_dtype;
};
/*
 * Expert side of combine: for records j in [0,n) write one row
 *   sum over m ascending of row_weight[row_of[j,m]] * y[row_of[j,m]]
 * in fp32 (row_weight NULL: plain sum), rounded once, to the list of dst
 * (struct slc_rows [R], backend memory) that holds j; add [n,H] (NULL: none)
 * is added last. row_scalar [rows_cap] (NULL: none): the value of each
 * (j,m) goes to the scalars of that row, 0 where row_of is -1.
 */
struct slc_expert_sum_args {
    const struct slc_rows *dst;
    const void *y, *add;
    const float *row_weight, *row_scalar;
    const int32_t *row_of;
    int64_t n, H, M, R;
    enum slc_dtype dtype;
};
/*
 * Source side of combine: out[t] = add[t] + sum over the token's slots in
 * ascending rank of the row slot_row of src[slot_rank] (struct slc_rows [R],
 * backend memory), in fp32, rounded once. add [T,H] may be NULL or out. If
 * dweights [T,K] is not NULL, it gets the scalars of those rows: the token's
 * experts on a rank in ascending id; 0 where an id is -1. Tokens without slots:
 * out = add (or 0). Slots outside the lists (another round's) are passed over.
 *
 * own_rows [.., M] (NULL: none; needs own_in_place of the backend): what expert_sum would
 * have written for record j of rank `me` is computed here from y, row_weight and row_scalar,
 * own_rows being row_of from this rank's first record on: the same bits. src[me] is empty
 * then.
 */
struct slc_combine_sum_args {
    void *out;
    float *dweights;
    const void *add;
    const struct slc_rows *src;
    const int32_t *ids, *slot_rank, *slot_row, *first_expert;
    const int32_t *own_rows;
    const void *y;
    const float *row_weight, *row_scalar;
    int64_t T, H, K, R, S, M, me;
    enum slc_dtype dtype;
};

/* -- loss ----------------------------------------------------------------- */

/*
 * Rows of logits [rows,V] with targets [rows] (-1: masked). loss [rows] =
 * lse - logit[target], 0 if masked. With grad, logits become
 * scale * (softmax - onehot), 0 in masked rows. fp32 softmax.
 */
struct slc_cross_entropy_args {
    float *loss;
    void *logits;
    const int32_t *targets;
    int64_t rows, V;
    float scale;
    bool grad;
    enum slc_dtype dtype;
};

/* -- optimizer ------------------------------------------------------------ */

/*
 * AdamW as torch.optim.AdamW (decoupled decay), element-wise, in fp32:
 *   g' = g * grad_scale; p *= 1 - lr*wd; m += (1-b1)(g'-m); v = b2 v + (1-b2) g'^2
 *   p -= (lr/bc1) * m / (sqrt(v)/sqrt(bc2) + eps),  bc = 1 - beta^step
 * p_low (NULL: none) gets bf16(p).
 */
struct slc_adamw_args {
    float *p, *m, *v;
    const float *g;
    uint16_t *p_low;
    int64_t n;
    double lr, beta1, beta2, eps, wd, bc1, bc2; /* 1 - beta in fp32 would be 1e-5 off */
    float grad_scale;
};

/*
 * AdamW on bf16 weights and moments of which there is no other copy: the update of adamw
 * in fp32, then p, m and v rounded to bf16 up or down at random, up with the probability
 * of what is cut off (nearest would swallow updates smaller than half a step of bf16). The
 * random bits are slc_adamw_bits(key, first + i), so the result depends on neither
 * layout nor order. g has g_dtype.
 */
struct slc_adamw_low_args {
    uint16_t *p, *m, *v;
    const void *g;
    enum slc_dtype g_dtype;
    int64_t n, first;
    uint64_t key;
    double lr, beta1, beta2, eps, wd, bc1, bc2;
    float grad_scale;
};
/* 64 random bits of element i: 16 each for p, m, v, from the lowest. */
SLC_OPS_INLINE uint64_t slc_adamw_bits(uint64_t key, int64_t i)
{
    uint64_t z = (key + (uint64_t)i) * 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93u;
    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93u;
    return z ^ (z >> 32);
}
/* The bits of an fp32 rounded to bf16 by 16 random bits; infinity and NaN stay. */
SLC_OPS_INLINE uint16_t slc_adamw_round(uint32_t bits, uint32_t random)
{
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return (uint16_t)((bits >> 16) | ((bits & 0x7fffffu) != 0 ? 0x40u : 0));
    return (uint16_t)((bits + (random & 0xffffu)) >> 16);
}

/* -- balance -------------------------------------------------------------- */

/*
 * Gradient of the load balancing loss by one token's probability of an expert, from the
 * counts [rows,E] of router_forward, in double and rounded once.
 * pooled: out [E] = scale * sum over rows of count[r,e];
 * else, each row alone: out [rows,E] = scale * count[r,e] / (sum over e of count[r,e])^2,
 * zero for a row without counts.
 */
struct slc_balance_args {
    float *out;
    const int32_t *count;
    int64_t rows, E;
    double scale;
    bool pooled;
};

/* -- the table ------------------------------------------------------------ */

#define SLC_OPS(X)                                                                     \
    X(copy) X(zero) X(cast) X(add) X(scale) X(sum_squares) X(sum)                      \
    X(embedding_forward) X(embedding_backward)                                         \
    X(rmsnorm_forward) X(rmsnorm_backward) X(matmul)                                   \
    X(qkv_rope_forward) X(qkv_rope_backward)                                           \
    X(attention_forward) X(attention_backward)                                         \
    X(swiglu_forward) X(swiglu_backward)                                               \
    X(router_forward) X(router_backward)                                               \
    X(dispatch_index) X(dispatch_pack) X(expert_index) X(expert_gather)                \
    X(grouped_matmul) X(grouped_wgrad) X(expert_sum) X(combine_sum)                    \
    X(cross_entropy) X(adamw) X(adamw_low) X(balance)

enum slc_op {
#define SLC_OP_ENUM(op) SLC_OP_##op,
    SLC_OPS(SLC_OP_ENUM)
#undef SLC_OP_ENUM
    SLC_OP_COUNT
};

struct slc_ops {
#define SLC_OP_MEMBER(op) void (*op)(struct slc_queue *q, const struct slc_##op##_args *a);
    SLC_OPS(SLC_OP_MEMBER)
#undef SLC_OP_MEMBER
};

#endif
