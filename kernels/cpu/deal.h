/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_DEAL_H
#define SLC_KERNELS_CPU_DEAL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Tasks of unequal length go to whichever thread is free: every thread walks the same
 * list of tasks and does those it draws. Which thread does a task changes no bits.
 *
 *     int64_t next = 0;                   before the parallel region
 *     struct slc_deal d = slc_deal_begin(&next);        in each thread
 *     for (every task)
 *         if (slc_deal_mine(&d)) ...
 */
struct slc_deal {
    int64_t *next;
    int64_t at, mine;
};

static inline int64_t slc_deal_draw(int64_t *next)
{
    return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
}

static inline struct slc_deal slc_deal_begin(int64_t *next)
{
    return (struct slc_deal){next, 0, slc_deal_draw(next)};
}

static inline bool slc_deal_mine(struct slc_deal *d)
{
    if (d->at++ != d->mine)
        return false;
    d->mine = slc_deal_draw(d->next);
    return true;
}

#endif
