/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_AGREE_H
#define SLC_STORE_AGREE_H

#include <stddef.h>

#include "comm/group.h"

/*
 * Collective steps with one outcome. A group of one and NULL are the same: alone.
 */

/* My place in the group, and its size; 0 of 1 for NULL. */
int slc_agree_index(struct slc_group *g);
int slc_agree_size(struct slc_group *g);

/* Every member brings its own outcome (0 or -1 with e filled). 0 if all succeeded, else
 * -1 on all members with the error of the first that failed. */
int slc_agree(struct slc_group *g, int rc, struct slc_err *e);

/* Member 0's *data [*len], malloc'ed (a 0 byte after it), becomes everybody's. On
 * member 0 it stays; on others *data is made and the caller frees it. */
int slc_agree_share(struct slc_group *g, char **data, size_t *len, struct slc_err *e);

#endif
