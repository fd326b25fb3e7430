/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_PROGRESS_H
#define SLC_TRAIN_PROGRESS_H

#include "train/metrics.h"

/* Rank 0's standard output: a bar with time left that is drawn over on a terminal, a plain
 * line every train.log_every steps otherwise. */
void slc_progress_step(struct slc_metrics *m, const struct slc_step_report *r,
                       double load_max_mean);
/* One whole line, below which the bar goes on. */
void slc_progress_line(struct slc_metrics *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
