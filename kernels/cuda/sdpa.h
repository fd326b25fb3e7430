/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_SDPA_H
#define SLC_KERNELS_CUDA_SDPA_H

#include <cudnn.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * Attention as a cuDNN operation graph: B sequences of at most S tokens, causal, bf16.
 * Arrays are ours, [T, heads, D]; `heads` and `kv_heads` of them are computed, which lie
 * among NQ and NK (a group of heads is a shifted pointer). ragged: sequences lie one
 * after another, their lengths and offsets (elements, int32, B + 1) are arrays on the
 * GPU; else every sequence has S tokens. Statistics are [T, NQ] fp32. The backward is
 * deterministic: it keeps dS in its workspace, 2 * B * heads * S^2 bytes. split: one head of
 * a group, whose part of dK and dV goes to [T, NQ, D].
 */
struct slc_sdpa_shape {
    int64_t B, S, NQ, NK, heads, kv_heads, D, window;
    int backward, ragged, split;
};

/* Names of the arrays of a plan. */
enum slc_sdpa_array {
    SLC_SDPA_Q = 1,
    SLC_SDPA_K,
    SLC_SDPA_V,
    SLC_SDPA_O,
    SLC_SDPA_STATS,
    SLC_SDPA_LENGTHS,
    SLC_SDPA_OFFSETS_Q,
    SLC_SDPA_OFFSETS_K,
    SLC_SDPA_OFFSETS_STATS,
    SLC_SDPA_SCALE, /* host float */
    SLC_SDPA_MINUS_INFINITY,
    SLC_SDPA_ONE,
    SLC_SDPA_WINDOW,
    SLC_SDPA_D_O,
    SLC_SDPA_DQ,
    SLC_SDPA_DK,
    SLC_SDPA_DV,
    SLC_SDPA_SUM,     /* scratch: fp32 [T, NQ] */
    SLC_SDPA_DK_FULL, /* scratch, grouped heads: bf16 [T, NQ, D] each */
    SLC_SDPA_DV_FULL,
    SLC_SDPA_ARRAYS
};

struct slc_sdpa_plan {
    cudnnBackendDescriptor_t plan;
    int64_t workspace;
    bool uses[SLC_SDPA_ARRAYS];
};

/*
 * device: a finished device property descriptor, to plan for a card that is not here
 * (then handle is NULL); else NULL. -1 with e: cuDNN has no engine for the shape.
 */
int slc_sdpa_plan_make(struct slc_sdpa_plan *p, const struct slc_sdpa_shape *s,
                       cudnnHandle_t handle, cudnnBackendDescriptor_t device,
                       struct slc_err *e);
void slc_sdpa_plan_release(struct slc_sdpa_plan *p);
/* arrays[i] for every i in uses; workspace as the plan says. */
cudnnStatus_t slc_sdpa_plan_run(const struct slc_sdpa_plan *p, cudnnHandle_t handle,
                                void *const arrays[SLC_SDPA_ARRAYS], void *workspace);

#endif
