/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_SHAPE_H
#define SLC_MOE_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"

/*
 * The sizes every file of this folder works with, derived once from the options of a
 * slc_moe. The same on all members of an expert group except me, first and El.
 */
struct slc_moe_shape {
    int64_t T, H, E, K, F;
    int R, me;         /* members of the expert group, this rank's place; 1, 0 alone */
    int64_t first, El; /* this rank owns the experts [first, first + El) */
    int64_t El_max;    /* the largest El of the group */
    int64_t M;         /* expert ids in a record: min(K, El_max) */
    int64_t S;         /* records a token can become: min(K, R) */
    int64_t cap;       /* records of one round on one rank (rows of a window) */
    int64_t align;     /* row_align of the backend */
    int64_t rows_cap;  /* expert-major rows of one round: cap * M and padding */
    enum slc_dtype dtype;
    size_t row_bytes; /* H elements */
    size_t stride;    /* bytes from row to row of a window, a multiple of 64 */
    size_t meta_x;    /* bytes that go along with a token row: M ids, M weights */
    size_t meta_s;    /* bytes that come back with a gradient row: M scalars */
};

struct slc_moe_options;

/* Expert e lives on member floor(e R / E): member r owns [first(r), first(r + 1)). */
static inline int64_t slc_expert_first(int64_t E, int R, int r)
{
    return (r * E + R - 1) / R;
}

/* Probability that K different experts drawn uniformly from E touch a rank with El. */
double slc_expert_hit(int64_t E, int64_t El, int64_t K);

/* Checks and derives everything; e says what is wrong with the options. */
int slc_moe_shape_init(struct slc_moe_shape *s, const struct slc_moe_options *o,
                       struct slc_err *e);

#endif
