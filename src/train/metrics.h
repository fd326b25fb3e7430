/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_METRICS_H
#define SLC_TRAIN_METRICS_H

#include <stdio.h>

#include "train/step.h"

/*
 * RUN/metrics.jsonl: one JSON object a step, appended by rank 0; and the progress line
 * (a bar with time left on a terminal, plain lines otherwise). Keys: step, tokens, loss,
 * aux_loss, z_loss, lr, grad_norm, skipped, tokens_per_s, step_s, at (Unix time),
 * time {phase: s} of rank 0, see phases.h, parts {part of the model: s},
 * load_max_mean [per MoE layer], load [layer][expert], rounds, near_bytes, far_bytes,
 * collective_bytes, dropped; a validation adds an object {step, val_loss, val_targets,
 * val_s}, a checkpoint {step, checkpoint_s, checkpoint_bytes}, the first step of a start {step,
 * start_s, start_from (srun, or process where srun's time is not known), start_cpu_s (of all
 * ranks), start {phase: s}}: a phase lasts from when the last rank ended the one before
 * until the last rank ended it, so that they add up to start_s.
 */
struct slc_metrics {
    struct slc_job *j;
    FILE *file;           /* rank 0 only */
    int layers;           /* MoE layers */
    int64_t *load;        /* [layers][E], this step, all ranks */
    int64_t *seen;        /* [layers][E], this rank's running totals before the step */
    struct slc_traffic traffic;
    struct slc_start_card *start; /* [ranks], until the first step is done */
    unsigned long long totals[4]; /* rounds, near, far, dropped summed over ranks */
    struct slc_phases time;       /* of all steps so far, and what lay between them */
    double started, shown;
    int64_t first_step, first_tokens;
    /* of the end-of-run table */
    double first_loss, last_loss, last_val_loss;
    double exchange_bytes, train_s;
    double save_bytes, save_s;
    int64_t steps;
};

/* Opens the file; on a resume drops the lines of steps after `resumed` (rank 0). */
int slc_metrics_open(struct slc_metrics *m, struct slc_job *j, int64_t resumed,
                     struct slc_err *e);
void slc_metrics_close(struct slc_metrics *m);

/* After each step; collective (the load is summed over ranks). */
int slc_metrics_step(struct slc_metrics *m, const struct slc_step_report *r,
                     struct slc_err *e);
/* Parts of slc_metrics_open and slc_metrics_step (start.c). The second is collective and
 * does something only the first time; it says in one line where the time of the start went. */
int slc_metrics_start_open(struct slc_metrics *m, struct slc_err *e);
int slc_metrics_start(struct slc_metrics *m, struct slc_err *e);
void slc_metrics_validation(struct slc_metrics *m, double loss, int64_t targets,
                            double seconds);
void slc_metrics_checkpoint(struct slc_metrics *m, const struct slc_ckpt_report *r);
/* The table at the end of a run, rank 0's standard output. */
void slc_metrics_summary(const struct slc_metrics *m);

#endif
