/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MoE block with its experts spread over all ranks, against ep = 1 on the tokens of
 * all ranks together: exchange NAME=VALUE ... (defaults below). Several layers forward,
 * then backward, for each seed; every output and gradient is compared, and the bytes
 * that were sent with those the count matrix says.
 *
 *   expect=rounds,near,far   what must have happened (one: in one round; early: rows came with
 *                            count rows; any: paths vary)
 *   mode=post                rank 0 posts before any other rank does anything
 *   mode=bits                backend2 gives the same bits as backend
 *   bf16=1                   rows and weights are bf16; the experts' gradients, made of rows
 *                            that travelled in one round, are the same bits as with ep = 1
 */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rng.h"
#include "comm/check.h"
#include "comm/comm_private.h" /* the seed of the test transport changes in one run */
#include "moe/balance.h"
#include "moe/shape.h"
#include "tests/moe/moe_case.h"

#define LAYERS_MAX 8
#define SLOTS 2

static struct slc_err e = SLC_ERR_INIT;
static struct slc_world *w;
static struct slc_group *g;
static int R, me;

static struct {
    struct moe_case c;
    int64_t layers, slots, window, far, chaos, seed, seeds, steps;
    const char *backend, *backend2, *mode, *expect;
} opt = {.c = {.T = 11,
               .H = 9,
               .E = 5,
               .K = 2,
               .F = 6,
               .pools = 2,
               .renorm = true,
               .aux = true},
         .layers = 2,
         .slots = 1,
         .seeds = 1,
         .steps = 1,
         .backend = "cpu",
         .mode = "compare",
         .expect = ""};

static void parse(int argc, char **argv)
{
    int64_t skew = 0, padding = 0, renorm = 1, bf16 = 0;
    const struct {
        const char *name;
        int64_t *value;
    } numbers[] = {
        {"T", &opt.c.T},       {"H", &opt.c.H},         {"E", &opt.c.E},
        {"K", &opt.c.K},       {"F", &opt.c.F},         {"layers", &opt.layers},
        {"slots", &opt.slots}, {"window", &opt.window}, {"far", &opt.far},
        {"chaos", &opt.chaos}, {"seed", &opt.seed},     {"seeds", &opt.seeds},
        {"steps", &opt.steps}, {"skew", &skew},         {"padding", &padding},
        {"renorm", &renorm},   {"bf16", &bf16}};
    const struct {
        const char *name;
        const char **value;
    } texts[] = {{"backend", &opt.backend},
                 {"backend2", &opt.backend2},
                 {"mode", &opt.mode},
                 {"expect", &opt.expect}};

    for (int i = 1; i < argc; i++) {
        char *is = strchr(argv[i], '=');
        bool known = false;

        CHECK(is != NULL);
        *is = 0;
        for (size_t j = 0; j < sizeof(numbers) / sizeof(numbers[0]); j++)
            if (!strcmp(argv[i], numbers[j].name)) {
                *numbers[j].value = atoll(is + 1);
                known = true;
            }
        for (size_t j = 0; j < sizeof(texts) / sizeof(texts[0]); j++)
            if (!strcmp(argv[i], texts[j].name)) {
                *texts[j].value = is + 1;
                known = true;
            }
        CHECK(known);
    }
    opt.c.skew = (enum moe_skew)skew;
    opt.c.padding = padding;
    opt.c.renorm = renorm;
    opt.c.bf16 = bf16;
    CHECK(opt.layers <= LAYERS_MAX && opt.slots <= SLOTS);
}

/* A block on some ranks (one: ep = 1 here alone) with its layers. */
struct side {
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_moe *m;
    struct moe_case c;
    struct moe_data data[SLOTS][LAYERS_MAX];
    struct moe_layer layer[SLOTS][LAYERS_MAX];
    struct moe_result result[SLOTS][LAYERS_MAX];
};

static void side_open(struct side *s, const char *backend, struct slc_group *group)
{
    struct slc_moe_options o = {.group = group, .training = true};
    struct slc_backend_options b = {.threads = 1};

    s->c = opt.c;
    if (!group)
        s->c.T *= R;
    NEED(s->b = slc_backend_open(backend, &b, &e));
    NEED(s->q = slc_queue_create(s->b, &e));
    o.backend = s->b;
    o.dtype = s->c.bf16 ? SLC_BF16 : SLC_F32;
    o.T = s->c.T;
    o.H = s->c.H;
    o.E = s->c.E;
    o.K = s->c.K;
    o.F = s->c.F;
    o.pools = s->c.pools;
    o.renorm = s->c.renorm;
    o.slots = (int)opt.slots;
    o.window_factor = 1.25;
    o.window_rows = opt.window;
    o.force_far = opt.far == 2;
    NEED(s->m = slc_moe_create(&o, &e));
}

static void side_fill(struct side *s, bool whole, uint64_t seed)
{
    int64_t first = whole ? 0 : me * s->c.T;
    int64_t e0 = whole ? 0 : slc_expert_first(s->c.E, R, me);
    int64_t e1 = whole ? s->c.E : slc_expert_first(s->c.E, R, me + 1);

    s->c.seed = seed;
    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++) {
            moe_data_init(&s->data[i][l], &s->c, (uint64_t)(i * LAYERS_MAX + l), first,
                          s->c.T, opt.c.T * R, e0, e1);
            moe_result_init(&s->result[i][l], &s->c, &s->data[i][l]);
            OK(moe_layer_init(&s->layer[i][l], &s->c, &s->data[i][l], s->m, s->b, s->q,
                              &e));
        }
}

static void side_empty(struct side *s)
{
    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++) {
            moe_layer_release(&s->layer[i][l]);
            moe_result_release(&s->result[i][l]);
            moe_data_release(&s->data[i][l]);
        }
}

static void side_close(struct side *s)
{
    slc_moe_destroy(s->m);
    slc_queue_destroy(s->q);
    slc_backend_close(s->b);
}

/* Ranks drift apart by up to a millisecond. */
static void drift(void)
{
    static uint64_t n;

    if (opt.chaos &&
        slc_rng_u64((uint64_t)opt.seed, SLC_RNG_TEST, (uint64_t)me, n) % 3 == 0)
        usleep((unsigned)(slc_rng_u64((uint64_t)opt.seed, SLC_RNG_TEST,
                                      99 + (uint64_t)me, n) %
                          1000));
    n++;
}

/* One layer, both slots in flight at once. */
static void pass(struct side *s, int l, bool backward)
{
    for (int i = 0; i < opt.slots; i++) {
        struct slc_moe_call call = backward ? moe_layer_backward(&s->layer[i][l])
                                            : moe_layer_forward(&s->layer[i][l]);

        drift();
        OK(slc_moe_dispatch_post(s->m, i, &call, &e));
    }
    for (int i = 0; i < opt.slots; i++) {
        drift();
        OK(slc_moe_dispatch_finish(s->m, i, &e));
        OK(slc_moe_experts(s->m, i, &e));
        OK(slc_moe_combine_post(s->m, i, &e));
    }
    for (int i = 0; i < opt.slots; i++) {
        drift();
        OK(slc_moe_combine_finish(s->m, i, &e));
    }
}

static void side_run(struct side *s)
{
    for (int step = 0; step < opt.steps; step++) {
        for (int i = 0; i < opt.slots; i++)
            for (int l = 0; l < opt.layers; l++)
                moe_layer_clear(&s->layer[i][l]);
        for (int l = 0; l < opt.layers; l++)
            pass(s, l, false);
        for (int l = (int)opt.layers - 1; l >= 0; l--)
            pass(s, l, true);
    }
    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++)
            OK(moe_layer_fetch(&s->layer[i][l], &s->result[i][l], &e));
}

static int bad;

static void near(const char *what, int l, const float *got, const float *want,
                 int64_t n)
{
    double d = moe_distance(got, want, n);

    /* A row of results is rounded to bf16 once for each rank it comes from. */
    if (d < (opt.c.bf16 ? 6e-3 : 1e-5))
        return;
    fprintf(stderr, "rank %d seed %lld layer %d: %s differs by %g\n", me,
            (long long)opt.seed, l, what, d);
    bad++;
}

static void compare(struct side *part, struct side *whole)
{
    const struct moe_case *c = &part->c;
    int64_t e0 = slc_expert_first(c->E, R, me),
            El = slc_expert_first(c->E, R, me + 1) - e0;

    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++) {
            struct moe_result *p = &part->result[i][l], *q = &whole->result[i][l];
            int64_t at = me * c->T;

            CHECK(memcmp(p->ids, q->ids + at * c->K, (size_t)(c->T * c->K) * 4) == 0);
            near("out", l, p->out, q->out + at * c->H, c->T * c->H);
            near("dx", l, p->dx, q->dx + at * c->H, c->T * c->H);
            OK(slc_allreduce(g, p->drouter, c->E * c->H, SLC_F32, &e));
            near("d(router)", l, p->drouter, q->drouter, c->E * c->H);
            near("d(up)", l, p->dup, q->dup + e0 * 2 * c->F * c->H,
                 El * 2 * c->F * c->H);
            near("d(down)", l, p->ddown, q->ddown + e0 * c->H * c->F, El * c->H * c->F);
            if (!c->bf16 || part->layer[i][l].saved.rounds > 1) /* added up by round */
                continue;
            CHECK(memcmp(p->dup, q->dup + e0 * 2 * c->F * c->H,
                         (size_t)(El * 2 * c->F * c->H) * 4) == 0);
            CHECK(memcmp(p->ddown, q->ddown + e0 * c->H * c->F,
                         (size_t)(El * c->H * c->F) * 4) == 0);
        }
}

/* Bytes by the count matrices of all layers, worked out here once more. */
static void check_bytes(struct side *s)
{
    const struct moe_case *c = &s->c;
    int64_t El = 0, load_sum = 0, load[64] = {0};
    unsigned long long want = 0, rounds = 0;
    struct slc_moe_counters *n = slc_moe_counters(s->m);

    for (int r = 0; r < R; r++) {
        int64_t k = slc_expert_first(c->E, R, r + 1) - slc_expert_first(c->E, R, r);

        El = k > El ? k : El;
    }
    int64_t M = c->K < El ? c->K : El, row = c->H * (c->bf16 ? 2 : 4);
    int64_t plain = (row + 63) / 64 * 64, full = plain + 8 * M, scalar = plain + 4 * M;
    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++) {
            const struct slc_moe_saved *v = &s->layer[i][l].saved;

            OK(slc_moe_load_add(s->m, v, s->q, load, &e));
            rounds += 2 * (unsigned)v->rounds;
            for (int r = 0; r < R; r++) {
                if (r == me) /* alone there is no plan at all */
                    continue;
                int64_t out = v->plan[me * (R + c->E) + r];
                int64_t in = v->plan[r * (R + c->E) + me];

                want += (unsigned long long)(out * (full + plain) + in * (plain + scalar) +
                                             (v->rounds > 1 ? out * full : 0));
            }
        }
    for (int64_t x = 0; x < c->E; x++)
        load_sum += load[x];
    if (!c->padding)
        CHECK(load_sum == opt.slots * opt.layers * c->T * c->K);
    want *= (unsigned long long)opt.steps;
    if (n->near_bytes + n->far_bytes != want)
        fprintf(stderr, "rank %d: sent %llu + %llu bytes, plan says %llu\n", me,
                n->near_bytes, n->far_bytes, want);
    CHECK(n->near_bytes + n->far_bytes == want);
    CHECK(R == 1 || n->rounds == rounds * (unsigned long long)opt.steps);
    CHECK(!strstr(opt.expect, "rounds") ||
          rounds > 2 * (unsigned)(opt.slots * opt.layers));
    CHECK(!strstr(opt.expect, "one") ||
          rounds == 2 * (unsigned)(opt.slots * opt.layers));
    if (!strstr(opt.expect, "any")) { /* any: paths depend on the rank */
        CHECK((strstr(opt.expect, "near") != NULL) == (n->near_bytes > 0));
        CHECK((strstr(opt.expect, "far") != NULL) == (n->far_bytes > 0));
        CHECK((strstr(opt.expect, "early") != NULL) == (n->early > 0));
    }
    n->near_bytes = n->far_bytes = n->rounds = n->early = 0;
}

static void run_compare(struct side *part, struct side *whole)
{
    for (int64_t i = 0; i < opt.seeds; i++) {
        opt.seed += i > 0;
        OK(slc_barrier(g, &e));
        if (w->options.test_seed)
            w->options.test_seed = (unsigned)opt.seed;
        side_fill(part, false, (uint64_t)opt.seed);
        side_fill(whole, true, (uint64_t)opt.seed);
        side_run(part);
        side_run(whole);
        compare(part, whole);
        check_bytes(part);
        side_empty(part);
        side_empty(whole);
    }
}

/* Rank 0 posts while the others wait for its word; then they do. */
static void run_post(struct side *part)
{
    struct slc_moe_call call;
    char word = 1;

    side_fill(part, false, 1);
    call = moe_layer_forward(&part->layer[0][0]);
    if (me == 0) {
        OK(slc_moe_dispatch_post(part->m, 0, &call, &e));
        for (int i = 0; i < 50; i++) {
            CHECK(slc_moe_dispatch_test(part->m, 0, &e) == 0);
            usleep(1000);
        }
        for (int r = 1; r < R; r++)
            OK(slc_send(g, r, 7, &word, 1, &e));
    } else {
        OK(slc_recv(g, 0, 7, &word, 1, &e));
        OK(slc_moe_dispatch_post(part->m, 0, &call, &e));
    }
    while (1) {
        int here = slc_moe_dispatch_test(part->m, 0, &e);

        OK(here);
        if (here)
            break;
        usleep(100);
    }
    OK(slc_moe_dispatch_finish(part->m, 0, &e));
    OK(slc_moe_experts(part->m, 0, &e));
    OK(slc_moe_combine_post(part->m, 0, &e));
    OK(slc_moe_combine_finish(part->m, 0, &e));
    side_empty(part);
}

/* The same on another backend: not a bit differs. */
static void run_bits(struct side *part)
{
    struct side other = {0};
    const struct moe_case *c = &part->c;
    int64_t El = slc_expert_first(c->E, R, me + 1) - slc_expert_first(c->E, R, me);

    side_open(&other, opt.backend2, g);
    side_fill(part, false, (uint64_t)opt.seed);
    side_fill(&other, false, (uint64_t)opt.seed);
    side_run(part);
    side_run(&other);
    for (int i = 0; i < opt.slots; i++)
        for (int l = 0; l < opt.layers; l++) {
            struct moe_result *p = &part->result[i][l], *q = &other.result[i][l];

            CHECK(memcmp(p->out, q->out, (size_t)(c->T * c->H) * 4) == 0);
            CHECK(memcmp(p->dx, q->dx, (size_t)(c->T * c->H) * 4) == 0);
            CHECK(memcmp(p->drouter, q->drouter, (size_t)(c->E * c->H) * 4) == 0);
            CHECK(memcmp(p->dup, q->dup, (size_t)(El * 2 * c->F * c->H) * 4) == 0);
            CHECK(memcmp(p->ddown, q->ddown, (size_t)(El * c->H * c->F) * 4) == 0);
        }
    check_bytes(part);
    side_empty(part);
    side_empty(&other);
    side_close(&other);
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {0};
    struct side part = {0}, whole = {0};
    int members[64];

    parse(argc, argv);
    o.force_far = opt.far == 1;
    o.test_seed = opt.chaos ? (unsigned)opt.seed : 0;
    NEED(w = slc_world_create(&o, &e));
    R = slc_world_size(w);
    me = slc_world_rank(w);
    slc_log_init(me, R);
    for (int r = 0; r < R; r++)
        members[r] = r;
    NEED(g = slc_group_create(w, members, R, &e));
    side_open(&part, opt.backend, g);
    if (!strcmp(opt.mode, "post")) {
        run_post(&part);
    } else if (!strcmp(opt.mode, "bits")) {
        run_bits(&part);
    } else {
        side_open(&whole, opt.backend, NULL);
        run_compare(&part, &whole);
        side_close(&whole);
    }
    side_close(&part);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return bad > 0;
}
