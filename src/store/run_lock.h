/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_RUN_LOCK_H
#define SLC_STORE_RUN_LOCK_H

#include "base/err.h"

/*
 * RUN/run.lock names the incarnation that owns the run folder: {"job", "restart",
 * "host", "boot", "pid", "nonce"}. It is alive while it holds flock on the file (same
 * node) or touches the file every SLC_RUN_LOCK_BEAT seconds (any node). One lock per
 * process.
 *
 *   taken over at once    flock is free and the owner was on this node; or the owner is
 * an earlier start of the same Slurm job (requeue), dead or not taken over by waiting
 * the owner was on another node and has not touched the file for three beats of
 * watching refused               otherwise, SLC_EXIT_BUSY
 *
 * Who lost the folder finds out at its next save: it reads another nonce and must not
 * commit.
 */
#define SLC_RUN_LOCK_BEAT 5

/* The calls of slc_run_lock / slc_run_unlock on the one rank that does the work. */
int slc_run_lock_take(const char *run_dir, struct slc_err *e);
void slc_run_lock_drop(const char *run_dir);
/* 0 when this process still owns run_dir; else an error that names the owner. */
int slc_run_lock_check(const char *run_dir, struct slc_err *e);
/* 16 hexadecimal digits, different for every incarnation; "" when nothing is held. */
const char *slc_run_lock_nonce(void);

#endif
