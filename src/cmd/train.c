/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/file.h"
#include "base/log.h"
#include "base/start.h"
#include "cmd/cmd.h"
#include "comm/world.h"
#include "config/options.h"
#include "train/loop.h"

static const char usage[] = "sluice train RUN.yaml [section.key=value ...] [--check]";

/* The banner: what runs where, and the resolved run file, on rank 0. */
static void print_start(const struct slc_job *j, const char *paths)
{
    char versions[256], backend[256];
    int threads, cores;

    slc_job_versions(j, versions, sizeof(versions));
    slc_backend_describe(j->backend, backend, sizeof(backend));
    printf("%s\n", versions);
    printf("ranks: %d on %d nodes, ep %lld; %s\n", j->size, slc_world_nodes(j->world),
           (long long)j->o->parallel.ep, slc_world_transports(j->world));
    if (*paths)
        printf("exchange: %s%s\n", paths,
               strcmp(j->o->moe.path, "far") == 0 ? "; moe.path=far: all staged" : "");
    slc_world_cores(j->world, &threads, &cores);
    if (threads > cores)
        printf("cores: %d threads of the ranks on %s share %d cores\n", threads,
               slc_world_host(j->world, 0), cores);
    printf("backend: %s, %s\n", j->backend->name, backend);
    if (j->params.dtype == SLC_BF16)
        printf("dtype: bf16 weights, activations and exchanged rows; %s\n",
               slc_optim_dtype(j->optim) == SLC_F32
                   ? "fp32 master weights, moments and gradients"
                   : "bf16 moments, no master weights");
    else if (strcmp(j->o->run.dtype, "auto") == 0)
        printf("dtype: fp32; run.dtype is auto and not every rank's device has instructions "
               "for bf16\n");
    printf("model: %s, %.2f M parameters, %lld layers, %lld experts, top-%lld\n",
           j->spec.family->architecture, (double)j->params.total / 1e6,
           (long long)j->spec.L, (long long)j->spec.E, (long long)j->spec.K);
    fflush(stdout);
}

/* run.yaml and versions in the run folder, as resolved, by rank 0. */
static int store_run(const struct slc_job *j, struct slc_err *e)
{
    char path[4096], versions[256];
    char *text = slc_options_text(j->o);

    if (!text)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the run file");
    snprintf(path, sizeof(path), "%s/run.yaml", j->o->run.dir);
    int rc = slc_file_replace(path, text, strlen(text), e);
    free(text);
    if (rc < 0)
        return -1;
    slc_job_versions(j, versions, sizeof(versions) - 1);
    strcat(versions, "\n");
    snprintf(path, sizeof(path), "%s/versions.txt", j->o->run.dir);
    return slc_file_replace(path, versions, strlen(versions), e);
}

static int run(struct slc_job *j, const struct slc_options *o, struct slc_world *w,
               bool check, struct slc_err *e)
{
    int64_t resumed;
    char paths[256];

    if (slc_job_create(j, o, w, e) < 0)
        return -1;
    if (slc_world_paths(w, paths, sizeof(paths), NULL, e) < 0)
        return -1;
    if (j->rank == 0) {
        print_start(j, paths);
        slc_job_print_memory(j);
    }
    if (check)
        return SLC_EXIT_OK;
    if (j->rank == 0 && store_run(j, e) < 0)
        return -1;
    if (slc_job_load(j, &resumed, e) < 0)
        return -1;
    slc_start_mark("weights");
    if (j->rank == 0 && j->step >= o->train.steps)
        printf("nothing to do: step %lld of %lld is already there\n", (long long)j->step,
               (long long)o->train.steps);
    return slc_loop_run(j, resumed, e);
}

/* Tell all ranks, and whoever reads the log or reason.json; returns the code to leave with.
 * An error all ranks agreed on has its owner's rank; another is this rank's own. */
static int leave_failed(struct slc_world *w, const struct slc_err *e)
{
    const char *me = getenv("PMIX_RANK"); /* before there is a world */
    int own = w ? slc_world_rank(w) : me ? atoi(me) : 0;
    int owner = e->rank >= 0 ? e->rank : own;
    struct slc_err we = SLC_ERR_INIT;

    slc_fail_raise(e->code, owner, w ? slc_world_host(w, owner) : "", slc_fail_phase(),
                   e->text);
    slc_fail_print();
    if (slc_fail_write_reason(&we) < 0)
        slc_warn("train", "%s", we.text);
    return slc_fail_get()->code;
}

int slc_cmd_train(int argc, char **argv)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_options o = {0};
    struct slc_job job = {0};
    bool check = false;
    int n;
    const struct slc_flag flags[] = {
        {"--check", NULL, "parse, plan and print the memory table; no training", NULL, &check},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 1, &n, &e);
    if (rc == 1) {
        printf("\nKeys of the run file (also as section.key=value after it):\n\n");
        slc_options_help(stdout);
        return SLC_EXIT_OK;
    }
    if (rc == 0 && n < 1)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "no run file; usage: %s", usage);
    if (rc == 0)
        rc = slc_options_load(&o, argv[1], argv + 2, n - 1, &e);
    slc_start_mark("run file");

    /* A bad run file is told through the world, so that all ranks refuse alike. */
    struct slc_world_options wo = {
        .allow_tcp = o.parallel.allow_tcp,
        .force_far = o.moe.path && strcmp(o.moe.path, "far") == 0,
        .early = rc < 0 ? &e : NULL,
    };
    struct slc_err we = SLC_ERR_INIT;
    struct slc_world *w = slc_world_create(&wo, &we);
    if (!w) {
        rc = leave_failed(NULL, &we);
        slc_options_release(&o);
        return rc;
    }
    slc_log_init(slc_world_rank(w), slc_world_size(w));
    rc = run(&job, &o, w, check, &e);
    if (rc < 0)
        rc = leave_failed(w, &e);
    slc_job_destroy(&job);
    slc_world_destroy(w);
    slc_options_release(&o);
    return rc;
}
