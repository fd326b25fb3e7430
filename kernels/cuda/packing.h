/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_PACKING_H
#define SLC_KERNELS_CUDA_PACKING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * How the sequences of packed rows are cut into calls of attention plans. A plan takes B
 * sequences of at most S tokens; what it has no tokens for still costs blocks that find
 * nothing to do, and in the backward memory of S^2. So documents go by length, longest
 * first, into parts of one S each.
 */
struct slc_packing_part {
    int32_t S, B, calls;
    int32_t first, count; /* documents, counted from the longest; count <= B * calls */
    int32_t slot, stride; /* call i has slots from slot + i * stride; stride > B */
};
enum { SLC_PACKING_PARTS = 72 };
struct slc_packing {
    int32_t n, slots; /* slots: places in lists of sequences, at most 8 * T */
    struct slc_packing_part part[SLC_PACKING_PARTS];
};

/* What the cut depends on. */
struct slc_packing_rule {
    int64_t T, row;          /* row: tokens of a row, 0: not known */
    int64_t heads, kv_heads; /* query and key heads */
    int64_t workspace;       /* bytes that dS of a call may take; 0: no dS is kept */
    int64_t call_blocks;     /* what a call costs, in blocks that find nothing to do */
};

/*
 * S for sequences of `length` tokens: a power of two, or the whole row. Where no dS is kept
 * 3/4 of a power of two, too: few calls of much room serve best there.
 */
int64_t slc_packing_room(const struct slc_packing_rule *k, int64_t length);
/* B of a call for n sequences with room for S tokens, of the sizes that there are: powers of
 * two and, where no dS is kept, 3/4 of them, but not so few that they could not fill T. */
int64_t slc_packing_size(const struct slc_packing_rule *k, int64_t n, int64_t S);
/* Largest B of a call with room for S tokens. */
int64_t slc_packing_most(const struct slc_packing_rule *k, int64_t S);
/* Query heads that one call computes: the most whole groups, of those that share a key head, for
 * which dS fits; or one head, where none fits. */
int64_t slc_packing_heads(const struct slc_packing_rule *k, int64_t B, int64_t S);
/*
 * Cut the documents of seg (host, n_seg + 1 bounds) so that the estimate of what calls and
 * idle blocks cost is least; empty documents are in no part. seg NULL: one room, for the
 * longest, for all n_seg. B is at most slc_packing_most of S. A pure function.
 */
void slc_packing_cut(struct slc_packing *p, const struct slc_packing_rule *k,
                     const int32_t *seg, int64_t n_seg, int64_t longest);
/* n rows that are whole sequences of S tokens: one part without slots. */
void slc_packing_rows(struct slc_packing *p, const struct slc_packing_rule *k, int64_t n,
                      int64_t S);

#ifdef __cplusplus
}
#endif

#endif
