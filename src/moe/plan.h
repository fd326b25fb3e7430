/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_PLAN_H
#define SLC_MOE_PLAN_H

#include <stdint.h>

#include "base/arena.h"

/*
 * Who writes which records at which row of whose window: a pure host function of the
 * count matrix, so that every member computes the same plan and nobody is asked.
 *
 * Source s has counts[s][d] records for destination d, numbered 0.. by s. The records
 * of a destination are numbered globally by (source, source's number); round j moves
 * the global numbers [j*cap, (j+1)*cap), record g to row g - j*cap of the window.
 * What comes back goes to the source's combine window, which holds all its records in
 * order of (expert rank, source's number): it needs no rounds.
 */
struct slc_plan {
    int R, me, rounds; /* rounds: over all destinations, at least 1 */
    int64_t cap;
    int32_t *total;     /* [R] records destination d gets in all */
    int32_t *sent;      /* [R] records this rank has for destination d */
    int32_t *to_base;   /* [R] global number at d of this rank's first record */
    int32_t *from_base; /* [R+1] global number here of source s's first record */
    int32_t *home;      /* [R+1] first row of what d returns in my combine window */
    int32_t *away;      /* [R] first row of what I return in s's combine window */
};

/* The records of one (source, destination, round). */
struct slc_span {
    int32_t first; /* number of the first one by its source's own numbering */
    int32_t count; /* 0: none */
    int32_t row;   /* its row in the destination's window */
};

void slc_plan_carve(struct slc_plan *p, int R, struct slc_arena *host);

/* counts [R] rows of ld int32, the first R of each are records to each destination. */
void slc_plan_make(struct slc_plan *p, const int32_t *counts, int64_t ld, int me,
                   int64_t cap);

/* What this rank sends to d in a round / what this rank gets from s in a round. */
struct slc_span slc_plan_to(const struct slc_plan *p, int d, int round);
struct slc_span slc_plan_from(const struct slc_plan *p, int s, int round);
/* Rows in use of this rank's window in a round. */
int32_t slc_plan_rows(const struct slc_plan *p, int round);

#endif
