/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_BENCH_LIMIT_H
#define SLC_CMD_BENCH_LIMIT_H

#include "comm/group.h"
#include "moe/shape.h"

/*
 * What limits the token exchange: the passes over memory that it needs, at the rate of
 * memcpy. Two kinds of passes, because cores copy what is theirs several times as fast as
 * what another core had last:
 *
 *   own       over rows that the same rank wrote or reads next
 *   between   writing records and results into a peer's window, and reading what a peer
 *             wrote there
 */
struct slc_bench_passes {
    double own, between; /* bytes read and written, over two: what memcpy would copy */
};

/* Bytes of memory that an iteration goes through, of the rank that has most; plan [R][R+E]
 * as in struct slc_moe_saved. */
size_t slc_bench_memory(const struct slc_moe_shape *n, const int32_t *plan);

/*
 * Bytes a second and rank of memcpy on all ranks at once, medians of n, between blocks
 * that together are `bytes`. own: both written by the rank itself. between: in turn from
 * an own block into a peer's window that the peer has just read, and out of the own window
 * that a peer has just written; the same as own where no window is mapped. t [n] scratch.
 */
int slc_bench_copy_rates(struct slc_group *g, size_t bytes, int n, double *t,
                         struct slc_bench_passes *rate, struct slc_err *e);

/* Seconds that the passes of the rank with most take: there, back, both; plan and rounds as
 * in struct slc_moe_saved. */
void slc_bench_limit(const struct slc_moe_shape *n, const int32_t *plan, int rounds,
                     const struct slc_bench_passes *rate, double seconds[3]);

#endif
