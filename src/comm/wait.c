/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting. A rank that has a core to itself spins; one that shares it gives it away soon,
 * because the rank it waits for may need it. Whoever waits long sleeps, so that a wait
 * costs next to nothing and the kernel sees which cores are free.
 */
#include "comm/comm_private.h"

#include <time.h>

#include "base/fail.h"
#include "comm/bulk_private.h"

#define SPINS 2000 /* looks; some 100 ns each */
#define SPINS_SHARED 20
#define YIELDS 20000 /* looks before the first nap */
#define YIELDS_SHARED 1000
#define NAP_MIN 50e-6 /* seconds; the kernel adds as much */
#define NAP_MAX 1e-3
#define NAP_SHARE 16 /* a nap is at most this part of the wait: what it may lengthen it by */

int slc_world_progress(struct slc_world *w, struct slc_err *e)
{
    if (w->ctx && ucp_worker_progress(w->worker))
        w->moved++;
    if (w->n_busy && slc_windows_progress(w, e) < 0)
        return -1;
    if (w->bulks && slc_bulks_progress(w, e) < 0)
        return -1;
    return slc_fail_check(e);
}

static void nap(struct slc_wait *wait)
{
    const double now = slc_now();
    double length;

    if (wait->started == 0)
        wait->started = now;
    length = (now - wait->started) / NAP_SHARE;
    length = length < NAP_MIN ? NAP_MIN : length > NAP_MAX ? NAP_MAX : length;
    struct timespec t = {.tv_nsec = (long)(length * 1e9)};
    nanosleep(&t, NULL);
}

void slc_wait_idle(struct slc_wait *wait, bool shares_cores)
{
    if (++wait->spins < (shares_cores ? SPINS_SHARED : SPINS))
        __builtin_ia32_pause();
    else if (wait->spins < (shares_cores ? YIELDS_SHARED : YIELDS))
        sched_yield();
    else
        nap(wait);
}

int slc_wait_step(struct slc_world *w, struct slc_wait *wait, struct slc_err *e)
{
    const double start = slc_now();

    if (slc_world_progress(w, e) < 0)
        return -1;
    /* Data in motion needs us: that is work, not waiting. */
    if (wait->moved != w->moved)
        *wait = (struct slc_wait){.moved = w->moved};
    slc_wait_idle(wait, w->shares_cores);
    w->waited += slc_now() - start;
    return 0;
}
