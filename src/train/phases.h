/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_PHASES_H
#define SLC_TRAIN_PHASES_H

#include <stdio.h>

/*
 * Where the wall time of this rank goes. The phases up to SLC_PHASE_AGREE are those of a
 * step and add up to it; the others happen between steps.
 */
enum slc_phase {
    SLC_PHASE_INPUT,    /* count targets, fill batches */
    SLC_PHASE_FORWARD,  /* computing; without the exchange */
    SLC_PHASE_BACKWARD, /* the same */
    SLC_PHASE_EXCHANGE, /* tokens between ranks: pack, put, sum what came */
    SLC_PHASE_WAIT,     /* for rows of peers that are not there yet; on shared cores this
                           is time in which those peers compute */
    SLC_PHASE_REDUCE,   /* sum gradients over ranks: what backward did not hide */
    SLC_PHASE_OPTIMIZER, /* norm and update */
    SLC_PHASE_GATHER,   /* new weights to all ranks */
    SLC_PHASE_AGREE,    /* loss and counts over ranks */
    SLC_PHASE_VALIDATE,
    SLC_PHASE_SAVE,
    SLC_PHASE_METRICS,  /* metrics.jsonl and the progress line */
    SLC_PHASES
};
#define SLC_PHASES_OF_STEP SLC_PHASE_VALIDATE

extern const char *const slc_phase_names[SLC_PHASES];

struct slc_phases {
    double s[SLC_PHASES]; /* seconds */
};

void slc_phases_add(struct slc_phases *to, const struct slc_phases *p);
/* {"input": 0.000120, ...}: the phases of a step. */
void slc_phases_write(FILE *f, const struct slc_phases *p);
/* A table: seconds, share of `total` seconds, and what is left as "other". */
void slc_phases_print(FILE *f, const struct slc_phases *p, double total);

#endif
