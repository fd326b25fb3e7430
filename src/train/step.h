/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_STEP_H
#define SLC_TRAIN_STEP_H

#include "train/job.h"
#include "train/phases.h"

/* What one optimizer step did, equal on all ranks except seconds and bytes. */
struct slc_step_report {
    double loss;        /* nats a target, over all ranks */
    double aux, z;      /* weighted auxiliary terms of L */
    double lr, grad_norm;
    int64_t targets, tokens;
    bool skipped;       /* loss or gradient not finite: nothing changed */
    bool stop;          /* some rank was asked to stop */
    double seconds;
    struct slc_phases time;             /* those of a step; they add up to seconds */
    struct slc_model_counters counters; /* of the model, this rank and step */
    uint64_t fetches, allocations; /* by this rank from its backend */
};

/* Optimizer steps this process has finished: for whoever watches it from outside (a debugger,
 * tests/train/count_malloc.c). */
extern volatile int64_t slc_steps_finished;

/*
 * One optimizer step of global_batch rows: micro-batch m of the step is the rows
 * [m*B, (m+1)*B) of it, B = micro_batch * ranks, rank r taking micro_batch of them
 * in order; so the same rows form a micro-batch however ranks are laid out.
 * want_stop: this rank was asked to stop; shared with the loss at no extra cost.
 */
int slc_step_run(struct slc_job *j, bool want_stop, struct slc_step_report *r,
                 struct slc_err *e);

/* Mean loss over `rows` held-out rows (0: all of them), every rank alike. */
int slc_validate_run(struct slc_job *j, int64_t rows, double *loss, int64_t *targets,
                     struct slc_err *e);

#endif
