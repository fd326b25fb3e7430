/* SPDX-License-Identifier: Apache-2.0 */
#include "store/agree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int slc_agree_index(struct slc_group *g)
{
    return g ? slc_group_index(g) : 0;
}

int slc_agree_size(struct slc_group *g)
{
    return g ? slc_group_size(g) : 1;
}

int slc_agree(struct slc_group *g, int rc, struct slc_err *e)
{
    int size = slc_agree_size(g), me = slc_agree_index(g);
    struct slc_err own = SLC_ERR_INIT, comm = SLC_ERR_INIT;
    /* the largest is of the lowest member that failed */
    int64_t vote = rc < 0 ? size - me : 0;

    if (size == 1)
        return rc;
    if (rc < 0 && e)
        own = *e;
    if (slc_allreduce_max(g, &vote, &comm) < 0)
        goto err_comm;
    if (vote == 0)
        return 0;
    int who = size - (int)vote;
    if (slc_broadcast(g, &own, sizeof(own), who, &comm) < 0)
        goto err_comm;
    if (who != me)
        slc_errf(e, own.code, "%s", own.text);
    if (e)
        e->rank = own.rank >= 0 ? own.rank : slc_group_member(g, who);
    return -1;

err_comm:
    if (rc == 0 && e)
        *e = comm; /* an error of our own says more */
    return -1;
}

int slc_agree_share(struct slc_group *g, char **data, size_t *len, struct slc_err *e)
{
    uint64_t n = *len;
    int rc = 0;

    if (slc_agree_size(g) == 1)
        return 0;
    if (slc_broadcast(g, &n, sizeof(n), 0, e) < 0)
        return -1;
    if (slc_agree_index(g) != 0) {
        *data = malloc(n + 1);
        *len = n;
        if (*data)
            (*data)[n] = '\0';
        else
            rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %llu bytes of an index",
                          (unsigned long long)n);
    }
    if (slc_agree(g, rc, e) < 0)
        goto err_free;
    if (slc_broadcast(g, *data, n, 0, e) < 0)
        goto err_free;
    return 0;

err_free:
    if (slc_agree_index(g) != 0) {
        free(*data);
        *data = NULL;
    }
    return -1;
}
