/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_JOB_H
#define SLC_TRAIN_JOB_H

#include "backend/backend.h"
#include "comm/group.h"
#include "config/options.h"
#include "data/sampler.h"
#include "model/model.h"
#include "optim/optim.h"
#include "store/checkpoint.h"

/*
 * Everything one rank of a training job holds, made in order by slc_job_create and
 * taken down in reverse. In a world of one the groups are NULL.
 */
struct slc_job {
    const struct slc_options *o;
    struct slc_world *world;
    int rank, size;
    struct slc_group *all;      /* all ranks */
    struct slc_group *experts;  /* ranks that share one copy of the experts */
    struct slc_group *replicas; /* ranks with the same experts as this one */
    struct slc_backend *backend;
    struct slc_queue *queue;
    struct slc_spec spec;
    struct slc_params params;
    struct slc_model *model;
    struct slc_optim *optim;
    struct slc_schedule schedule;
    struct slc_corpus *corpus, *held_out; /* held_out NULL: no validation part */
    struct slc_sampler *sampler, *validation;
    struct slc_batch batch;
    int64_t micro_batches;      /* per rank and optimizer step */
    double *micro_tokens;       /* [micro_batches] scratch of a step */
    double max_time;            /* slc_now() to be gone by; 0: none */
    bool locked;                /* this job holds the run folder */
    /* progress, saved in checkpoints */
    int64_t step;               /* optimizer steps finished */
    int64_t samples;            /* packed rows consumed */
    int64_t tokens;             /* tokens trained on */
    int64_t skipped;            /* steps skipped because not finite */
    double best_validation;
};

/* Set up all but the weights. Collective. The world is made by the caller and stays its own. */
int slc_job_create(struct slc_job *j, const struct slc_options *o, struct slc_world *w,
                   struct slc_err *e);
void slc_job_destroy(struct slc_job *j);

/* Weights: the newest checkpoint of the run folder, else checkpoint.from, else model.weights,
 * else random. Sets *resumed to the step of the run folder's checkpoint, -1 without one. */
int slc_job_load(struct slc_job *j, int64_t *resumed, struct slc_err *e);

/* Save a checkpoint of the state as it stands. Collective. */
int slc_job_save(struct slc_job *j, struct slc_ckpt_report *r, struct slc_err *e);

/* The memory table and the start banner, on rank 0's standard output. */
void slc_job_print_memory(const struct slc_job *j);
/* "sluice 0.1.0; UCX 1.13; ..." one line. */
void slc_job_versions(const struct slc_job *j, char *text, size_t len);

#endif
