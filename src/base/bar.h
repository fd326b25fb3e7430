/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_BAR_H
#define SLC_BASE_BAR_H

#include <stdbool.h>

/*
 * How far a long piece of work is, on stderr: a bar with the time left on a terminal,
 * else a log line every SLC_BAR_LINE_S seconds. Embedded; allocates nothing.
 */
#define SLC_BAR_LINE_S 10.0

struct slc_bar {
    const char *what; /* static storage: "data", "export" */
    const char *unit; /* "MB", "steps" */
    double total;     /* in units */
    double first;     /* done before this start (resumed work) */
    double started, shown;
    bool terminal;
};

void slc_bar_start(struct slc_bar *p, const char *what, const char *unit,
                        double total, double done);
/* Cheap; shows at most ten times a second. note (may be NULL) stands at the end. */
void slc_bar_update(struct slc_bar *p, double done, const char *note);
/* Clear the bar, so that the next line starts clean. */
void slc_bar_finish(struct slc_bar *p);

#endif
