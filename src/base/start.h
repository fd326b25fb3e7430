/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_START_H
#define SLC_BASE_START_H

/*
 * Where the time from srun to the first step goes. Each phase of starting marks its end;
 * all ranks pass the same phases in the same order. Main thread only. A process that
 * never calls slc_start_begin records nothing.
 */
#define SLC_START_PHASES 20

struct slc_start {
    double from;                        /* Unix time of srun, or of this process's start */
    int from_srun;                      /* `from` is srun's: SLUICE_SRUN_AT was set */
    int n;
    const char *name[SLC_START_PHASES]; /* static storage */
    double at[SLC_START_PHASES];        /* Unix time of the phase's end */
};

/*
 * First thing in main: ends the phases "launch" (until the kernel made this process) and
 * "load" (until main). SLUICE_SRUN_AT in the environment is the Unix time at which srun
 * was called, with a fraction (slurm/sluice-job sets it).
 */
void slc_start_begin(void);
/* The phase of that name ends now. Nothing after slc_start_end. */
void slc_start_mark(const char *phase);
void slc_start_end(void);
const struct slc_start *slc_start_get(void);

#endif
