/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_PLAN_H
#define SLC_STORE_PLAN_H

#include "store/checkpoint.h"

/*
 * Who writes what: the extents of all ranks, the same on every rank. Two ranks never
 * write the same 4 KiB page: the page belongs to the rank that has its first byte, and
 * the others send their fragment. A tensor smaller than a page shares its page with
 * other small ones in the file, so member 0 writes it whole.
 */
#define SLC_CKPT_PAGE 4096

struct slc_span {
    int64_t start, count; /* elements of the tensor */
    int rank;             /* member whose elements they are */
};

struct slc_plan {
    struct slc_span *spans; /* by tensor, then ascending: together exactly the tensor */
    int64_t *first;         /* [n+1] first span of tensor i */
    const struct slc_ckpt_tensor *t; /* borrowed */
    int n;
};

/* Collective: gathers all extents and proves that they cover every tensor exactly once
 * and that all ranks brought the same list. */
int slc_plan_create(struct slc_plan *p, struct slc_group *g,
                    const struct slc_ckpt_tensor *t, int n, struct slc_err *e);
void slc_plan_release(struct slc_plan *p);

int64_t slc_tensor_count(const struct slc_ckpt_tensor *t);
int64_t slc_tensor_bytes(const struct slc_ckpt_tensor *t);

/*
 * Bytes [*begin, *end) of the tensor that span k (of tensor i) must send instead of
 * write; empty when it writes all. Returns the member that writes them.
 */
int slc_plan_fragment(const struct slc_plan *p, int i, int64_t k, int64_t *begin,
                      int64_t *end);

/* Pieces of blocks (SLC_CKPT_BLOCK) that span k of tensor i has: each has a CRC of its
 * own. Piece j is bytes [*begin, *end). */
int64_t slc_plan_pieces(const struct slc_plan *p, int i, int64_t k);
void slc_plan_piece(const struct slc_plan *p, int i, int64_t k, int64_t j,
                    int64_t *begin, int64_t *end);

#endif
