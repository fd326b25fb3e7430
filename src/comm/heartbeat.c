/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm_private.h"

#include <string.h>

#include "base/fail.h"

int slc_heart_open(struct slc_world *w, void **address, size_t *len, struct slc_err *e)
{
    (void)w;
    (void)e;
    *address = NULL;
    *len = 0;
    return 0;
}

int slc_heart_start(struct slc_world *w, struct slc_err *e)
{
    (void)w;
    (void)e;
    return 0;
}

void slc_heart_suspect(struct slc_world *w, int rank, const char *what)
{
    if (rank >= 0 && !atomic_load(&w->closing))
        slc_fail_raise(SLC_EXIT_PEER, rank, slc_world_host(w, rank), "unknown", what);
}

void slc_heart_stop(struct slc_world *w)
{
    (void)w;
}
