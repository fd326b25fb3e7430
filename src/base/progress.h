/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_PROGRESS_H
#define SLC_BASE_PROGRESS_H

#include <stdbool.h>

/*
 * How far a long piece of work is, on stderr: a bar with the time left on a terminal,
 * else a log line every SLC_PROGRESS_LINE_S seconds. Embedded; allocates nothing.
 */
#define SLC_PROGRESS_LINE_S 10.0

struct slc_progress {
    const char *what; /* static storage: "data", "export" */
    const char *unit; /* "MB", "steps" */
    double total;     /* in units */
    double first;     /* done before this start (resumed work) */
    double started, shown;
    bool terminal;
};

void slc_progress_start(struct slc_progress *p, const char *what, const char *unit,
                        double total, double done);
/* Cheap; shows at most ten times a second. note (may be NULL) stands at the end. */
void slc_progress_update(struct slc_progress *p, double done, const char *note);
/* Clear the bar, so that the next line starts clean. */
void slc_progress_finish(struct slc_progress *p);

#endif
