/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_LOOP_H
#define SLC_TRAIN_LOOP_H

#include "train/job.h"

/*
 * Train from where the job stands to train.steps: steps, validation, checkpoints, metrics,
 * and leaving early when asked to (signal, time limit). Returns the exit code all ranks
 * share (SLC_EXIT_OK, SLC_EXIT_AGAIN, SLC_EXIT_NUMERIC), or -1 with e filled.
 */
int slc_loop_run(struct slc_job *j, int64_t resumed, struct slc_err *e);

#endif
