/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_OP_METER_H
#define SLC_CMD_OP_METER_H

#include "backend/backend.h"

/*
 * Time, arithmetic and memory traffic of each op: the table of a backend is replaced by
 * one that measures and passes on. The queue is drained before and after every op, so
 * that what is measured is the op and nothing else. One backend at a time.
 *
 * Traffic counts each operand once, as if it came from memory and went back there.
 */
struct slc_op_cost {
    double seconds, flop, bytes;
    long long calls;
};

/* Put the measuring table in place; what is counted starts at zero. */
void slc_op_meter_start(struct slc_backend *b);
/* Put the backend's own table back. The counts stay readable. */
void slc_op_meter_stop(void);
const struct slc_op_cost *slc_op_meter_cost(enum slc_op op);
const char *slc_op_name(enum slc_op op);

#endif
