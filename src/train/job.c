/* SPDX-License-Identifier: Apache-2.0 */
#include "train/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fail.h"
#include "base/file.h"
#include "base/log.h"
#include "base/start.h"
#include "store/agree.h"

static bool low_states(const struct slc_options *o)
{
    return strcmp(o->optim.states, "bf16") == 0;
}

static int check_layout(const struct slc_job *j, struct slc_err *e)
{
    const struct slc_options *o = j->o;
    int64_t ep = o->parallel.ep, rows = o->train.micro_batch * j->size;

    if (ep > j->spec.E)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "parallel.ep %lld is more than the %lld experts of the model; "
                        "set parallel.ep to at most %lld",
                        (long long)ep, (long long)j->spec.E, (long long)j->spec.E);
    if (j->size % ep != 0)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "parallel.ep %lld does not divide the %d ranks of this job; start "
                        "a multiple of %lld ranks or change parallel.ep",
                        (long long)ep, j->size, (long long)ep);
    if (o->train.global_batch % rows != 0)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "train.global_batch %lld is not a multiple of train.micro_batch "
                        "%lld x %d ranks = %lld rows",
                        (long long)o->train.global_batch, (long long)o->train.micro_batch,
                        j->size, (long long)rows);
    if (low_states(o) && strcmp(o->run.dtype, "bf16") != 0)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "optim.states bf16 needs run.dtype bf16; set it, or leave "
                        "optim.states at fp32");
    if (o->data.sequence > j->spec.max_positions)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "data.sequence %lld is longer than max_position_embeddings %lld of "
                        "the model",
                        (long long)o->data.sequence, (long long)j->spec.max_positions);
    return 0;
}

static int check_corpus(const struct slc_job *j, struct slc_err *e)
{
    int64_t vocab = slc_corpus_vocab(j->corpus);

    if (vocab > j->spec.V)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s has token ids below %lld, the model's vocabulary is only %lld; "
                        "build the corpus with the model's tokenizer",
                        j->o->data.corpus, (long long)vocab, (long long)j->spec.V);
    return 0;
}

static int open_data(struct slc_job *j, struct slc_err *e)
{
    const struct slc_options *o = j->o;

    j->corpus = slc_corpus_open(o->data.corpus, SLC_CORPUS_TRAIN, e);
    if (!j->corpus || check_corpus(j, e) < 0)
        return -1;
    j->sampler = slc_sampler_create(j->corpus, o->data.sequence, (uint64_t)o->data.seed,
                                    o->data.shuffle, e);
    if (!j->sampler)
        return -1;
    if (o->train.validate_every > 0) {
        j->held_out = slc_corpus_open(o->data.corpus, SLC_CORPUS_VALIDATION, e);
        if (!j->held_out)
            return slc_err_prefix(e, "train.validate_every needs a held-out part");
        j->validation = slc_sampler_create(j->held_out, o->data.sequence, 0, 0, e);
        if (!j->validation)
            return -1;
    }
    return slc_batch_init(&j->batch, o->train.micro_batch, o->data.sequence, e);
}

static int open_backend(struct slc_job *j, struct slc_err *e)
{
    struct slc_backend_options bo = {
        .threads = j->o->run.threads > 0 ? (int)j->o->run.threads
                                         : slc_world_threads(j->world),
        .local_rank = slc_world_local_rank(j->world),
        .attention_bytes = j->o->run.attention_mib << 20,
    };

    j->backend = slc_backend_open(j->o->run.device, &bo, e);
    if (!j->backend)
        return -1;
    j->queue = slc_queue_create(j->backend, e);
    return j->queue ? 0 : -1;
}

/* Everything this rank can find wrong by itself, before any collective memory exists. */
static int open_local(struct slc_job *j, struct slc_err *e)
{
    if (slc_spec_load(&j->spec, j->o->model.config, e) < 0)
        return -1;
    if (check_layout(j, e) < 0 || open_data(j, e) < 0)
        return -1;
    slc_start_mark("data");
    if (open_backend(j, e) < 0)
        return -1;
    slc_start_mark("backend");
    j->micro_batches = j->o->train.global_batch / (j->o->train.micro_batch * j->size);
    j->micro_tokens = calloc((size_t)j->micro_batches, sizeof(*j->micro_tokens));
    if (!j->micro_tokens)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the step's counters");
    return slc_mkdirs(j->o->run.dir, e);
}

static int create_groups(struct slc_job *j, struct slc_err *e)
{
    int ep = (int)j->o->parallel.ep, n = j->size / ep, first = j->rank / ep * ep;
    int *members = calloc((size_t)j->size, sizeof(*members));

    if (!members)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d group members", j->size);
    for (int i = 0; i < ep; i++)
        members[i] = first + i;
    if (ep > 1)
        j->experts = slc_group_create(j->world, members, ep, e);
    if (n > 1 && (ep == 1 || j->experts)) {
        for (int i = 0; i < n; i++)
            members[i] = j->rank % ep + i * ep;
        j->replicas = slc_group_create(j->world, members, n, e);
    }
    free(members);
    return (ep == 1 || j->experts) && (n == 1 || j->replicas) ? 0 : -1;
}

static int all_group(struct slc_job *j, struct slc_err *e)
{
    if (j->size == 1)
        return 0;
    int *members = calloc((size_t)j->size, sizeof(*members));
    if (!members)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d group members", j->size);
    for (int i = 0; i < j->size; i++)
        members[i] = i;
    j->all = slc_group_create(j->world, members, j->size, e);
    free(members);
    return j->all ? 0 : -1;
}

static enum slc_aux_scope aux_scope(const char *name)
{
    if (strcmp(name, "micro") == 0)
        return SLC_AUX_MICRO;
    return strcmp(name, "sequence") == 0 ? SLC_AUX_SEQUENCE : SLC_AUX_NONE;
}

static enum slc_schedule_kind schedule_kind(const char *name)
{
    static const char *const names[] = {"cosine", "linear", "constant", "wsd"};
    int i = 0;

    while (i < 3 && strcmp(name, names[i]) != 0)
        i++;
    return (enum slc_schedule_kind)i;
}

/* What run.dtype asks for; auto asks the devices of all ranks. */
static int choose_dtype(struct slc_job *j, enum slc_dtype *dtype, struct slc_err *e)
{
    const char *asked = j->o->run.dtype;
    int64_t without = !j->backend->bf16_fast;

    if (strcmp(asked, "auto") != 0) {
        *dtype = strcmp(asked, "bf16") == 0 ? SLC_BF16 : SLC_F32;
        return 0;
    }
    if (j->all && slc_allreduce_max(j->all, &without, e) < 0)
        return -1;
    *dtype = without ? SLC_F32 : SLC_BF16;
    return 0;
}

static int create_model(struct slc_job *j, struct slc_err *e)
{
    const struct slc_options *o = j->o;
    enum slc_dtype dtype;
    int ep = (int)o->parallel.ep;
    /* One micro-batch on one rank: its gradient is the gradient of the step. */
    bool one = low_states(o) && j->micro_batches == 1 && j->size == 1;

    if (choose_dtype(j, &dtype, e) < 0)
        return -1;
    int rc = slc_params_create(&j->params, &j->spec, ep, j->rank % ep, j->backend, dtype,
                               one ? SLC_GRADS_NARROW : SLC_GRADS_F32, e);

    if (slc_agree(j->all, rc, e) < 0)
        return -1;
    struct slc_model_options mo = {
        .queue = j->queue,
        .backend = j->backend,
        .experts = j->experts,
        .all = j->all,
        .rows = o->train.micro_batch,
        .S = o->data.sequence,
        .dtype = dtype,
        .training = true,
        .recompute = o->train.recompute,
        .aux_scope = aux_scope(o->moe.aux_scope),
        .aux_coef = o->moe.aux_coef < 0 ? j->spec.aux_coef : o->moe.aux_coef,
        .z_coef = o->moe.z_coef,
        .window_factor = o->moe.window_factor,
        .window_rows = o->moe.window_rows,
        .force_far = strcmp(o->moe.path, "far") == 0,
        .results = j->micro_batches,
        .timing = o->train.timing,
    };
    j->model = slc_model_create(&j->spec, &j->params, &mo, e);
    return slc_agree(j->all, j->model ? 0 : -1, e);
}

static int create_optim(struct slc_job *j, struct slc_err *e)
{
    const struct slc_options *o = j->o;
    struct slc_optim_options oo = {
        .beta1 = o->optim.beta1,
        .beta2 = o->optim.beta2,
        .eps = o->optim.eps,
        .weight_decay = o->optim.weight_decay,
        .clip = o->optim.clip,
        .dense = j->all,
        .expert = j->replicas,
        .low = low_states(o),
        .host = strcmp(o->parallel.collectives, "host") == 0,
        .seed = (uint64_t)o->model.seed,
    };

    j->schedule = (struct slc_schedule){
        .kind = schedule_kind(o->optim.schedule),
        .lr = o->optim.lr,
        .min_ratio = o->optim.min_lr_ratio,
        .warmup = o->optim.warmup,
        .total = o->train.steps,
        .decay = o->optim.decay,
    };
    j->optim = slc_optim_create(&j->params, &oo, e);
    return slc_agree(j->all, j->optim ? 0 : -1, e);
}

/* When to be gone, by train.max_time and by the job's own end where Slurm tells it; 0: never. */
static double end_time(const struct slc_options *o)
{
    const char *end = getenv("SLURM_JOB_END_TIME");
    double left = end ? strtod(end, NULL) - (double)time(NULL) : 0;

    if (o->train.max_time > 0 && (left <= 0 || o->train.max_time < left))
        left = o->train.max_time;
    return left > 0 ? slc_now() + left : 0;
}

int slc_job_create(struct slc_job *j, const struct slc_options *o, struct slc_world *w,
                   struct slc_err *e)
{
    memset(j, 0, sizeof(*j));
    j->o = o;
    j->world = w;
    j->rank = slc_world_rank(w);
    j->size = slc_world_size(w);
    j->max_time = end_time(o);
    slc_fail_set_phase("set-up");
    if (all_group(j, e) < 0)
        return -1;
    int rc = open_local(j, e);
    if (slc_agree(j->all, rc, e) < 0)
        return -1;
    slc_start_mark("agree");
    if (slc_run_lock(j->all, o->run.dir, e) < 0)
        return -1;
    j->locked = true;
    slc_start_mark("lock");
    slc_fail_set_folder(o->run.dir);
    if (create_groups(j, e) < 0)
        return -1;
    slc_start_mark("groups");
    if (create_model(j, e) < 0)
        return -1;
    slc_start_mark("model");
    if (create_optim(j, e) < 0)
        return -1;
    slc_start_mark("optimizer");
    return 0;
}

void slc_job_destroy(struct slc_job *j)
{
    if (j->locked)
        slc_run_unlock(j->all, j->o->run.dir);
    slc_optim_destroy(j->optim);
    slc_model_destroy(j->model);
    slc_params_destroy(&j->params);
    slc_group_destroy(j->replicas);
    slc_group_destroy(j->experts);
    slc_queue_destroy(j->queue);
    slc_backend_close(j->backend);
    slc_batch_release(&j->batch);
    free(j->micro_tokens);
    slc_sampler_destroy(j->validation);
    slc_corpus_close(j->held_out);
    slc_sampler_destroy(j->sampler);
    slc_corpus_close(j->corpus);
    slc_group_destroy(j->all);
    memset(j, 0, sizeof(*j));
}

static void print_region(const char *name, double bytes)
{
    printf("  %-28s %10.1f MiB\n", name, bytes / (1 << 20));
}

void slc_job_print_memory(const struct slc_job *j)
{
    const struct slc_arena *a = slc_model_memory(j->model);
    double w = (double)j->params.local * (double)slc_dtype_size(j->params.dtype);
    double g = (double)j->params.grad_bytes, s = (double)slc_optim_bytes(j->optim);

    printf("memory of rank 0:\n");
    print_region(j->params.dtype == SLC_BF16 ? "weights, bf16" : "weights, fp32", w);
    print_region(j->params.grad_bytes > j->params.grad_added ? "gradients, bf16 and fp32"
                                                             : "gradients, fp32",
                 g);
    print_region(slc_optim_dtype(j->optim) == SLC_BF16 ? "optimizer, bf16"
                                                       : "optimizer, fp32",
                 s);
    for (int i = 0; i < a->n_regions; i++)
        print_region(a->regions[i].name, (double)a->regions[i].bytes);
    print_region("total", w + g + s + (double)slc_arena_size(a));
    fflush(stdout);
}
