/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One rank of a layout test: the same global batch on all ranks together and on one
 * rank alone (each rank runs that beside it). Loss and every gradient must agree.
 *
 *   layout [--ep N] [--experts E] [--topk K] [--scope none|micro|sequence] [--far]
 *          [--window-rows N] [--one-expert] [--recompute] [--backend NAME]
 *          [--steps N]
 *
 *   --one-expert   every token goes to the same K experts; all others have none
 *   --steps N      then train N steps and compare the losses
 *   --window-rows  so few rows a window that dispatch runs in rounds (asserted)
 */
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/rng.h"
#include "comm/group.h"
#include "data/sampler.h"
#include "model/model.h"
#include "optim/optim.h"
#include "tests/comm/check.h"

#define ROWS 4 /* of the global batch */
#define LEN 24 /* tokens in a row */
#define GRAD_TOLERANCE 1e-5
#define LOSS_TOLERANCE 1e-5
#define LATE_TOLERANCE 1e-4 /* from the sixth step on */

static struct slc_err e = SLC_ERR_INIT;

static struct {
    int ep, experts, topk, steps;
    enum slc_aux_scope scope;
    int64_t window_rows;
    bool far, one_expert, recompute;
    const char *backend, *config; /* config: a folder of tests/data/golden */
} opt = {.ep = 1, .experts = 8, .topk = 2, .backend = "ref"};

/* -- the model: once over all ranks, once alone ------------------------------- */

struct part {
    struct slc_spec spec;
    struct slc_backend *backend;
    struct slc_queue *q;
    struct slc_params ps;
    struct slc_model *m;
    struct slc_optim *optim;
    struct slc_batch batch;
    struct slc_group *all, *experts, *replicas; /* NULL: alone */
    int64_t first;                              /* row of the global batch */
};

static void read_spec(struct slc_spec *s)
{
    char text[1024];

    if (opt.config) {
        OK(slc_spec_load(s, opt.config, &e));
        s->init_std = 0.25;
        return;
    }
    snprintf(text, sizeof(text),
             "{\"model_type\":\"qwen3_moe\",\"hidden_size\":16,\"num_hidden_layers\":3,"
             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":8,"
             "\"vocab_size\":31,\"num_experts\":%d,\"num_experts_per_tok\":%d,"
             "\"moe_intermediate_size\":12,\"intermediate_size\":20,"
             "\"mlp_only_layers\":[1],\"norm_topk_prob\":true,\"rope_theta\":10000.0,"
             "\"initializer_range\":0.25,\"tie_word_embeddings\":false}",
             opt.experts, opt.topk);
    OK(slc_spec_parse(s, text, "layout", &e));
}

static struct slc_model_options model_options(const struct part *p, int64_t rows)
{
    return (struct slc_model_options){
        .backend = p->backend,
        .queue = p->q,
        .experts = p->experts,
        .all = p->all,
        .rows = rows,
        .S = LEN,
        .training = true,
        .recompute = opt.recompute,
        .aux_scope = opt.scope,
        .aux_coef = opt.scope == SLC_AUX_NONE ? 0 : 0.2,
        .z_coef = opt.scope == SLC_AUX_NONE ? 0 : 0.01,
        .window_rows = p->experts ? opt.window_rows : 0,
        .force_far = opt.far,
    };
}

static void open_optim(struct part *p)
{
    const struct slc_optim_options oo = {.beta1 = 0.9,
                                         .beta2 = 0.95,
                                         .eps = 1e-8,
                                         .weight_decay = 0.1,
                                         .clip = 1,
                                         .dense = p->all,
                                         .expert = p->replicas};

    NEED(p->optim = slc_optim_create(&p->ps, &oo, &e));
    OK(slc_optim_adopt_weights(p->optim, p->q, &e));
}

static void open_part(struct part *p, int ep, int index, int64_t rows)
{
    const struct slc_backend_options bo = {.threads = 1};

    read_spec(&p->spec);
    NEED(p->backend = slc_backend_open(opt.backend, &bo, &e));
    NEED(p->q = slc_queue_create(p->backend, &e));
    OK(slc_params_create(&p->ps, &p->spec, ep, index, p->backend, SLC_F32, true, &e));
    OK(slc_params_init(&p->ps, 11, p->q, &e));
    const struct slc_model_options o = model_options(p, rows);
    NEED(p->m = slc_model_create(&p->spec, &p->ps, &o, &e));
    OK(slc_batch_init(&p->batch, rows, LEN, &e));
    if (opt.steps)
        open_optim(p);
}

static void close_part(struct part *p)
{
    if (p->optim)
        slc_optim_destroy(p->optim);
    slc_batch_release(&p->batch);
    slc_model_destroy(p->m);
    slc_params_destroy(&p->ps);
    slc_queue_destroy(p->q);
    slc_backend_close(p->backend);
}

/* -- batches: a row is a function of (step, its number) ------------------------ */

static void put_row(struct slc_batch *b, int64_t r, int64_t step, int64_t row)
{
    const int lengths[3] = {5 + 3 * (int)(row % 3), 8, row % 2 ? 2 : 1};
    int64_t t = r * LEN;

    for (int d = 0; d < 3; d++) {
        for (int i = 0; i < lengths[d]; i++, t++) {
            b->ids[t] =
                (int32_t)(slc_rng_u64(9, SLC_RNG_TEST, (uint64_t)(step * 64 + row),
                                      (uint64_t)t % LEN) %
                          31);
            b->targets[t] = -1;
            if (i)
                b->targets[t - 1] = b->ids[t];
            b->pos[t] = i;
            b->doc[t] = (int32_t)b->n_docs;
        }
        b->n_docs++;
        b->n_tokens += lengths[d];
        b->n_targets += lengths[d] - 1;
        b->seg[++b->n_seg] = (int32_t)t;
    }
    for (int i = 0; t < (r + 1) * LEN; i++, t++) {
        b->ids[t] = 0;
        b->targets[t] = b->doc[t] = -1;
        b->pos[t] = i;
    }
    if (b->seg[b->n_seg] < t)
        b->seg[++b->n_seg] = (int32_t)t;
}

static void fill(struct part *p, int64_t step)
{
    struct slc_batch *b = &p->batch;

    b->n_docs = b->n_tokens = b->n_targets = b->n_seg = 0;
    b->seg[0] = 0;
    for (int64_t r = 0; r < b->rows; r++)
        put_row(b, r, step, p->first + r);
}

/* -- a step ------------------------------------------------------------------- */

/* L of the global batch; w from `alone`, whose batch is the global one. */
static double run(struct part *p, const struct slc_batch *global)
{
    const struct slc_loss_weights w = {.targets = (double)global->n_targets,
                                       .tokens = (double)global->n_tokens,
                                       .micro_tokens = (double)global->n_tokens,
                                       .sequences = (double)global->n_docs};
    struct slc_model_result out;
    int32_t *forced = NULL;

    if (opt.one_expert) {
        const int64_t n = 2 * p->batch.T; /* two MoE layers */

        forced = malloc((size_t)(n * opt.topk) * sizeof(*forced));
        for (int64_t i = 0; i < n * opt.topk; i++)
            forced[i] = opt.experts / 2 + (int32_t)(i % opt.topk);
    }
    SLC_RUN(p->q, zero, .dst = p->ps.g, .bytes = p->ps.local * 4);
    OK(slc_model_forward(p->m, &p->batch, &w, forced, NULL, &out, &e));
    OK(slc_model_backward(p->m, &e));
    free(forced);
    double loss = out.loss_sum / w.targets + out.aux + out.z;
    if (p->all)
        OK(slc_allreduce(p->all, &loss, 1, SLC_F64, &e));
    return loss;
}

static void update(struct part *p)
{
    struct slc_optim_report r;

    OK(slc_optim_step(p->optim, p->q, 2e-3, true, &r, &e));
    CHECK(!r.skipped && r.grad_norm > 0);
}

static float *fetch_grads(struct part *p)
{
    float *g = malloc((size_t)p->ps.local * sizeof(*g));

    OK(slc_fetch(p->q, g, p->ps.g, (size_t)p->ps.local * sizeof(*g), &e));
    return g;
}

/* The gradients of all ranks, summed over the ranks that hold the parameter. */
static float *global_grads(struct part *p)
{
    float *g = fetch_grads(p);

    for (int i = 0; i < p->ps.n; i++) {
        const struct slc_param *x = &p->ps.p[i];

        OK(slc_allreduce(x->expert ? p->replicas : p->all, g + x->at, x->local, SLC_F32,
                         &e));
    }
    return g;
}

static void compare_grads(struct part *many, struct part *alone)
{
    float *a = global_grads(many), *b = fetch_grads(alone);
    double worst = 0;

    for (int i = 0; i < many->ps.n; i++) {
        const struct slc_param *x = &many->ps.p[i], *y = &alone->ps.p[i];
        double diff = 0, norm = 0;

        for (int64_t k = 0; k < x->local; k++) {
            const double want = (double)b[y->at + x->start + k];
            const double d = (double)a[x->at + k] - want;

            diff += d * d;
            norm += want * want;
        }
        if (sqrt(diff) > GRAD_TOLERANCE * sqrt(norm)) {
            fprintf(stderr, "%s: difference %.3g of norm %.3g\n", x->name, sqrt(diff),
                    sqrt(norm));
            exit(1);
        }
        worst = norm > 0 ? fmax(worst, sqrt(diff / norm)) : worst;
    }
    fprintf(stderr, "gradients differ by %.2g at most\n", worst);
    free(a);
    free(b);
}

static void compare_loss(double got, double want, double tolerance, int step)
{
    if (fabs(got - want) <= tolerance * fabs(want))
        return;
    fprintf(stderr, "step %d: loss %.10g, on one rank %.10g\n", step, got, want);
    exit(1);
}

/* What each rank counted adds up to all assignments; nothing is dropped. */
static void check_counters(struct part *p, const struct slc_batch *global)
{
    struct slc_model_counters c;
    int64_t sums[4];
    int layers;

    slc_model_counters(p->m, &c, false);
    const int64_t *load = slc_model_load(p->m, &layers);
    sums[0] = 0;
    for (int i = 0; i < layers * opt.experts; i++)
        sums[0] += load[i];
    sums[1] = (int64_t)c.near_bytes;
    sums[2] = (int64_t)c.far_bytes;
    sums[3] = (int64_t)c.rounds;
    OK(slc_allreduce(p->all, sums, 4, SLC_I64, &e));
    CHECK(c.dropped == 0);
    CHECK(sums[0] == layers * global->n_tokens * opt.topk);
    if (opt.ep == 1)
        return;
    CHECK(opt.far ? sums[2] > 0 && sums[1] == 0 : sums[1] > 0 && sums[2] == 0);
    /* Two MoE layers, each forward (twice with recompute) and backward on every rank.
     */
    const int64_t passes = 2 * (opt.recompute ? 3 : 2) * slc_group_size(p->all);
    if (opt.window_rows)
        CHECK(sums[3] > passes);
    else if (!opt.one_expert) /* all tokens to one rank may need rounds too */
        CHECK(sums[3] == passes);
}

/* -- main --------------------------------------------------------------------- */

static struct slc_group *make_group(struct slc_world *w, int first, int step, int n)
{
    int members[64];
    struct slc_group *g;

    for (int i = 0; i < n; i++)
        members[i] = first + i * step;
    NEED(g = slc_group_create(w, members, n, &e));
    return g;
}

static void test(struct slc_world *w)
{
    const int size = slc_world_size(w), rank = slc_world_rank(w), ep = opt.ep;
    struct part many = {0}, alone = {0};

    many.all = make_group(w, 0, 1, size);
    many.experts = ep > 1 ? make_group(w, rank / ep * ep, 1, ep) : NULL;
    many.replicas = make_group(w, rank % ep, ep, size / ep);
    many.first = rank * (ROWS / size);
    open_part(&many, ep, rank % ep, ROWS / size);
    open_part(&alone, 1, 0, ROWS);
    for (int step = 0; step < (opt.steps ? opt.steps : 1); step++) {
        fill(&many, step);
        fill(&alone, step);
        const double got = run(&many, &alone.batch), want = run(&alone, &alone.batch);
        compare_loss(got, want, step < 5 ? LOSS_TOLERANCE : LATE_TOLERANCE, step + 1);
        if (rank == 0)
            printf("step %d loss %a\n", step + 1, got);
        if (step == 0) {
            compare_grads(&many, &alone);
            check_counters(&many, &alone.batch);
        }
        if (opt.steps) {
            update(&many);
            update(&alone);
        }
    }
    close_part(&alone);
    close_part(&many);
    slc_group_destroy(many.replicas);
    slc_group_destroy(many.experts);
    slc_group_destroy(many.all);
}

static enum slc_aux_scope scope_of(const char *name)
{
    CHECK(!strcmp(name, "none") || !strcmp(name, "micro") || !strcmp(name, "sequence"));
    return !strcmp(name, "none")    ? SLC_AUX_NONE
           : !strcmp(name, "micro") ? SLC_AUX_MICRO
                                    : SLC_AUX_SEQUENCE;
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {{"ep", 1, 0, 'e'},
                                            {"experts", 1, 0, 'E'},
                                            {"topk", 1, 0, 'k'},
                                            {"scope", 1, 0, 's'},
                                            {"window-rows", 1, 0, 'w'},
                                            {"steps", 1, 0, 'n'},
                                            {"backend", 1, 0, 'b'},
                                            {"config", 1, 0, 'c'},
                                            {"far", 0, 0, 'f'},
                                            {"one-expert", 0, 0, '1'},
                                            {"recompute", 0, 0, 'r'},
                                            {0}};

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'e':
            opt.ep = atoi(optarg);
            break;
        case 'E':
            opt.experts = atoi(optarg);
            break;
        case 'k':
            opt.topk = atoi(optarg);
            break;
        case 's':
            opt.scope = scope_of(optarg);
            break;
        case 'w':
            opt.window_rows = atoi(optarg);
            break;
        case 'n':
            opt.steps = atoi(optarg);
            break;
        case 'b':
            opt.backend = optarg;
            break;
        case 'c':
            opt.config = optarg;
            break;
        case 'f':
            opt.far = true;
            break;
        case '1':
            opt.one_expert = true;
            break;
        case 'r':
            opt.recompute = true;
            break;
        default:
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    struct slc_world_options wo = {0};
    struct slc_world *w;

    parse(argc, argv);
    if (opt.config) {
        struct slc_spec s;

        read_spec(&s);
        CHECK(s.L == 2 && s.moe[0] && s.moe[1]);
        opt.experts = (int)s.E;
        opt.topk = (int)s.K;
    }
    wo.force_far = opt.far;
    NEED(w = slc_world_create(&wo, &e));
    test(w);
    slc_world_destroy(w);
    return 0;
}
