/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_FAIL_H
#define SLC_BASE_FAIL_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Who failed first, and how everybody leaves. One state per process, safe from
 * any thread: the first cause wins. The heartbeat thread spreads it to all ranks;
 * waits poll slc_fail_check and return -1; the command then leaves in order with
 * slc_fail's code. A rank that cannot leave within SLC_FAIL_GRACE seconds of the
 * cause being known here is ended by slc_die from the heartbeat thread.
 */
#define SLC_FAIL_GRACE 2.0

struct slc_fail {
    int code;          /* enum slc_exit all ranks leave with */
    int rank;          /* whose failure it is */
    char host[64];     /* node name of that rank */
    char phase[32];    /* what it was doing: "exchange", "save", ... */
    char cause[384];   /* one line */
};

/* Who this process is; world creation calls it. Before it: rank 0 on the hostname. */
void slc_fail_set_self(int rank, const char *host);

/* The world stands: rank 0 removes the reason.json of an earlier run. World creation
 * calls it; the order with slc_fail_set_folder does not matter. */
void slc_fail_started(void);

/* Where reason.json goes (rank 0 or the lowest surviving rank writes it); NULL: nowhere.
 * Called once the run folder is known. */
void slc_fail_set_folder(const char *run_dir);

/* What this rank is doing now, for messages: static storage ("step", "save"...). */
void slc_fail_set_phase(const char *phase);
const char *slc_fail_phase(void);

/* Record a failure of `rank` on `host`; later calls change nothing. Returns true
 * if this call was the first (the caller then spreads it). Async-signal unsafe. */
bool slc_fail_raise(int code, int rank, const char *host, const char *phase,
                    const char *cause);

/* True when a failure is known. Cheap: one relaxed atomic load. */
bool slc_fail_known(void);
/* The failure, or NULL. Valid until exit. */
const struct slc_fail *slc_fail_get(void);
/* -1 with `e` filled from the known failure, else 0. */
int slc_fail_check(struct slc_err *e);

/*
 * True on the one rank that prints the line of the known failure: the failed rank if
 * it speaks for itself, else (SLC_EXIT_PEER) the lowest other rank.
 */
bool slc_fail_reporter(void);
/*
 * Print that line, once, if this rank is the reporter. A command that ends with an
 * error of its own calls slc_fail_raise, slc_fail_print, slc_fail_write_reason and
 * slc_world_destroy, in this order; so there is one line a job, not one a rank.
 */
void slc_fail_print(void);

/* Write RUN/reason.json now: {"code", "rank", "host", "phase", "cause", "time"},
 * by atomic replace; the first writer wins (one written since slc_fail_set_folder is kept). */
int slc_fail_write_reason(struct slc_err *e);

/* Leave at once, without destructors: print one line, write reason.json if nobody has. */
void slc_die(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
