/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_AGREE_H
#define SLC_TRAIN_AGREE_H

#include "base/err.h"
#include "comm/group.h"

/*
 * Agree on the outcome of a local phase: every member passes its own result (rc 0 or
 * -1 with e filled). If any failed, all return -1 with the error of the lowest failing
 * member in e (e->rank is its world rank), so that all leave alike and one speaks.
 * g NULL: alone, returns rc.
 */
int slc_agree(struct slc_group *g, int rc, struct slc_err *e);

#endif
