/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice bench step: one rank trains on random tokens. Rate, loss of the first step and
 * peak memory; with --ops also the time of each op beside what the machine can do,
 * measured in the same run: products beside the best one of the library, everything else
 * beside copying memory. One JSON line a figure.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "cmd/op_meter.h"
#include "data/sampler.h"
#include "data/sampler_private.h"
#include "model/model.h"
#include "optim/optim.h"
#include "store/hf.h"

static const char usage[] = "sluice bench step FOLDER|config.json [--rows N] [--ops] ...";

struct step {
    const char *folder, *device, *dtype_name;
    long long rows, sequence, document, steps, warm, threads;
    bool ops;
    enum slc_dtype dtype;
    struct slc_backend *b;
    struct slc_queue *q;
    struct slc_spec spec;
    struct slc_params params;
    struct slc_model *model;
    struct slc_optim *optim;
    struct slc_batch batch;
    double loss, grad_norm;                 /* of the first step */
    double forward_s, backward_s, norm_s, update_s; /* of the steps measured */
    double *seconds;
};

/* Ids that any program can make again: a linear congruential generator. */
static void fill_batch(struct step *x)
{
    struct slc_batch *b = &x->batch;
    uint64_t state = 1;

    for (int64_t t = 0; t < b->T; t++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        b->ids[t] = (int32_t)((state >> 33) % (uint64_t)x->spec.V);
    }
    slc_batch_clear(b);
    for (int64_t row = 0; row < b->rows; row++)
        for (int64_t at = 0; at < b->S; at += x->document)
            slc_batch_add_document(b, row * b->S + at,
                                   b->S - at < x->document ? b->S - at : x->document, NULL);
    for (int64_t s = b->n_seg; s <= b->max_seg; s++)
        b->seg[s] = (int32_t)b->T;
}

static int load_weights(struct step *x, struct slc_err *e)
{
    struct stat st;

    if (stat(x->folder, &st) == 0 && S_ISDIR(st.st_mode))
        return slc_hf_load(x->folder, &x->params, &x->spec, x->q, e);
    return slc_params_init(&x->params, 1, x->q, e);
}

static int create(struct step *x, struct slc_err *e)
{
    const struct slc_backend_options bo = {.threads = (int)x->threads};
    const struct slc_optim_options oo = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1.0};

    if (slc_spec_load(&x->spec, x->folder, e) < 0)
        return -1;
    if (x->sequence > x->spec.max_positions)
        return slc_errf(e, SLC_EXIT_CONFIG, "--sequence %lld is above the model's %lld positions",
                        x->sequence, (long long)x->spec.max_positions);
    x->b = slc_backend_open(x->device, &bo, e);
    x->q = x->b ? slc_queue_create(x->b, e) : NULL;
    if (!x->q || slc_params_create(&x->params, &x->spec, 1, 0, x->b, x->dtype, true, e) < 0 ||
        slc_batch_init(&x->batch, x->rows, x->sequence, e) < 0)
        return -1;
    const struct slc_model_options mo = {.backend = x->b,
                                         .queue = x->q,
                                         .rows = x->rows,
                                         .S = x->sequence,
                                         .dtype = x->dtype,
                                         .training = true};
    x->model = slc_model_create(&x->spec, &x->params, &mo, e);
    x->optim = x->model ? slc_optim_create(&x->params, &oo, e) : NULL;
    if (!x->optim || load_weights(x, e) < 0 ||
        slc_optim_adopt_weights(x->optim, x->q, e) < 0)
        return -1;
    fill_batch(x);
    x->seconds = calloc((size_t)x->steps, sizeof(*x->seconds));
    return x->seconds ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld times", x->steps);
}

static void destroy(struct step *x)
{
    slc_op_meter_stop();
    free(x->seconds);
    slc_optim_destroy(x->optim);
    slc_model_destroy(x->model);
    slc_params_destroy(&x->params);
    slc_batch_release(&x->batch);
    slc_queue_destroy(x->q);
    slc_backend_close(x->b);
}

/* One whole step; its phases are added up. */
static int one(struct step *x, double *seconds, struct slc_err *e)
{
    const struct slc_loss_weights w = {.targets = (double)x->batch.n_targets,
                                       .tokens = (double)x->batch.n_tokens,
                                       .micro_tokens = (double)x->batch.n_tokens,
                                       .sequences = (double)x->batch.n_docs};
    struct slc_model_result out;
    struct slc_optim_report opt;
    const double t0 = slc_now();

    slc_optim_zero_grad(x->optim, x->q);
    if (slc_model_forward(x->model, &x->batch, &w, NULL, NULL, &out, e) < 0)
        return -1;
    const double t1 = slc_now();
    if (slc_model_backward(x->model, e) < 0 || slc_queue_sync(x->q, e) < 0)
        return -1;
    const double t2 = slc_now();
    if (slc_optim_step(x->optim, x->q, 1e-4, isfinite(out.loss_sum), &opt, e) < 0)
        return -1;
    *seconds = slc_now() - t0;
    x->forward_s += t1 - t0;
    x->backward_s += t2 - t1;
    x->norm_s += opt.reduce_s;
    x->update_s += opt.update_s + opt.gather_s;
    if (!isfinite(x->loss)) {
        x->loss = out.loss_sum / w.targets;
        x->grad_norm = opt.grad_norm;
    }
    return 0;
}

static int run_steps(struct step *x, long long warm, struct slc_err *e)
{
    double ignored;

    for (long long i = 0; i < warm; i++)
        if (one(x, &ignored, e) < 0)
            return -1;
    x->forward_s = x->backward_s = x->norm_s = x->update_s = 0;
    for (long long i = 0; i < x->steps; i++)
        if (one(x, &x->seconds[i], e) < 0)
            return -1;
    return 0;
}

/* Most memory this process has had so far, from the kernel. */
static double peak_mib(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmHWM: %lf", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib / 1024;
}

/* Parameters that one token meets: of the experts, K of E. */
static int64_t active(const struct step *x)
{
    int64_t n = 0;

    for (int i = 0; i < x->params.n; i++) {
        const struct slc_param *p = &x->params.p[i];

        n += p->expert ? p->count / x->spec.E * x->spec.K : p->count;
    }
    return n;
}

static void report(struct step *x, double seconds)
{
    char text[200];
    const double n = (double)x->steps;

    slc_backend_describe(x->b, text, sizeof(text));
    printf("{\"bench\": \"step\", \"device\": \"%s\", \"dtype\": \"%s\", \"rows\": %lld, "
           "\"sequence\": %lld, \"experts\": %lld, \"active_parameters\": %lld, "
           "\"parameters\": %lld, \"loss\": %.7f, \"grad_norm\": %.7f, \"step_ms\": %.2f, "
           "\"tokens_per_s\": %.1f, \"forward_ms\": %.2f, \"backward_ms\": %.2f, "
           "\"norm_ms\": %.2f, \"update_ms\": %.2f, \"peak_mib\": %.1f}\n",
           text, slc_dtype_name(x->dtype), x->rows, x->sequence, (long long)x->spec.E,
           (long long)active(x), (long long)x->params.total, x->loss, x->grad_norm,
           1e3 * seconds, (double)x->batch.T / seconds, 1e3 * x->forward_s / n,
           1e3 * x->backward_s / n, 1e3 * x->norm_s / n, 1e3 * x->update_s / n, peak_mib());
    fflush(stdout);
}

/* -- what the machine can do --------------------------------------------------------- */

static void *filled(struct step *x, int64_t n, enum slc_dtype t, struct slc_err *e)
{
    const size_t bytes = (size_t)n * slc_dtype_size(t);
    void *p = slc_mem_alloc(x->b, bytes, SLC_MEM_DEVICE, e);
    char *host = p ? malloc(bytes) : NULL;

    if (!host) {
        if (p)
            slc_mem_free(x->b, p, SLC_MEM_DEVICE);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        const float v = (float)(i * 7919 % 1000) * 1e-3f - 0.5f;

        if (t == SLC_F32)
            ((float *)host)[i] = v;
        else
            ((uint16_t *)host)[i] = slc_f32_to_bf16(v);
    }
    slc_upload(x->q, p, host, bytes);
    free(host);
    return p;
}

/* Best bytes/s of a copy too large for the caches: read and written. */
static int copy_rate(struct step *x, double *rate, struct slc_err *e)
{
    const int64_t n = 1 << 26;
    void *a = filled(x, n, SLC_F32, e), *b = filled(x, n, SLC_F32, e);
    int rc = a && b ? 0 : -1;

    *rate = 0;
    for (int i = 0; rc == 0 && i < 7; i++) {
        const double t0 = slc_now();

        SLC_RUN(x->q, copy, .dst = b, .src = a, .bytes = 4 * n);
        rc = slc_queue_sync(x->q, e);
        *rate = fmax(*rate, 8.0 * (double)n / (slc_now() - t0));
    }
    if (a)
        slc_mem_free(x->b, a, SLC_MEM_DEVICE);
    if (b)
        slc_mem_free(x->b, b, SLC_MEM_DEVICE);
    return rc;
}

/* flop/s of the best product: of the library's own on the CPU, of the backend elsewhere. */
static int dense_rate(struct step *x, double *rate, struct slc_err *e)
{
    const int64_t n = 8192;
    void *m[3] = {NULL};
    int rc = 0;

    if (!strcmp(x->b->name, "cpu"))
        return slc_cpu_peak(x->dtype, rate, e);
    *rate = 0;
    for (int i = 0; rc == 0 && i < 3; i++)
        rc = (m[i] = filled(x, n * n, x->dtype, e)) ? 0 : -1;
    for (int i = 0; rc == 0 && i < 10; i++) {
        const double t0 = slc_now();

        SLC_RUN(x->q, matmul, .c = m[0], .a = m[1], .b = m[2], .M = n, .N = n, .K = n,
                .trans_b = true, .dtype = x->dtype, .c_dtype = x->dtype);
        rc = slc_queue_sync(x->q, e);
        *rate = fmax(*rate, 2.0 * (double)(n * n) * (double)n / (slc_now() - t0));
    }
    for (int i = 0; i < 3; i++)
        if (m[i])
            slc_mem_free(x->b, m[i], SLC_MEM_DEVICE);
    return rc;
}

/* -- by op --------------------------------------------------------------------------- */

static double limit_of(const struct slc_op_cost *c, double dense, double copy)
{
    return fmax(c->flop / dense, c->bytes / copy);
}

static void say_op(const struct step *x, enum slc_op op, double total, double dense,
                   double copy)
{
    const struct slc_op_cost *c = slc_op_meter_cost(op);
    const double n = (double)x->steps;

    if (!c->calls)
        return;
    printf("{\"op\": \"%s\", \"calls\": %.0f, \"ms\": %.3f, \"share\": %.3f", slc_op_name(op),
           (double)c->calls / n, 1e3 * c->seconds / n, c->seconds / total);
    if (c->flop > 0)
        printf(", \"gflops\": %.1f, \"of_dense\": %.3f", 1e-9 * c->flop / c->seconds,
               c->flop / c->seconds / dense);
    printf(", \"gb_per_s\": %.2f, \"of_copy\": %.3f, \"of_limit\": %.3f}\n",
           1e-9 * c->bytes / c->seconds, c->bytes / c->seconds / copy,
           limit_of(c, dense, copy) / c->seconds);
}

static int by_op(struct step *x, struct slc_err *e)
{
    struct slc_model_counters k;
    double dense, copy, ops = 0, whole = 0, limit = 0;

    if (dense_rate(x, &dense, e) < 0 || copy_rate(x, &copy, e) < 0)
        return -1;
    printf("{\"dense_gflops\": %.1f, \"copy_gb_per_s\": %.2f}\n", 1e-9 * dense, 1e-9 * copy);
    slc_model_counters(x->model, &k, true);
    slc_op_meter_start(x->b);
    if (run_steps(x, 0, e) < 0)
        return -1;
    slc_op_meter_stop();
    slc_model_counters(x->model, &k, true);
    for (long long i = 0; i < x->steps; i++)
        whole += x->seconds[i];
    for (int op = 0; op < SLC_OP_COUNT; op++) {
        ops += slc_op_meter_cost((enum slc_op)op)->seconds;
        limit += limit_of(slc_op_meter_cost((enum slc_op)op), dense, copy);
        say_op(x, (enum slc_op)op, whole, dense, copy);
    }
    const double n = (double)x->steps;
    printf("{\"phase_ms\": {\"attention\": %.2f, \"router\": %.2f, \"exchange\": %.2f, "
           "\"experts\": %.2f, \"dense\": %.2f, \"head\": %.2f, \"norm\": %.2f, "
           "\"update\": %.2f}}\n",
           1e3 * k.seconds_attention / n, 1e3 * k.seconds_router / n,
           1e3 * k.seconds_exchange / n, 1e3 * k.seconds_experts / n,
           1e3 * k.seconds_dense / n, 1e3 * k.seconds_head / n, 1e3 * x->norm_s / n,
           1e3 * x->update_s / n);
    printf("{\"all_ops_ms\": %.2f, \"limit_ms\": %.2f, \"step_ms\": %.2f, \"of_limit\": "
           "%.3f}\n",
           1e3 * ops / n, 1e3 * limit / n, 1e3 * whole / n, limit / whole);
    return 0;
}

static int check(struct step *x, int n_args, char **argv, struct slc_err *e)
{
    if (n_args != 1)
        return slc_errf(e, SLC_EXIT_CONFIG, "give a model's folder or config.json; usage: %s",
                        usage);
    x->folder = argv[1];
    if (strcmp(x->dtype_name, "fp32") && strcmp(x->dtype_name, "bf16"))
        return slc_errf(e, SLC_EXIT_CONFIG, "--dtype %s: give fp32 or bf16", x->dtype_name);
    x->dtype = strcmp(x->dtype_name, "bf16") ? SLC_F32 : SLC_BF16;
    return 0;
}

int slc_bench_step(int argc, char **argv)
{
    struct step x = {.device = "cpu", .dtype_name = "fp32", .loss = NAN};
    const char *text[6] = {NULL};
    struct slc_err e = SLC_ERR_INIT;
    int n;
    const struct slc_flag flags[] = {
        {"--device", "D", "cpu (default), ref or cuda", &x.device, NULL},
        {"--dtype", "T", "fp32 (default) or bf16", &x.dtype_name, NULL},
        {"--rows", "N", "rows of the batch (4)", &text[0], NULL},
        {"--sequence", "S", "tokens of a row (512)", &text[1], NULL},
        {"--document", "N", "tokens of a document (a whole row)", &text[2], NULL},
        {"--steps", "N", "steps that are measured (10)", &text[3], NULL},
        {"--warm", "N", "steps before them (3)", &text[4], NULL},
        {"--threads", "N", "CPU threads (all)", &text[5], NULL},
        {"--ops", NULL, "also the time of each op beside the machine's limits", NULL, &x.ops},
    };
    int rc = slc_flags_parse(argc, argv, usage, flags, 9, &n, &e);

    if (rc == 1)
        return SLC_EXIT_OK;
    long long *const at[6] = {&x.rows, &x.sequence, &x.document, &x.steps, &x.warm, &x.threads};
    static const long long usual[6] = {4, 512, 0, 10, 3, 0};
    for (int i = 0; rc == 0 && i < 6; i++) {
        *at[i] = usual[i];
        if (text[i])
            rc = slc_flag_int(flags[i + 2].name, text[i], i == 4 ? 0 : 1, 1 << 20, at[i], &e);
    }
    if (!x.document || x.document > x.sequence)
        x.document = x.sequence;
    if (rc == 0)
        rc = check(&x, n, argv, &e);
    if (rc == 0)
        rc = create(&x, &e);
    if (rc == 0)
        rc = run_steps(&x, x.warm, &e);
    if (rc == 0)
        report(&x, slc_bench_median(x.seconds, (int)x.steps));
    if (rc == 0 && x.ops)
        rc = by_op(&x, &e);
    destroy(&x);
    return rc < 0 ? slc_cmd_fail("bench step", &e) : SLC_EXIT_OK;
}
