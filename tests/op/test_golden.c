/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/golden.h"

/* Ops against the published implementation, on ref, cpu and strict. */

static void rmsnorm(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden x = golden_get(test, "x");
    const int64_t T = x.shape[0], H = x.shape[1];
    const bool add = golden_has(test, "add");
    float *xd = golden_up(d, test, "x"), *y = op_new(d, (size_t)x.n * 4);
    float *sum = op_new(d, (size_t)x.n * 4), *dx = op_new(d, (size_t)x.n * 4);
    float *w = golden_up(d, test, "w"), *dw = op_new(d, (size_t)H * 4);
    float *rstd = op_new(d, (size_t)T * 4);

    SLC_RUN(d->q, zero, .dst = dw, .bytes = H * 4);
    SLC_RUN(d->q, rmsnorm_forward, .y = y, .sum = sum, .rstd = rstd, .x = xd,
            .add = add ? golden_up(d, test, "add") : NULL, .w = w, .T = T, .H = H,
            .eps = golden_scalar(test, "eps"));
    SLC_RUN(d->q, rmsnorm_backward, .dx = dx, .dw = dw, .dy = golden_up(d, test, "dy"),
            .x = add ? sum : xd, .w = w,
            .dres = add ? golden_up(d, test, "dsum") : NULL, .rstd = rstd, .T = T,
            .H = H);
    op_take(o, d, "y", SLC_F32, y, x.n, 2e-6);
    op_take(o, d, "rstd", SLC_F32, rstd, T, 2e-6);
    op_take(o, d, "dx", SLC_F32, dx, x.n, 5e-6);
    op_take(o, d, "dw", SLC_F32, dw, H, 5e-6);
    if (add)
        op_take(o, d, "sum", SLC_F32, sum, x.n, 2e-6);
}

Test(golden, rmsnorm)
{
    golden_check(rmsnorm, "rmsnorm.t7h13");
    golden_check(rmsnorm, "rmsnorm.t1h24");
    golden_check(rmsnorm, "rmsnorm.t5h9res");
}

static void qkv_rope(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden q = golden_get(test, "q"), k = golden_get(test, "k");
    const int64_t T = q.shape[0], NQ = q.shape[1], NK = k.shape[1], D = q.shape[2];
    const enum slc_qk_norm norm = strstr(test, "none")   ? SLC_QK_NORM_NONE
                                  : strstr(test, "full") ? SLC_QK_NORM_FULL
                                                         : SLC_QK_NORM_HEAD;
    const bool has = norm != SLC_QK_NORM_NONE;
    const int64_t wq = norm == SLC_QK_NORM_FULL ? NQ * D : D;
    const int64_t wk = norm == SLC_QK_NORM_FULL ? NK * D : D;
    const int64_t nr = norm == SLC_QK_NORM_FULL ? 2 : NQ + NK,
                  n = T * (NQ + 2 * NK) * D;
    float *qd = op_new(d, (size_t)q.n * 4), *kd = op_new(d, (size_t)k.n * 4);
    float *vd = op_new(d, (size_t)k.n * 4), *dqkv = op_new(d, (size_t)n * 4);
    float *rstd = op_new(d, (size_t)(T * nr) * 4);
    float *dw = op_new(d, (size_t)(wq + wk) * 4), *qkv = golden_up(d, test, "qkv");
    float *qw = has ? golden_up(d, test, "q_weight") : NULL;
    float *kw = has ? golden_up(d, test, "k_weight") : NULL;
    int32_t *pos = golden_up(d, test, "pos");
    float *inv_freq = golden_up(d, test, "inv_freq");
    const float eps = golden_scalar(test, "eps"), clip = golden_scalar(test, "clip");

    SLC_RUN(d->q, zero, .dst = dw, .bytes = (wq + wk) * 4);
    SLC_RUN(d->q, qkv_rope_forward, .q = qd, .k = kd, .v = vd,
            .rstd = has ? rstd : NULL, .qkv = qkv, .q_weight = qw, .k_weight = kw,
            .pos = pos, .inv_freq = inv_freq, .T = T, .NQ = NQ, .NK = NK, .D = D,
            .eps = eps, .clip = clip, .norm = norm);
    SLC_RUN(d->q, qkv_rope_backward, .dqkv = dqkv, .dq_weight = has ? dw : NULL,
            .dk_weight = has ? dw + wq : NULL, .dq = golden_up(d, test, "dq"),
            .dk = golden_up(d, test, "dk"), .dv = golden_up(d, test, "dv"), .qkv = qkv,
            .q_weight = qw, .k_weight = kw, .rstd = has ? rstd : NULL, .pos = pos,
            .inv_freq = inv_freq, .T = T, .NQ = NQ, .NK = NK, .D = D, .eps = eps,
            .clip = clip, .norm = norm);
    op_take(o, d, "q", SLC_F32, qd, q.n, 5e-6);
    op_take(o, d, "k", SLC_F32, kd, k.n, 5e-6);
    op_take(o, d, "v", SLC_F32, vd, k.n, 1e-7);
    op_take(o, d, "dqkv", SLC_F32, dqkv, n, 5e-6);
    if (has) {
        op_take(o, d, "rstd", SLC_F32, rstd, T * nr, 2e-6);
        op_take(o, d, "dq_weight", SLC_F32, dw, wq, 1e-5);
        op_take(o, d, "dk_weight", SLC_F32, dw + wq, wk, 1e-5);
    }
}

Test(golden, qkv_rope)
{
    golden_check(qkv_rope, "qkv_rope.head");
    golden_check(qkv_rope, "qkv_rope.none");
    golden_check(qkv_rope, "qkv_rope.full");
}

static void attention(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden q = golden_get(test, "q"), k = golden_get(test, "k");
    const struct golden seg = golden_get(test, "seg");
    const int64_t T = q.shape[0], NQ = q.shape[1], NK = k.shape[1], D = q.shape[2];
    const int64_t window = *(const int32_t *)golden_get(test, "window").data;
    const float scale = (float)(1 / sqrt((double)D));
    float *out = op_new(d, (size_t)q.n * 4), *lse = op_new(d, (size_t)(T * NQ) * 4);
    float *dq = op_new(d, (size_t)q.n * 4), *dk = op_new(d, (size_t)k.n * 4);
    float *dv = op_new(d, (size_t)k.n * 4), *qd = golden_up(d, test, "q");
    float *kd = golden_up(d, test, "k"), *vd = golden_up(d, test, "v");
    int32_t *sd = golden_up(d, test, "seg");

    SLC_RUN(d->q, attention_forward, .o = out, .lse = lse, .q = qd, .k = kd, .v = vd,
            .seg = sd, .T = T, .NQ = NQ, .NK = NK, .D = D, .n_seg = seg.n - 1,
            .max_len = T, .window = window, .scale = scale);
    SLC_RUN(d->q, attention_backward, .dq = dq, .dk = dk, .dv = dv,
            .d_o = golden_up(d, test, "do"), .q = qd, .k = kd, .v = vd, .o = out,
            .lse = lse, .seg = sd, .T = T, .NQ = NQ, .NK = NK, .D = D,
            .n_seg = seg.n - 1, .max_len = T, .window = window, .scale = scale);
    op_take(o, d, "o", SLC_F32, out, q.n, 5e-6);
    op_take(o, d, "lse", SLC_F32, lse, T * NQ, 5e-6);
    op_take(o, d, "dq", SLC_F32, dq, q.n, 1e-5);
    op_take(o, d, "dk", SLC_F32, dk, k.n, 1e-5);
    op_take(o, d, "dv", SLC_F32, dv, k.n, 1e-5);
}

Test(golden, attention)
{
    golden_check(attention, "attention.q4kv2d8");
    golden_check(attention, "attention.q3kv1d10");
    golden_check(attention, "attention.q2kv2d6");
    golden_check(attention, "attention.q4kv1d4w3");
}

/* Backward twice: by the weights alone, and with the auxiliary terms. */
static void router(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden logits = golden_get(test, "logits"),
                        ids = golden_get(test, "ids");
    const int64_t T = logits.shape[0], E = logits.shape[1], K = ids.shape[1];
    const int64_t P = golden_get(test, "count").shape[0],
                  real = golden_get(test, "lse").n;
    const bool renorm = strstr(test, "renorm");
    float *x = golden_up(d, test, "logits"), *probs = op_new(d, (size_t)(T * E) * 4);
    float *w = op_new(d, (size_t)(T * K) * 4), *lse = op_new(d, (size_t)T * 4);
    float *prob_sum = op_new(d, (size_t)(P * E) * 4), *z = op_new(d, 4);
    float *by_w = op_new(d, (size_t)(T * E) * 4),
          *by_all = op_new(d, (size_t)(T * E) * 4);
    int32_t *id = op_new(d, (size_t)(T * K) * 4),
            *count = op_new(d, (size_t)(P * E) * 4);
    int32_t *pool = golden_up(d, test, "pool");
    float *dw = golden_up(d, test, "dweights");

    SLC_RUN(d->q, router_forward, .probs = probs, .weights = w, .lse = lse, .ids = id,
            .count = count, .prob_sum = prob_sum, .z_sum = z, .logits = x, .pool = pool,
            .T = T, .E = E, .K = K, .P = P, .renorm = renorm);
    SLC_RUN(d->q, router_backward, .dlogits = by_w, .probs = probs, .weights = w,
            .lse = lse, .dweights = dw, .ids = id, .pool = pool, .T = T, .E = E, .K = K,
            .P = P, .renorm = renorm);
    SLC_RUN(d->q, router_backward, .dlogits = by_all, .probs = probs, .weights = w,
            .lse = lse, .dweights = dw, .prob_grad = golden_up(d, test, "prob_grad"),
            .ids = id, .pool = pool, .z_coef = golden_scalar(test, "z_coef"), .T = T,
            .E = E, .K = K, .P = P, .renorm = renorm);
    op_take(o, d, "ids", SLC_I32, id, T * K, 0);
    op_take(o, d, "count", SLC_I32, count, P * E, 0);
    op_take(o, d, "weights", SLC_F32, w, T * K, 2e-6);
    op_take(o, d, "probs", SLC_F32, probs, real * E, 2e-6);
    op_take(o, d, "lse", SLC_F32, lse, real, 2e-6);
    op_take(o, d, "prob_sum", SLC_F32, prob_sum, P * E, 2e-6);
    op_take(o, d, "z_sum", SLC_F32, z, 1, 2e-6);
    op_take(o, d, "dlogits", SLC_F32, by_w, T * E, 5e-6);
    o->v[o->n - 1].floor = 0.1; /* top-1 with renorm: no gradient */
    op_take(o, d, "dlogits_all", SLC_F32, by_all, T * E, 5e-6);
}

static void router_ties(struct op_dev *d, const void *test, struct op_out *o)
{
    float *probs = op_new(d, 4 * 6 * 4), *w = op_new(d, 4 * 3 * 4),
          *lse = op_new(d, 16);
    int32_t *ids = op_new(d, 4 * 3 * 4);

    SLC_RUN(d->q, router_forward, .probs = probs, .weights = w, .lse = lse, .ids = ids,
            .logits = golden_up(d, test, "logits"), .T = 4, .E = 6, .K = 3, .P = 1);
    op_take(o, d, "ids", SLC_I32, ids, 12, 0);
    op_take(o, d, "weights", SLC_F32, w, 12, 2e-6);
}

Test(golden, router)
{
    static const char *const cases[] = {
        "router.e5k3renorm", "router.e7k1",           "router.e7k1renorm",
        "router.e10k4pool",  "router.e9k2renormpool", "router.e3k3renorm",
        "router.e3k3"};

    for (int i = 0; i < 7; i++)
        golden_check(router, cases[i]);
    golden_check(router_ties, "router.ties");
}

static void swiglu(struct op_dev *d, const void *test, struct op_out *o)
{
    const int64_t rows = golden_get(test, "a").shape[0],
                  F = golden_get(test, "a").shape[1];
    float *h = golden_up(d, test, "h"), *a = op_new(d, (size_t)(rows * F) * 4);
    float *dh = op_new(d, (size_t)(rows * F) * 8),
          *aw = op_new(d, (size_t)(rows * F) * 4);
    float *dw = op_new(d, (size_t)rows * 4);

    SLC_RUN(d->q, swiglu_forward, .a = a, .h = h, .rows = rows, .F = F);
    SLC_RUN(d->q, swiglu_backward, .dh = dh, .aw = aw, .dw = dw,
            .da0 = golden_up(d, test, "da0"), .h = h, .w = golden_up(d, test, "w"),
            .rows = rows, .F = F);
    op_take(o, d, "a", SLC_F32, a, rows * F, 3e-6);
    op_take(o, d, "aw", SLC_F32, aw, rows * F, 3e-6);
    op_take(o, d, "dh", SLC_F32, dh, rows * 2 * F, 3e-6);
    op_take(o, d, "dw", SLC_F32, dw, rows, 3e-6);
}

Test(golden, swiglu)
{
    golden_check(swiglu, "swiglu.r9f7");
}

/* Gate and up rows of each expert, one after the other: the fused layout of the ops. */
static float *fused_up(const char *test, int64_t E, int64_t n)
{
    const float *gate = golden_get(test, "w_gate").data,
                *up = golden_get(test, "w_up").data;
    float *w = malloc((size_t)(2 * E * n) * 4);

    op_keep(w);
    for (int64_t e = 0; e < E; e++) {
        memcpy(w + 2 * e * n, gate + e * n, (size_t)n * 4);
        memcpy(w + (2 * e + 1) * n, up + e * n, (size_t)n * 4);
    }
    return w;
}

/* A whole expert layer on one rank, forward and backward, as src/moe strings it. */
static void moe(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden x = golden_get(test, "x"), up = golden_get(test, "w_up");
    const int64_t T = x.shape[0], H = x.shape[1], E = up.shape[0], F = up.shape[1],
                  K = 3;
    const int64_t R = T * K, nu = 2 * E * F * H, nd = E * F * H;
    float *X = op_new(d, (size_t)(R * H) * 4), *h = op_new(d, (size_t)(R * 2 * F) * 4);
    float *a = op_new(d, (size_t)(R * F) * 4), *y = op_new(d, (size_t)(R * H) * 4);
    float *aw = op_new(d, (size_t)(R * F) * 4), *dr = op_new(d, (size_t)R * 4);
    float *out = op_new(d, (size_t)(T * H) * 4), *dx = op_new(d, (size_t)(T * H) * 4);
    float *dweights = op_new(d, (size_t)(T * K) * 4), *rw = op_new(d, (size_t)R * 4);
    float *gu = op_new(d, (size_t)nu * 4), *gd = op_new(d, (size_t)nd * 4);
    float *wu = op_up(d, fused_up(test, E, F * H), (size_t)nu * 4);
    float *wd = golden_up(d, test, "w_down");
    int32_t *off = op_new(d, (size_t)(E + 1) * 4), *load = op_new(d, (size_t)E * 4);
    int32_t *row_of = op_new(d, (size_t)R * 4), *rec_of = op_new(d, (size_t)R * 4);
    struct slc_rows src = {.data = golden_up(d, test, "x"),
                           .stride = H * 4,
                           .ids = golden_up(d, test, "ids"),
                           .scalars = golden_up(d, test, "weights"),
                           .meta_stride = K * 4,
                           .count = (int32_t)T};
    struct slc_rows dst = {.data = (char *)out, .stride = H * 4, .count = (int32_t)T};
    struct slc_rows dys = src, back = {.data = (char *)dx,
                                       .stride = H * 4,
                                       .scalars = (char *)dweights,
                                       .meta_stride = K * 4,
                                       .count = (int32_t)T};

    dys.data = golden_up(d, test, "dy");
    SLC_RUN(d->q, expert_index, .off = off, .row_of = row_of, .rec_of = rec_of,
            .load = load, .row_weight = rw, .src = src, .El = E, .M = K, .rows_cap = R,
            .row_align = 1);
    SLC_RUN(d->q, expert_gather, .x = X, .src = src, .rec_of = rec_of, .off = off,
            .El = E, .H = H, .rows_cap = R);
    SLC_RUN(d->q, grouped_matmul, .y = h, .x = X, .w = wu, .off = off, .El = E,
            .N = 2 * F, .Kd = H, .rows_cap = R, .trans_w = true);
    SLC_RUN(d->q, swiglu_forward, .a = a, .h = h, .rows = R, .F = F);
    SLC_RUN(d->q, grouped_matmul, .y = y, .x = a, .w = wd, .off = off, .El = E, .N = H,
            .Kd = F, .rows_cap = R, .trans_w = true);
    SLC_RUN(d->q, expert_sum, .dst = op_up(d, &dst, sizeof(dst)), .y = y,
            .row_weight = rw, .row_of = row_of, .n = T, .H = H, .M = K, .R = 1);
    op_take(o, d, "y", SLC_F32, out, T * H, 5e-6);
    SLC_RUN(d->q, expert_gather, .x = y, .src = dys, .rec_of = rec_of, .off = off,
            .El = E, .H = H, .rows_cap = R);
    SLC_RUN(d->q, grouped_matmul, .y = a, .x = y, .w = wd, .off = off, .El = E, .N = F,
            .Kd = H, .rows_cap = R);
    SLC_RUN(d->q, swiglu_backward, .dh = h, .aw = aw, .dw = dr, .da0 = a, .h = h,
            .w = rw, .rows = R, .F = F);
    SLC_RUN(d->q, grouped_wgrad, .dw = gd, .dy = y, .x = aw, .off = off, .El = E,
            .N = H, .Kd = F, .rows_cap = R);
    SLC_RUN(d->q, grouped_wgrad, .dw = gu, .dy = h, .x = X, .off = off, .El = E,
            .N = 2 * F, .Kd = H, .rows_cap = R);
    SLC_RUN(d->q, grouped_matmul, .y = y, .x = h, .w = wu, .off = off, .El = E, .N = H,
            .Kd = 2 * F, .rows_cap = R);
    SLC_RUN(d->q, expert_sum, .dst = op_up(d, &back, sizeof(back)), .y = y,
            .row_scalar = dr, .row_of = row_of, .n = T, .H = H, .M = K, .R = 1);
    op_take(o, d, "dx", SLC_F32, dx, T * H, 5e-6);
    op_take(o, d, "dweights", SLC_F32, dweights, T * K, 5e-6);
    op_take(o, d, "dw_down", SLC_F32, gd, nd, 5e-6);
    for (int part = 0; part < 2; part++) { /* split the fused gradient again */
        float *split = op_new(d, (size_t)(nu / 2) * 4);

        for (int64_t e = 0; e < E; e++)
            SLC_RUN(d->q, copy, .dst = split + e * F * H,
                    .src = gu + (2 * e + part) * F * H, .bytes = F * H * 4);
        op_take(o, d, part ? "dw_up" : "dw_gate", SLC_F32, split, nu / 2, 5e-6);
    }
}

Test(golden, moe)
{
    golden_check(moe, "moe.e5k3");
}

static void embedding(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden w = golden_get(test, "w"), ids = golden_get(test, "ids");
    const int64_t V = w.shape[0], H = w.shape[1], T = ids.n;
    float *y = op_new(d, (size_t)(T * H) * 4), *dw = op_new(d, (size_t)w.n * 4);
    int32_t *id = golden_up(d, test, "ids");

    SLC_RUN(d->q, zero, .dst = dw, .bytes = w.n * 4);
    SLC_RUN(d->q, embedding_forward, .y = y, .w = golden_up(d, test, "w"), .ids = id,
            .T = T, .H = H, .V = V);
    SLC_RUN(d->q, embedding_backward, .dw = dw, .dy = golden_up(d, test, "dy"),
            .ids = id, .T = T, .H = H, .V = V);
    op_take(o, d, "y", SLC_F32, y, T * H, 0);
    op_take(o, d, "dw", SLC_F32, dw, w.n, 1e-6);
}

Test(golden, embedding)
{
    golden_check(embedding, "embedding.v11h6");
}

static void cross_entropy(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden x = golden_get(test, "logits");
    float *logits = golden_up(d, test, "logits"),
          *loss = op_new(d, (size_t)x.shape[0] * 4);

    SLC_RUN(d->q, cross_entropy, .loss = loss, .logits = logits,
            .targets = golden_up(d, test, "targets"), .rows = x.shape[0],
            .V = x.shape[1], .scale = golden_scalar(test, "scale"), .grad = true);
    op_take(o, d, "loss", SLC_F32, loss, x.shape[0], 2e-6);
    op_take(o, d, "dlogits", SLC_F32, logits, x.n, 5e-6);
}

Test(golden, cross_entropy)
{
    golden_check(cross_entropy, "cross_entropy.t7v17");
}

static void head(struct op_dev *d, const void *test, struct op_out *o)
{
    const struct golden x = golden_get(test, "x"), w = golden_get(test, "w");
    const int64_t T = x.shape[0], H = x.shape[1], V = w.shape[0];
    float *logits = op_new(d, (size_t)(T * V) * 4), *loss = op_new(d, (size_t)T * 4);
    float *dx = op_new(d, (size_t)x.n * 4), *dw = op_new(d, (size_t)w.n * 4);
    float *xd = golden_up(d, test, "x"), *wd = golden_up(d, test, "w");

    SLC_RUN(d->q, matmul, .c = logits, .a = xd, .b = wd, .M = T, .N = V, .K = H,
            .trans_b = true);
    SLC_RUN(d->q, cross_entropy, .loss = loss, .logits = logits,
            .targets = golden_up(d, test, "targets"), .rows = T, .V = V,
            .scale = golden_scalar(test, "scale"), .grad = true);
    SLC_RUN(d->q, matmul, .c = dx, .a = logits, .b = wd, .M = T, .N = H, .K = V);
    SLC_RUN(d->q, matmul, .c = dw, .a = logits, .b = xd, .M = V, .N = H, .K = T,
            .trans_a = true);
    op_take(o, d, "loss", SLC_F32, loss, T, 2e-6);
    op_take(o, d, "dx", SLC_F32, dx, x.n, 1e-5);
    op_take(o, d, "dw", SLC_F32, dw, w.n, 1e-5);
}

Test(golden, head)
{
    golden_check(head, "head.t7h6v17");
}
