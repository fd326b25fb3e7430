/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_ATTENTION_PLANS_H
#define SLC_KERNELS_CUDA_ATTENTION_PLANS_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/sdpa.h"

#define SLC_CUDA_MAKERS 8 /* most threads that make plans */

/* cuDNN's plans for attention that this process has asked for, by shape. */
struct slc_cuda_attention {
    /* of the threads that make plans, as they are needed; the first one runs them, too. NULL
     * in the first: cuDNN did not start */
    cudnnHandle_t handle[SLC_CUDA_MAKERS];
    cudaStream_t side;    /* where every other call of an op runs, between the two events */
    cudaEvent_t fork, join;
    struct entry *entry;
    int n, room;
    bool said; /* that there are shapes that run on the plain kernel */
    int64_t whole; /* tokens of a row, of the largest prepared */
};

/* Made when first asked for; NULL: no memory. */
struct slc_cuda_attention *slc_cuda_attention_state(struct slc_cuda *c);
/* This shape (compared as bytes) is among those of which a plan is made next; making takes a
 * tenth of a second, so the more at once, by as many threads, the better. */
void slc_cuda_attention_plan_want(struct slc_cuda *c, const struct slc_sdpa_shape *shape);
/* The plan of a shape; it and those wanted are made now where they are not yet. Valid until
 * the next call. NULL: cuDNN cannot. */
struct slc_sdpa_plan *slc_cuda_attention_plan(struct slc_cuda *c,
                                              const struct slc_sdpa_shape *shape);
/* bf16 attention that runs many times slower than it could is not kept quiet: the first
 * shape and why, on stderr. */
void slc_cuda_attention_say_plain(struct slc_cuda *c, int64_t S, int64_t D,
                                  const char *why);

#endif
