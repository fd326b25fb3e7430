/* SPDX-License-Identifier: Apache-2.0 */
#include "train/agree.h"

#include <string.h>

int slc_agree(struct slc_group *g, int rc, struct slc_err *e)
{
    struct slc_err comm = SLC_ERR_INIT;
    int64_t vote;

    if (!g)
        return rc;
    /* The maximum of size - index over the failed is the lowest failed member. */
    int size = slc_group_size(g), me = slc_group_index(g);
    vote = rc < 0 ? size - me : 0;
    if (slc_allreduce_max(g, &vote, &comm) < 0) {
        if (rc == 0)
            *e = comm;
        return -1;
    }
    if (vote == 0)
        return 0;
    int who = size - (int)vote;
    struct {
        int code;
        char text[sizeof(e->text)];
    } blob = {0};
    if (who == me) {
        blob.code = e->code;
        memcpy(blob.text, e->text, sizeof(blob.text));
    }
    if (slc_broadcast(g, &blob, sizeof(blob), who, &comm) < 0) {
        if (rc == 0)
            *e = comm;
        return -1;
    }
    if (who != me)
        slc_errf(e, blob.code, "%s", blob.text);
    e->rank = slc_group_member(g, who);
    return -1;
}
