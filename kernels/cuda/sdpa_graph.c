/* SPDX-License-Identifier: Apache-2.0 */
#ifdef SLC_HAVE_CUDNN

#include "kernels/cuda/sdpa_graph.h"

#include <string.h>

/* The nodes follow the composite graph that cuDNN's own engines recognise (NVIDIA
 * cudnn-frontend, scaled_dot_product_flash_attention.h). */

/* -- tensors ----------------------------------------------------------------- */

static struct tensor tensor(struct graph *g, int64_t uid, const int64_t dim[4],
                            const int64_t stride[4], cudnnDataType_t type, bool virtual,
                            bool by_value, desc offsets)
{
    const int64_t align = 16;
    struct tensor t;

    t.d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    memcpy(t.dim, dim, sizeof(t.dim));
    memcpy(t.stride, stride, sizeof(t.stride));
    if (!uid)
        uid = g->next_uid++;
    else
        g->uses[uid] = true;
    set(g, t.d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, t.d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    set(g, t.d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(g, t.d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(g, t.d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    if (virtual)
        set(g, t.d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &virtual);
    if (by_value)
        set(g, t.d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    if (offsets)
        set_desc(g, t.d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
    check(g, cudnnBackendFinalize(t.d));
    return t;
}

/* A number of the host (fp32). */
static struct tensor number(struct graph *g, int uid)
{
    static const int64_t one[4] = {1, 1, 1, 1};

    if (!g->array[uid].d)
        g->array[uid] = tensor(g, uid, one, one, CUDNN_DATA_FLOAT, false, true, NULL);
    return g->array[uid];
}

/* One int32 a sequence (lengths) or one more (offsets); NULL where not ragged. */
static desc per_sequence(struct graph *g, int uid, int64_t n)
{
    const int64_t dim[4] = {n, 1, 1, 1}, stride[4] = {1, 1, 1, 1};

    if (!g->s->ragged)
        return NULL;
    if (!g->array[uid].d)
        g->array[uid] = tensor(g, uid, dim, stride, CUDNN_DATA_INT32, false, false, NULL);
    return g->array[uid].d;
}

static desc lengths(struct graph *g)
{
    return per_sequence(g, SLC_SDPA_LENGTHS, g->s->B);
}

/* [B, heads, S, D] of an array whose tokens have `all` heads; turned: [B, heads, D, S]. */
static struct tensor heads(struct graph *g, int uid, bool kv, bool turned)
{
    const struct slc_sdpa_shape *s = g->s;
    const int64_t n = kv ? s->kv_heads : s->heads, all = kv ? s->NK : s->NQ;
    const int64_t dim[4] = {s->B, n, turned ? s->D : s->S, turned ? s->S : s->D};
    const int64_t stride[4] = {s->S * all * s->D, s->D, turned ? 1 : all * s->D,
                               turned ? all * s->D : 1};
    desc off =
        per_sequence(g, kv ? SLC_SDPA_OFFSETS_K : SLC_SDPA_OFFSETS_Q, s->B + 1);

    return tensor(g, uid, dim, stride, CUDNN_DATA_BFLOAT16, false, false, off);
}

/* [B, heads, S, 1] fp32 lying as [T, NQ]. */
static struct tensor per_query(struct graph *g, int uid)
{
    const struct slc_sdpa_shape *s = g->s;
    const int64_t dim[4] = {s->B, s->heads, s->S, 1};
    const int64_t stride[4] = {s->S * s->NQ, 1, s->NQ, 1};
    desc off = per_sequence(g, SLC_SDPA_OFFSETS_STATS, s->B + 1);

    return tensor(g, uid, dim, stride, CUDNN_DATA_FLOAT, false, false, off);
}

static struct tensor virtual_scores(struct graph *g, cudnnDataType_t type)
{
    const struct slc_sdpa_shape *s = g->s;
    const int64_t dim[4] = {s->B, s->heads, s->S, s->S};
    const int64_t stride[4] = {s->heads * s->S * s->S, s->S * s->S, s->S, 1};

    return tensor(g, 0, dim, stride, type, true, false, NULL);
}

static struct tensor virtual_rows(struct graph *g)
{
    const struct slc_sdpa_shape *s = g->s;
    const int64_t dim[4] = {s->B, s->heads, s->S, 1};
    const int64_t stride[4] = {s->heads * s->S, s->S, 1, 1};

    return tensor(g, 0, dim, stride, CUDNN_DATA_FLOAT, true, false, NULL);
}

/* -- nodes -------------------------------------------------------------------- */

static void add(struct graph *g, desc op)
{
    check(g, cudnnBackendFinalize(op));
    if (g->n_op < 64)
        g->op[g->n_op++] = op;
}

/* y = mode(x, b, t); axis >= 0 for GEN_INDEX. */
static struct tensor pointwise(struct graph *g, cudnnPointwiseMode_t mode,
                               cudnnDataType_t math, struct tensor y, const struct tensor *x,
                               const struct tensor *b, const struct tensor *t, int64_t axis)
{
    desc pw = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    desc op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);

    set(g, pw, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, pw, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &math);
    if (axis >= 0)
        set(g, pw, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    check(g, cudnnBackendFinalize(pw));
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pw);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x->d);
    if (b)
        set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b->d);
    if (t)
        set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t->d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y.d);
    add(g, op);
    return y;
}

static struct tensor binary(struct graph *g, cudnnPointwiseMode_t mode, struct tensor y,
                            struct tensor x, struct tensor b)
{
    return pointwise(g, mode, CUDNN_DATA_FLOAT, y, &x, &b, NULL, -1);
}

static struct tensor unary(struct graph *g, cudnnPointwiseMode_t mode, struct tensor y,
                           struct tensor x)
{
    return pointwise(g, mode, CUDNN_DATA_FLOAT, y, &x, NULL, NULL, -1);
}

static struct tensor reduce(struct graph *g, cudnnReduceTensorOp_t mode, struct tensor y,
                            struct tensor x)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    desc r = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    desc op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);

    set(g, r, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, r, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    check(g, cudnnBackendFinalize(r));
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, r);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.d);
    add(g, op);
    return y;
}

/* c = a b; m, n, k: which of the three the sequences' lengths stand in for. */
static struct tensor product(struct graph *g, struct tensor c, struct tensor a,
                             struct tensor b, const char *short_dims)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const double padding = 0;
    desc m = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    desc op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR), len = lengths(g);

    set(g, m, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    if (len && !g->s->backward && strchr(short_dims, 'n'))
        set(g, m, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &padding);
    check(g, cudnnBackendFinalize(m));
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, m);
    if (len && strchr(short_dims, 'm'))
        set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, len);
    if (len && strchr(short_dims, 'n'))
        set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, len);
    if (len && strchr(short_dims, 'k'))
        set_desc(g, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, len);
    add(g, op);
    return c;
}

static struct tensor reshape(struct graph *g, struct tensor y, struct tensor x)
{
    desc op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);

    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.d);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.d);
    add(g, op);
    return y;
}

static struct tensor select_of(struct graph *g, struct tensor x, struct tensor mask)
{
    struct tensor inf = number(g, SLC_SDPA_MINUS_INFINITY);

    return pointwise(g, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT,
                     virtual_scores(g, CUDNN_DATA_FLOAT), &x, &inf, &mask, -1);
}

static struct tensor index_of(struct graph *g, struct tensor x, int64_t axis,
                              cudnnDataType_t math)
{
    return pointwise(g, CUDNN_POINTWISE_GEN_INDEX, math,
                     virtual_scores(g, CUDNN_DATA_INT32), &x, NULL, NULL, axis);
}

static struct tensor compare(struct graph *g, cudnnPointwiseMode_t mode, struct tensor x,
                             const struct tensor *b)
{
    return pointwise(g, mode, CUDNN_DATA_BOOLEAN, virtual_scores(g, CUDNN_DATA_BOOLEAN),
                     &x, b, NULL, -1);
}

/* -infinity outside the sequence. */
static struct tensor padded(struct graph *g, struct tensor x)
{
    if (!g->s->ragged)
        return x;
    struct tensor row = index_of(g, x, 2, CUDNN_DATA_INT32);
    struct tensor col = index_of(g, x, 3, CUDNN_DATA_INT32);
    const struct tensor *len = (lengths(g), &g->array[SLC_SDPA_LENGTHS]);
    struct tensor in_row = compare(g, CUDNN_POINTWISE_CMP_LT, row, len);
    struct tensor in_col = compare(g, CUDNN_POINTWISE_CMP_LT, col, len);

    return select_of(g, x, compare(g, CUDNN_POINTWISE_LOGICAL_AND, in_row, &in_col));
}

/* -infinity after the query, and before its window. */
static struct tensor causal(struct graph *g, struct tensor x)
{
    struct tensor row = index_of(g, x, 2, CUDNN_DATA_FLOAT);
    struct tensor col = index_of(g, x, 3, CUDNN_DATA_FLOAT);

    x = select_of(g, x, compare(g, CUDNN_POINTWISE_CMP_GE, row, &col));
    if (g->s->window <= 0)
        return x;
    struct tensor w = number(g, SLC_SDPA_WINDOW);
    row = index_of(g, x, 2, CUDNN_DATA_FLOAT);
    col = index_of(g, x, 3, CUDNN_DATA_FLOAT);
    col = pointwise(g, CUDNN_POINTWISE_ADD, CUDNN_DATA_FLOAT,
                    virtual_scores(g, CUDNN_DATA_FLOAT), &col, &w, NULL, 3);
    return select_of(g, x, compare(g, CUDNN_POINTWISE_CMP_GT, col, &row));
}

/* -- the two graphs ----------------------------------------------------------- */

#define SCORES virtual_scores(g, CUDNN_DATA_FLOAT)

static void forward(struct graph *g)
{
    struct tensor q = heads(g, SLC_SDPA_Q, false, false);
    struct tensor k = heads(g, SLC_SDPA_K, true, true);
    struct tensor v = heads(g, SLC_SDPA_V, true, false);
    struct tensor s = product(g, SCORES, q, k, "mn");

    s = binary(g, CUDNN_POINTWISE_MUL, SCORES, s, number(g, SLC_SDPA_SCALE));
    s = causal(g, padded(g, s));
    struct tensor max = reduce(g, CUDNN_REDUCE_TENSOR_MAX, virtual_rows(g), s);
    s = binary(g, CUDNN_POINTWISE_SUB, SCORES, s, max);
    s = unary(g, CUDNN_POINTWISE_EXP, SCORES, s);
    struct tensor sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, virtual_rows(g), s);
    struct tensor log = unary(g, CUDNN_POINTWISE_LOG, virtual_rows(g), sum);
    binary(g, CUDNN_POINTWISE_ADD, per_query(g, SLC_SDPA_STATS), max, log);
    s = binary(g, CUDNN_POINTWISE_DIV, virtual_scores(g, CUDNN_DATA_BFLOAT16), s, sum);
    product(g, heads(g, SLC_SDPA_O, false, false), s, v, "mk");
}

/* x [B, heads, S, S] turned, as bf16. */
static struct tensor turned(struct graph *g, struct tensor x)
{
    const struct slc_sdpa_shape *s = g->s;
    const int64_t stride[4] = {s->heads * s->S * s->S, s->S * s->S, 1, s->S};

    return reshape(
        g, tensor(g, 0, x.dim, stride, CUDNN_DATA_BFLOAT16, true, false, NULL), x);
}

/* out = xT y; grouped heads are summed from one array of all heads. */
static void key_grad(struct graph *g, int out, int full, struct tensor xt, struct tensor y)
{
    const struct slc_sdpa_shape *s = g->s;
    struct tensor d = heads(g, out, !s->split, false);

    if (s->heads == s->kv_heads) {
        product(g, d, xt, y, "mk");
        return;
    }
    const int64_t dim[4] = {s->B, s->heads, s->S, s->D};
    const int64_t stride[4] = {s->S * s->NQ * s->D, s->D, s->NQ * s->D, 1};
    struct tensor all =
        tensor(g, full, dim, stride, CUDNN_DATA_BFLOAT16, false, false,
               per_sequence(g, SLC_SDPA_OFFSETS_Q, s->B + 1));
    product(g, all, xt, y, "mk");
    reduce(g, CUDNN_REDUCE_TENSOR_ADD, d, all);
}

static void backward(struct graph *g)
{
    const struct slc_sdpa_shape *s = g->s;
    struct tensor q = heads(g, SLC_SDPA_Q, false, false);
    struct tensor k = heads(g, SLC_SDPA_K, true, true);
    struct tensor v = heads(g, SLC_SDPA_V, true, true);
    struct tensor o = heads(g, SLC_SDPA_O, false, false);
    struct tensor d_o = heads(g, SLC_SDPA_D_O, false, false);
    const int64_t dim[4] = {s->B, s->heads, s->S, s->D};
    const int64_t stride[4] = {s->heads * s->S * s->D, s->S * s->D, s->heads * s->D, 1};
    struct tensor x = tensor(g, 0, dim, stride, CUDNN_DATA_FLOAT, true, false, NULL);

    x = binary(g, CUDNN_POINTWISE_MUL, x, d_o, o);
    x = reduce(g, CUDNN_REDUCE_TENSOR_ADD, virtual_rows(g), x);
    struct tensor delta = binary(g, CUDNN_POINTWISE_MUL, per_query(g, SLC_SDPA_SUM), x,
                                 number(g, SLC_SDPA_ONE));
    x = product(g, SCORES, q, k, "mn");
    x = binary(g, CUDNN_POINTWISE_MUL, SCORES, x, number(g, SLC_SDPA_SCALE));
    x = padded(g, x);
    x = binary(g, CUDNN_POINTWISE_SUB, SCORES, x, per_query(g, SLC_SDPA_STATS));
    x = causal(g, x);
    struct tensor p = unary(g, CUDNN_POINTWISE_EXP, SCORES, x);
    key_grad(g, SLC_SDPA_DV, SLC_SDPA_DV_FULL, turned(g, p), d_o);
    x = product(g, SCORES, d_o, v, "mn");
    x = binary(g, CUDNN_POINTWISE_SUB, SCORES, x, delta);
    x = binary(g, CUDNN_POINTWISE_MUL, SCORES, x, p);
    x = binary(g, CUDNN_POINTWISE_MUL, SCORES, x, number(g, SLC_SDPA_SCALE));
    key_grad(g, SLC_SDPA_DK, SLC_SDPA_DK_FULL, turned(g, x), q);
    /* K as it lies, turned back from [D, S] */
    const int64_t k_dim[4] = {k.dim[0], k.dim[1], k.dim[3], k.dim[2]};
    const int64_t k_stride[4] = {k.stride[0], k.stride[1], k.stride[3], k.stride[2]};
    struct tensor kt =
        reshape(g,
                tensor(g, 0, k_dim, k_stride, CUDNN_DATA_BFLOAT16, true, false,
                       per_sequence(g, SLC_SDPA_OFFSETS_K, s->B + 1)),
                k);
    product(g, heads(g, SLC_SDPA_DQ, false, false), x, kt, "mk");
}

void slc_sdpa_graph_build(struct graph *g)
{
    if (g->s->backward)
        backward(g);
    else
        forward(g);
}

#endif
