/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_EXIT_H
#define SLC_BASE_EXIT_H

/*
 * Exit codes of every sluice command: the one list that scripts, the man page
 * and tests share (tests/lint compares them). Hard failures are numbered above
 * the requeue code, because srun returns the highest code of its tasks: a
 * broken job must not look like one that wants to be resubmitted.
 */
enum slc_exit {
    SLC_EXIT_OK = 0,           /* done */
    SLC_EXIT_AGAIN = 75,       /* checkpointed before the end: submit again */
    SLC_EXIT_HOLD = 76,        /* stopped, a person must look before it goes on */
    SLC_EXIT_CONFIG = 78,      /* command line, run file or environment is wrong */
    SLC_EXIT_INPUT = 79,       /* an input file is missing, damaged or does not fit */
    SLC_EXIT_CHECKPOINT = 80,  /* no checkpoint could be proven, saved or loaded */
    SLC_EXIT_PEER = 81,        /* another rank died, hung or refused */
    SLC_EXIT_SYSTEM = 82,      /* memory, disk, permission, network of this node */
    SLC_EXIT_NUMERIC = 83,     /* too many steps with a loss or gradient not finite */
    SLC_EXIT_UNSUPPORTED = 84, /* asked for something Sluice does not do */
    SLC_EXIT_BUSY = 85,        /* the run folder is in use by a live job */
    SLC_EXIT_DIFFERS = 86,     /* a verification or comparison found a difference */
    SLC_EXIT_BUG = 99,         /* an invariant of Sluice is broken; please report */
};

#endif
