/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_CLOCK_H
#define SLC_BASE_CLOCK_H

#include <time.h>

/* Seconds on the monotonic clock: never jumps, comparable within one node only. */
static inline double slc_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
