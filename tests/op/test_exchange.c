/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

/*
 * The ops of the token exchange in one process: R ranks are R lists. Source tokens are
 * packed into records, records become expert rows, experts are a factor per expert,
 * rows are summed per record and records per token. The result must be what the
 * definition says: sum over the token's experts of weight * factor * x.
 */
struct shape {
    int64_t T, H, E, K, R, M, align;
    int how; /* 0: spread, 1: all to expert E-1, 2: some tokens have fewer or no experts
              */
    bool rounds; /* two lists of rows per rank, each packed and combined on its own */
    enum slc_dtype dtype;
};

/* Everything the run needs on the host. */
static int32_t *first_expert_of(const struct shape *s)
{
    int32_t *first = op_ints(s->R + 1, 1, 1);

    for (int64_t r = 0; r <= s->R; r++) /* expert e lives on floor(e R / E) */
        first[r] = (int32_t)((r * s->E + s->R - 1) / s->R);
    return first;
}

static int32_t *ids_of(const struct shape *s)
{
    int32_t *ids = op_ints(s->T * s->K, 2, 1);

    for (int64_t t = 0; t < s->T; t++) {
        int64_t left = s->K, n = 0;

        for (int64_t e = 0; e < s->E && left > 0; e++) {
            bool take = s->how == 1 ? e >= s->E - s->K
                                    : slc_f32_to_bf16(op_normal(
                                          1, (uint64_t)(99 + t * s->E + e), 1)[0]) &
                                          1;

            if (s->E - e <= left && s->how != 2)
                take = true;
            if (s->how == 2 && t % 5 == 4)
                take = false;
            if (take) {
                ids[t * s->K + n++] = (int32_t)e;
                left--;
            }
        }
        while (n < s->K)
            ids[t * s->K + n++] = -1;
    }
    return ids;
}

/* A record as a window has it: data, ids, scalars in one stride. */
static struct slc_rows list(const struct shape *s, char *base, int64_t first,
                            int64_t count)
{
    const int64_t data = (s->H * (int64_t)slc_dtype_size(s->dtype) + 15) / 16 * 16;
    const int64_t stride = data + (8 * s->M + 15) / 16 * 16;

    return (struct slc_rows){
        .data = base + first * stride,
        .stride = stride,
        .ids = base + first * stride + data,
        .scalars = base + first * stride + data + 4 * s->M,
        .meta_stride = stride,
        .first = (int32_t)first,
        .count = (int32_t)count,
    };
}

struct buffers {
    int32_t *ids, *first, *counts, *slot_rank, *slot_row;
    float *weights, *dweights;
    void *x, *out;
    char *there[8], *back[8];
    int64_t S, cap;
    /* with own_token, records to rank `me` are read where they are: from own_first on by
     * its experts, all of them by combine, from what its experts left in the rest */
    int32_t *own_token, *row_of;
    float *row_weight;
    void *y;
    int64_t me, own_first;
};

static struct slc_rows *lists(struct op_dev *d, const struct shape *s,
                              char *const *base, int64_t first, int64_t count)
{
    struct slc_rows rows[8];

    memset(rows, 0, sizeof(rows));
    for (int64_t r = 0; r < s->R; r++)
        rows[r] = list(s, base[r], first, count);
    return op_up(d, rows, (size_t)s->R * sizeof(*rows));
}

static void pack(struct op_dev *d, const struct shape *s, struct buffers *b)
{
    const int64_t half = s->rounds ? s->T / 2 : s->T;

    SLC_RUN(d->q, dispatch_index, .counts = b->counts, .slot_rank = b->slot_rank,
            .slot_row = b->slot_row, .ids = b->ids, .first_expert = b->first, .T = s->T,
            .E = s->E, .K = s->K, .R = s->R, .S = b->S, .own_token = b->own_token,
            .me = b->me);
    for (int64_t at = 0; at < s->T; at += half ? half : 1)
        SLC_RUN(d->q, dispatch_pack,
                .dst = lists(d, s, b->there, at, at + half > s->T ? s->T - at : half),
                .x = b->x, .ids = b->ids, .slot_rank = b->slot_rank,
                .slot_row = b->slot_row, .first_expert = b->first,
                .weights = b->weights, .T = s->T, .H = s->H, .K = s->K, .R = s->R,
                .S = b->S, .M = s->M, .dtype = s->dtype);
}

/* The n records of rank r as its experts read them; rows of its own hold NaN in the list. */
static struct slc_rows arrived(struct op_dev *d, const struct shape *s,
                               const struct buffers *b, int64_t r, int64_t n)
{
    const size_t bytes = (size_t)s->H * slc_dtype_size(s->dtype);
    struct slc_rows rows = list(s, b->there[r], 0, n);

    if (!b->own_token || r != b->me)
        return rows;
    rows.own = b->x;
    rows.own_first = (int32_t)b->own_first;
    rows.own_count = (int32_t)(n - b->own_first);
    rows.own_token = b->own_token + b->own_first;
    for (int64_t i = b->own_first; i < n; i++) {
        void *nan = malloc(bytes);

        memset(nan, 0xff, bytes);
        slc_upload(d->q, rows.data + i * rows.stride, nan, bytes);
        free(nan);
    }
    return rows;
}

/* The experts of rank r: row -> row * (expert + 1), in backend memory by a product. */
static void experts(struct op_dev *d, const struct shape *s, struct buffers *b,
                    struct op_out *o, int64_t r, int64_t n)
{
    const int32_t *first = first_expert_of(s);
    const int64_t El = first[r + 1] - first[r], H = s->H,
                  size = (int64_t)slc_dtype_size(s->dtype);
    const int64_t cap = n * (s->M < El ? s->M : El) + El * s->align;
    int32_t *off = op_new(d, (size_t)(El + 1) * 4),
            *load = op_new(d, (size_t)El * 4 + 4);
    int32_t *row_of = op_new(d, (size_t)(n * s->M) * 4),
            *rec_of = op_new(d, (size_t)cap * 4);
    float *row_weight = op_new(d, (size_t)cap * 4),
          *w = calloc((size_t)(El * H * H + 1), 4);
    void *rows = op_new(d, (size_t)(cap * H * size)),
         *y = op_new(d, (size_t)(cap * H * size));
    uint16_t *low = calloc((size_t)(El * H * H + 1), 2);
    const struct slc_rows src = arrived(d, s, b, r, n);

    for (int64_t e = 0; e < El; e++)
        for (int64_t i = 0; i < H; i++)
            w[(e * H + i) * H + i] = (float)(first[r] + e + 1);
    for (int64_t i = 0; i < El * H * H; i++)
        low[i] = slc_f32_to_bf16(w[i]);
    SLC_RUN(d->q, expert_index, .off = off, .row_of = row_of, .rec_of = rec_of,
            .load = load, .row_weight = row_weight, .src = src, .El = El, .M = s->M,
            .rows_cap = cap, .row_align = s->align);
    SLC_RUN(d->q, expert_gather, .x = rows, .src = src, .rec_of = rec_of, .off = off,
            .El = El, .H = H, .rows_cap = cap, .dtype = s->dtype);
    SLC_RUN(d->q, grouped_matmul, .y = y, .x = rows,
            .w = op_up(d, s->dtype == SLC_F32 ? (void *)w : low,
                       (size_t)(El * H * H * size)),
            .off = off, .El = El, .N = H, .Kd = H, .rows_cap = cap, .trans_w = true,
            .dtype = s->dtype);
    /* The scalar that comes back is the row's weight: the source must get its own
     * again. */
    struct slc_rows back = list(s, b->back[r], 0, n);
    SLC_RUN(d->q, expert_sum, .dst = op_up(d, &back, sizeof(back)), .y = y,
            .row_weight = row_weight, .row_scalar = row_weight, .row_of = row_of,
            .n = n, .H = H, .M = s->M, .R = 1, .dtype = s->dtype);
    op_take(o, d, "off", SLC_I32, off, El + 1, 0);
    op_take(o, d, "load", SLC_I32, load, El, 0);
    op_take(o, d, "row_of", SLC_I32, row_of, n * s->M, 0);
    op_take(o, d, "rec_of", SLC_I32, rec_of, cap, 0);
    op_take(o, d, "row_weight", SLC_F32, row_weight, cap, 0);
    if (r == b->me) {
        b->row_of = row_of;
        b->row_weight = row_weight;
        b->y = y;
    }
    free(low);
    free(w);
}

/* lists as combine reads them; of rank `me` none, if its sums are made where its rows are. */
static struct slc_rows *returned(struct op_dev *d, const struct shape *s,
                                 const struct buffers *b, int64_t first, int64_t count)
{
    struct slc_rows rows[8] = {0};

    for (int64_t r = 0; r < s->R; r++)
        rows[r] = list(s, b->back[r], first, b->own_token && r == b->me ? 0 : count);
    return op_up(d, rows, (size_t)s->R * sizeof(*rows));
}

/* own: records to the last rank are read where they are, where the backend can. */
static void run_with(struct op_dev *d, const struct shape *s, bool own, struct op_out *o)
{
    const int64_t T = s->T, H = s->H, K = s->K, R = s->R, S = K < R ? K : R;
    const size_t z = slc_dtype_size(s->dtype), n = (size_t)(T * H);
    const int64_t half = s->rounds ? T / 2 : T;
    int32_t *counts = malloc((size_t)(R + s->E) * 4);
    struct slc_err e = SLC_ERR_INIT;
    struct buffers b = {.S = S, .me = R - 1};

    b.ids = op_up(d, ids_of(s), (size_t)(T * K) * 4);
    b.first = op_up(d, first_expert_of(s), (size_t)(R + 1) * 4);
    b.counts = op_new(d, (size_t)(R + s->E) * 4);
    b.slot_rank = op_new(d, (size_t)(T * S) * 4);
    b.slot_row = op_new(d, (size_t)(T * S) * 4);
    b.own_token = own && d->b->own_in_place ? op_new(d, (size_t)T * 4 + 4) : NULL;
    b.weights = op_up(d, op_normal(T * K, 3, 1), (size_t)(T * K) * 4);
    b.dweights = op_new(d, (size_t)(T * K) * 4);
    b.x = op_up(d, op_values(T * H, 4, 1, s->dtype), n * z);
    b.out = op_up(d, op_values(T * H, 5, 1, s->dtype), n * z);
    for (int64_t r = 0; r < R; r++) {
        b.there[r] = op_new(d, (size_t)(T * list(s, NULL, 0, 0).stride + 16));
        b.back[r] = op_new(d, (size_t)(T * list(s, NULL, 0, 0).stride + 16));
    }
    pack(d, s, &b);
    op_take(o, d, "counts", SLC_I32, b.counts, R + s->E, 0);
    op_take(o, d, "slot_rank", SLC_I32, b.slot_rank, T * S, 0);
    op_take(o, d, "slot_row", SLC_I32, b.slot_row, T * S, 0);
    cr_assert(slc_fetch(d->q, counts, b.counts, (size_t)R * 4, &e) == 0);
    b.own_first = counts[b.me] / 3;
    for (int64_t r = 0; r < R; r++) {
        int before = o->n;

        experts(d, s, &b, o, r, counts[r]);
        if (r > 2) { /* room for 24 outputs; the first three ranks show enough */
            while (o->n > before)
                free(o->v[--o->n].data);
        }
    }
    for (int64_t at = 0; at < T; at += half ? half : 1)
        SLC_RUN(d->q, combine_sum, .out = b.out, .dweights = b.dweights, .add = b.out,
                .src = returned(d, s, &b, at, at + half > T ? T - at : half),
                .own_rows = b.own_token ? b.row_of : NULL, .y = b.y,
                .row_weight = b.row_weight, .row_scalar = b.row_weight, .me = b.me,
                .ids = b.ids, .slot_rank = b.slot_rank, .slot_row = b.slot_row,
                .first_expert = b.first, .T = T, .H = H, .K = K, .R = R, .S = S,
                .M = s->M, .dtype = s->dtype);
    op_take(o, d, "out", s->dtype, b.out, T * H, s->dtype == SLC_F32 ? 1e-5 : 1.0 / 64);
    op_take(o, d, "dweights", SLC_F32, b.dweights, T * K, 0);
    free(counts);
}

static void run(struct op_dev *d, const void *param, struct op_out *o)
{
    run_with(d, param, false, o);
}

static void run_own(struct op_dev *d, const void *param, struct op_out *o)
{
    run_with(d, param, true, o);
}

static const struct shape shapes[] = {
    {0, 4, 4, 2, 1, 2, 1, 0, false, SLC_F32},
    {1, 1, 1, 1, 1, 1, 1, 0, false, SLC_F32},
    {3, 5, 4, 4, 2, 2, 1, 0, false, SLC_F32},
    {17, 8, 6, 2, 1, 2, 1, 0, false, SLC_F32},
    {17, 8, 6, 3, 4, 2, 1, 0, false, SLC_F32},
    {67, 9, 8, 3, 3, 3, 1, 2, false, SLC_F32},
    {67, 16, 8, 2, 4, 2, 1, 1, false, SLC_F32},
    {67, 16, 8, 4, 4, 2, 4, 0, true, SLC_F32},
    {67, 16, 7, 4, 2, 4, 8, 2, true, SLC_F32},
    {300, 70, 8, 2, 2, 2, 1, 0, false, SLC_F32},
    {67, 16, 8, 1, 4, 1, 1, 1, true, SLC_F32},
};

static const struct shape bf16_shapes[] = {
    {17, 7, 6, 3, 4, 2, 1, 0, false, SLC_BF16},
    {67, 16, 8, 4, 4, 2, 128, 0, true, SLC_BF16}, /* 128: what a GPU asks for */
};

static const struct shape low[] = {
    {67, 16, 8, 4, 1, 4, 128, 2, false, SLC_BF16},
    {300, 72, 8, 2, 2, 2, 128, 0, false, SLC_BF16},
    {67, 9, 8, 3, 3, 3, 128, 2, true, SLC_BF16},
    {700, 24, 6, 2, 4, 2, 128, 0, true, SLC_BF16},
};

Test(exchange, bf16_backends_agree)
{
    for (size_t i = 0; i < sizeof(low) / sizeof(*low); i++) {
        char label[64];

        snprintf(label, sizeof(label), "bf16 shape %zu", i);
        op_compare(run, &low[i], label);
    }
}

static void check_definition(const struct shape *s, const struct op_out *o)
{
    const int32_t *ids = ids_of(s);
    const float *w = op_normal(s->T * s->K, 3, 1), *x = op_normal(s->T * s->H, 4, 1);
    const float *add = op_normal(s->T * s->H, 5, 1);
    const float *out = o->v[o->n - 2].data, *dw = o->v[o->n - 1].data;

    for (int64_t t = 0; t < s->T; t++) {
        double factor = 0;

        for (int64_t k = 0; k < s->K; k++) {
            const int32_t id = ids[t * s->K + k];

            cr_assert(dw[t * s->K + k] == (id < 0 ? 0 : w[t * s->K + k]));
            factor += id < 0 ? 0 : (double)w[t * s->K + k] * (id + 1);
        }
        for (int64_t i = 0; i < s->H; i++) {
            double want = add[t * s->H + i] + factor * x[t * s->H + i];

            cr_assert(fabs(out[t * s->H + i] - want) <= 1e-5 * (10 + fabs(want)),
                      "token %d: %g, not %g", (int)t, out[t * s->H + i], want);
        }
    }
}

Test(exchange, backends_agree)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        char label[64];

        snprintf(label, sizeof(label), "shape %zu", i);
        op_compare(run, &shapes[i], label);
    }
    op_compare(run, &bf16_shapes[0], "bf16");
    op_compare(run, &bf16_shapes[1], "bf16 in rounds");
}

static bool own_in_place;

static void ask_own_in_place(struct op_dev *d, const void *param, struct op_out *o)
{
    (void)param;
    o->n = 0;
    own_in_place = d->b->own_in_place;
}

/* A rank's own records, read where they are, give the bits that the lists give. */
Test(exchange, own_records_in_place)
{
    struct op_out none;

    op_run("cpu", ask_own_in_place, NULL, &none);
    if (!own_in_place)
        cr_skip_test("this backend's ops do not read them there");
    static const char *const backends[] = {"ref", "cpu"};
    const struct shape *all[] = {&shapes[1], &shapes[3],      &shapes[4],      &shapes[5],
                                 &shapes[6], &bf16_shapes[0], &low[0], &low[1]};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        op_compare(run_own, all[i], "own records");
        for (int b = 0; b < 2; b++) {
            struct op_out listed, own;

            op_run(backends[b], run, all[i], &listed);
            op_run(backends[b], run_own, all[i], &own);
            for (int k = 1; k <= 2; k++) { /* out and dweights */
                const struct op_value *x = &listed.v[listed.n - k], *y = &own.v[own.n - k];

                cr_assert(!memcmp(x->data, y->data,
                                  (size_t)x->n * slc_dtype_size(x->dtype)),
                          "%s, shape %zu: %s differs", backends[b], i, x->name);
            }
            op_out_free(&listed);
            op_out_free(&own);
        }
    }
}

/* Forward is linear in x and the adjoint is the same path: this is its definition. */
Test(exchange, is_the_weighted_sum_of_experts)
{
    static const char *const backends[] = {"ref", "cpu"};

    for (size_t i = 0; i < 2 * sizeof(shapes) / sizeof(*shapes); i++) {
        struct op_out o;

        op_run(backends[i % 2], run, &shapes[i / 2], &o);
        check_definition(&shapes[i / 2], &o);
        op_out_free(&o);
    }
}
