/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice bench dispatch: the token exchange between the ranks it is started on, by the
 * calls of a training step (post, finish, release, combine), count exchange and credit
 * included. Every iteration makes the rows, exchanges them, reads them through the
 * expert-row pointers, makes results, combines and reads those; sums are checked.
 * One JSON line a case. The limit (bench_limit.h) is the passes over memory that this
 * needs, at the rate of memcpy on all ranks at once in the same run; of_limit_own takes the
 * rate of copying own memory for all passes, also for those between ranks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fail.h"
#include "cmd/bench.h"
#include "cmd/bench_limit.h"
#include "cmd/bench_rows.h"
#include "cmd/cmd.h"
#include "moe/dispatch.h"

static const char usage[] = "srun --mpi=pmix -n N sluice bench dispatch [--bytes LIST] ...";

#define SIZES_MAX 16
#define WARM 3

struct bench {
    struct slc_world *w;
    struct slc_group *g;
    struct slc_backend *b;
    struct slc_queue *q;
    struct bench_case c;
    enum slc_dtype dtype;
    bool far;
    double window_factor;
    long long bytes[SIZES_MAX];
    int sizes;
    /* of one size */
    struct slc_moe_shape shape;
    struct slc_moe_counters counters;
    struct slc_dispatch *dispatch;
    struct slc_moe_saved saved;
    int32_t *load;
    char *x, *y, *out;
    void *device, *host;
    int iterations;
    double *there_s, *back_s, *sums; /* [iterations], sums [iterations][2] */
};

/* -- one size ------------------------------------------------------------------------ */

static void layout(struct bench *x, struct slc_arena *device, struct slc_arena *host)
{
    const struct slc_moe_shape *n = &x->shape;
    const size_t T = (size_t)n->T, rows = (size_t)n->rows_cap, R = (size_t)n->R;
    struct slc_moe_saved *s = &x->saved;

    s->ids = slc_arena_take(device, "routing", T * (size_t)n->K * 4);
    s->weights = slc_arena_take(device, "routing", T * (size_t)n->K * 4);
    s->counts = slc_arena_take(device, "routing", (R + (size_t)n->E) * 4);
    s->slot_rank = slc_arena_take(device, "routing", T * (size_t)n->S * 4);
    s->slot_row = slc_arena_take(device, "routing", T * (size_t)n->S * 4);
    s->own_token = slc_arena_take(device, "routing", T * 4);
    s->off = slc_arena_take(device, "routing", (size_t)(n->El_max + 1) * 4);
    s->row_of = slc_arena_take(device, "routing", (size_t)(n->cap * n->M) * 4);
    s->rec_of = slc_arena_take(device, "routing", rows * 4);
    s->row_weight = slc_arena_take(device, "routing", rows * 4);
    x->load = slc_arena_take(device, "routing", (size_t)n->El_max * 4);
    x->x = slc_arena_take(device, "rows", T * n->row_bytes);
    x->y = slc_arena_take(device, "rows", rows * n->row_bytes);
    x->out = slc_arena_take(device, "rows", T * n->row_bytes);
    s->plan = slc_arena_take(host, "plan", R * (R + (size_t)n->E) * 4);
    x->there_s = slc_arena_take(host, "times", (size_t)x->iterations * sizeof(double));
    x->back_s = slc_arena_take(host, "times", (size_t)x->iterations * sizeof(double));
    x->sums = slc_arena_take(host, "times", (size_t)x->iterations * 2 * sizeof(double));
}

static int memory(struct bench *x, struct slc_err *e)
{
    struct slc_arena d, h;

    slc_arena_measure(&d);
    slc_arena_measure(&h);
    layout(x, &d, &h);
    x->device = slc_mem_alloc(x->b, slc_arena_size(&d), SLC_MEM_DEVICE, e);
    x->host = slc_mem_alloc(x->b, slc_arena_size(&h), SLC_MEM_HOST, e);
    if (!x->device || !x->host)
        return -1;
    memset(x->device, 0, slc_arena_size(&d));
    memset(x->host, 0, slc_arena_size(&h));
    slc_arena_carve(&d, x->device);
    slc_arena_carve(&h, x->host);
    layout(x, &d, &h);
    return 0;
}

static void close_size(struct bench *x)
{
    slc_dispatch_destroy(x->dispatch);
    x->dispatch = NULL;
    slc_mem_free(x->b, x->device, SLC_MEM_DEVICE);
    slc_mem_free(x->b, x->host, SLC_MEM_HOST);
    x->device = x->host = NULL;
}

static int open_size(struct bench *x, long long bytes, struct slc_err *e)
{
    x->c.T = bench_tokens(&x->c, slc_group_size(x->g), bytes);
    const struct slc_moe_options o = {
        .backend = x->b, .group = x->g, .T = x->c.T, .H = x->c.H, .E = x->c.E, .K = x->c.K,
        .F = 1, .pools = 1, .dtype = x->dtype, .training = true, .slots = 1,
        .window_factor = x->window_factor, .force_far = x->far};

    x->iterations = bench_iterations(bytes);
    if (slc_moe_shape_init(&x->shape, &o, e) < 0 || memory(x, e) < 0)
        return -1;
    bench_route(&x->c, slc_group_index(x->g), x->saved.ids);
    for (int64_t i = 0; i < x->c.T * x->c.K; i++)
        x->saved.weights[i] = bench_weight(&x->c);
    const struct slc_dispatch_options d = {
        .backend = x->b, .group = x->g, .shape = &x->shape, .counters = &x->counters,
        .slots = 1, .force_far = x->far, .training = true};
    x->dispatch = slc_dispatch_create(&d, e);
    return x->dispatch ? 0 : -1;
}

/* Where the expert-row pointers say that a row is: in the window, or where it was made. */
static const char *row_at(const struct bench *x, const struct slc_rows *view, int32_t row)
{
    return slc_rows_data(view, x->saved.rec_of[row], x->shape.row_bytes);
}

/* Reads the records expert by expert. */
static double consume(const struct bench *x, const struct slc_rows *view)
{
    const struct slc_moe_saved *s = &x->saved;
    const int32_t all = s->off[x->shape.El];
    double sum = 0;

    for (int64_t i = 0; i < x->shape.El; i++)
        for (int32_t row = s->off[i]; row < s->off[i + 1]; row++) {
            if (row + 1 < all)
                bench_ahead(row_at(x, view, row + 1));
            sum += (double)(x->shape.first + i + 1) * bench_sum(&x->c, row_at(x, view, row));
        }
    return sum;
}

static void produce(struct bench *x, int iteration)
{
    const struct slc_moe_saved *s = &x->saved;

    for (int64_t i = 0; i < x->shape.El; i++)
        for (int32_t row = s->off[i]; row < s->off[i + 1]; row++)
            bench_row(&x->c, x->y + (size_t)row * x->shape.row_bytes,
                      bench_result_key(x->shape.first + i, iteration), BENCH_RESULT_MOD);
}

/* There and back, in all rounds of the plan. */
static int iterate(struct bench *x, int iteration, double *there, double *back,
                   double sums[2], struct slc_err *e)
{
    const struct slc_moe_shape *n = &x->shape;
    struct slc_moe_saved *s = &x->saved;
    struct slc_rows view;
    double now = slc_now(), then = now;

    *there = *back = -now;
    sums[0] = sums[1] = 0;
    bench_produce_tokens(&x->c, n->me, iteration, x->x);
    s->rounds = 1; /* until the plan is known: finish sets it */
    if (slc_dispatch_post(x->dispatch, 0, x->q, s, x->x, NULL, e) < 0)
        return -1;
    *back = 0;
    for (int round = 0; round < s->rounds; round++) {
        if (slc_dispatch_finish(x->dispatch, 0, &view, e) < 0)
            return -1;
        SLC_RUN(x->q, expert_index, .off = s->off, .row_of = s->row_of,
                .rec_of = s->rec_of, .load = x->load, .row_weight = s->row_weight,
                .src = view, .El = n->El, .M = n->M, .rows_cap = n->rows_cap,
                .row_align = n->align);
        sums[0] += consume(x, &view);
        slc_dispatch_release(x->dispatch, 0);
        then = slc_now();
        *there += then;
        produce(x, iteration);
        if (slc_combine_post(x->dispatch, 0, x->y, s->row_weight, NULL, e) < 0)
            return -1;
        if (round + 1 == s->rounds)
            break;
        now = slc_now();
        *back += now - then;
        *there -= now;
    }
    if (slc_combine_finish(x->dispatch, 0, x->out, NULL, NULL, e) < 0)
        return -1;
    for (int64_t t = 0; t < n->T; t++)
        sums[1] += bench_sum(&x->c, x->out + (size_t)t * n->row_bytes);
    *back += slc_now() - then;
    return 0;
}

static int check_sums(struct bench *x, struct slc_err *e)
{
    if (slc_allreduce(x->g, x->sums, 2 * x->iterations, SLC_F64, e) < 0)
        return -1;
    for (int i = 0; i < x->iterations; i++) {
        double there, back;

        bench_expected(&x->c, x->shape.R, i, &there, &back);
        if (x->sums[2 * i] != there || x->sums[2 * i + 1] != back)
            return slc_errf(e, SLC_EXIT_DIFFERS,
                            "iteration %d: the sums of rows are %.17g and %.17g, not %.17g "
                            "and %.17g",
                            i, x->sums[2 * i], x->sums[2 * i + 1], there, back);
    }
    return 0;
}

/* The slowest rank's median, in microseconds. */
static int slowest(struct bench *x, double *t, int64_t *us100, struct slc_err *e)
{
    *us100 = (int64_t)(1e8 * slc_bench_median(t, x->iterations));
    return slc_allreduce_max(x->g, us100, e);
}

/* What the rows really took: a peer may be far without --far. */
static const char *path_of(const struct slc_moe_counters *c)
{
    return !c->far_bytes ? "near" : !c->near_bytes ? "far" : "near+far";
}

static int report(struct bench *x, long long bytes, const struct slc_bench_passes *rate,
                  struct slc_err *e)
{
    const struct slc_bench_passes own = {rate->own, rate->own};
    const struct slc_moe_shape *n = &x->shape;
    int64_t all, there, back;
    double *total = x->sums; /* checked: its place is free */
    double limit[3], limit_own[3];

    for (int i = 0; i < x->iterations; i++)
        total[i] = x->there_s[i] + x->back_s[i];
    if (slowest(x, total, &all, e) < 0 || slowest(x, x->there_s, &there, e) < 0 ||
        slowest(x, x->back_s, &back, e) < 0)
        return -1;
    if (n->me > 0)
        return 0;
    slc_bench_limit(n, x->saved.plan, x->saved.rounds, rate, limit);
    slc_bench_limit(n, x->saved.plan, x->saved.rounds, &own, limit_own);
    printf("{\"bench\": \"dispatch\", \"path\": \"%s\", \"ranks\": %d, \"bytes\": %lld, "
           "\"routing\": \"%s\", \"dtype\": \"%s\", \"tokens\": %lld, \"hidden\": %lld, "
           "\"experts\": %lld, \"top_k\": %lld, \"rounds\": %d, \"us\": %.2f, "
           "\"dispatch_us\": %.2f, \"combine_us\": %.2f, \"gb_per_s\": %.3f, "
           "\"memcpy_gb_per_s\": %.2f, \"between_gb_per_s\": %.2f, \"of_limit\": %.3f, "
           "\"dispatch_of_limit\": %.3f, \"combine_of_limit\": %.3f, "
           "\"of_limit_own\": %.3f}\n",
           path_of(&x->counters), n->R, bytes, x->c.skew ? "skewed" : "even",
           slc_dtype_name(x->dtype), (long long)n->T, (long long)n->H, (long long)n->E,
           (long long)n->K, x->saved.rounds, (double)all / 100, (double)there / 100,
           (double)back / 100, 2e5 * (double)bytes / (double)all / 1e6, rate->own / 1e9,
           rate->between / 1e9, 1e8 * limit[2] / (double)all, 1e8 * limit[0] / (double)there,
           1e8 * limit[1] / (double)back, 1e8 * limit_own[2] / (double)all);
    fflush(stdout);
    return 0;
}

static int run_size(struct bench *x, long long bytes, struct slc_err *e)
{
    struct slc_bench_passes rate = {0};
    double unused[2], sums[2];
    int rc = open_size(x, bytes, e);

    for (int i = 0; rc == 0 && i < WARM; i++)
        rc = iterate(x, i, &unused[0], &unused[1], sums, e);
    if (rc == 0)
        rc = slc_bench_copy_rates(x->g, slc_bench_memory(&x->shape, x->saved.plan),
                                  x->iterations, x->there_s, &rate, e);
    if (rc == 0)
        rc = slc_barrier(x->g, e);
    for (int i = 0; rc == 0 && i < x->iterations; i++)
        rc = iterate(x, i, &x->there_s[i], &x->back_s[i], &x->sums[2 * i], e);
    if (rc == 0)
        rc = check_sums(x, e);
    if (rc == 0)
        rc = report(x, bytes, &rate, e);
    close_size(x);
    return rc;
}

/* -- the command --------------------------------------------------------------------- */

static int run(struct bench *x, const char *routing, struct slc_err *e)
{
    const struct slc_world_options o = {.force_far = 0};
    int members[1024], rc = -1;

    x->w = slc_world_create(&o, e);
    if (!x->w)
        return -1;
    const int R = slc_world_size(x->w);
    if (R < 2 || R > 1024) {
        slc_errf(e, SLC_EXIT_CONFIG, "%d ranks: it needs 2 to 1024; usage: %s", R, usage);
        goto out;
    }
    for (int r = 0; r < R; r++)
        members[r] = r;
    x->g = slc_group_create(x->w, members, R, e);
    x->b = x->g ? slc_backend_open("cpu", NULL, e) : NULL;
    x->q = x->b ? slc_queue_create(x->b, e) : NULL;
    rc = x->q ? 0 : -1;
    for (int skew = 0; rc == 0 && skew < 2; skew++) {
        x->c.skew = skew;
        for (int i = 0; rc == 0 && i < x->sizes; i++)
            if (strcmp(routing, skew ? "even" : "skewed") != 0)
                rc = run_size(x, x->bytes[i], e);
    }
    if (rc < 0)
        slc_fail_raise(e->code, slc_world_rank(x->w), slc_world_host(x->w, slc_world_rank(x->w)),
                       "bench", e->text);
out:
    slc_queue_destroy(x->q);
    if (x->b)
        slc_backend_close(x->b);
    slc_group_destroy(x->g);
    slc_world_destroy(x->w);
    return rc;
}

/* "64K,1M": sizes with K or M. */
static int parse_sizes(struct bench *x, const char *text, struct slc_err *e)
{
    for (const char *at = text; *at;) {
        char *end;
        long long n = strtoll(at, &end, 10);

        if (end > at && (*end == 'K' || *end == 'M'))
            n <<= *end++ == 'K' ? 10 : 20;
        if (end == at || n < 1 || n > 1LL << 32 || (*end && *end != ',') ||
            x->sizes == SIZES_MAX)
            return slc_errf(e, SLC_EXIT_CONFIG,
                            "--bytes %s: give at most %d sizes like 64K,1M", text, SIZES_MAX);
        x->bytes[x->sizes++] = n;
        at = *end ? end + 1 : end;
    }
    return 0;
}

int slc_bench_dispatch(int argc, char **argv)
{
    struct bench x = {.sizes = 0};
    const char *bytes = "64K,1M,16M,64M", *routing = "both", *dtype = "fp32";
    const char *hidden = "1024", *experts = "16", *top_k = "2", *factor = "1.25";
    struct slc_err e = SLC_ERR_INIT;
    long long v[3] = {0};
    int n;
    const struct slc_flag flags[] = {
        {"--bytes", "LIST", "bytes of rows a rank sends (64K,1M,16M,64M)", &bytes, NULL},
        {"--far", NULL, "treat all ranks as far: staging and puts", NULL, &x.far},
        {"--routing", "R", "even, skewed (half of all tokens to one expert) or both (default)",
         &routing, NULL},
        {"--dtype", "T", "fp32 (default) or bf16", &dtype, NULL},
        {"--hidden", "H", "elements of a row (1024)", &hidden, NULL},
        {"--experts", "E", "experts (16)", &experts, NULL},
        {"--top-k", "K", "experts of a token: 2 (default), 4 or 8", &top_k, NULL},
        {"--window-factor", "F", "as moe.window_factor of a run file (1.25)", &factor, NULL},
    };
    int rc = slc_flags_parse(argc, argv, usage, flags, sizeof(flags) / sizeof(*flags), &n, &e);

    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && n > 0)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "unknown argument %s; usage: %s", argv[1], usage);
    if (rc < 0 || parse_sizes(&x, bytes, &e) < 0 ||
        slc_flag_int("--hidden", hidden, 1, 1 << 16, &v[0], &e) < 0 ||
        slc_flag_int("--experts", experts, 2, 4096, &v[1], &e) < 0 ||
        slc_flag_int("--top-k", top_k, 1, 8, &v[2], &e) < 0 ||
        slc_flag_real("--window-factor", factor, 0.01, 1000, &x.window_factor, &e) < 0)
        return slc_cmd_fail("bench dispatch", &e);
    x.c = (struct bench_case){.H = v[0], .E = v[1], .K = v[2], .bf16 = !strcmp(dtype, "bf16")};
    x.dtype = x.c.bf16 ? SLC_BF16 : SLC_F32;
    if (!x.c.bf16 && strcmp(dtype, "fp32"))
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "--dtype %s: give fp32 or bf16", dtype);
    else if (strcmp(routing, "even") && strcmp(routing, "skewed") && strcmp(routing, "both"))
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "--routing %s: give even, skewed or both", routing);
    else if ((x.c.K & (x.c.K - 1)) || x.c.K >= x.c.E)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "--top-k %lld: give 1, 2, 4 or 8, less than --experts",
                      v[2]);
    if (rc == 0)
        rc = run(&x, routing, &e);
    return rc < 0 ? slc_cmd_fail("bench dispatch", &e) : SLC_EXIT_OK;
}
