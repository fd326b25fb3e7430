/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_ATTENTION_JOB_H
#define SLC_KERNELS_CUDA_ATTENTION_JOB_H

#include "kernels/cuda/attention_plans.h"
#include "kernels/cuda/packing.h"

/* How the work of one call of attention is cut into calls of cuDNN's plans, and the
 * scratch that they take. */

#define SLC_ATTENTION_LANES 2 /* streams, and workspaces */

/* Arguments that forward and backward share, and how the work is cut. */
struct slc_attention_job {
    struct slc_sdpa_shape shape; /* of the calls of a part */
    struct slc_packing packing;
    struct slc_packing_rule rule;
    const struct slc_attention_backward_args *a;
};

/* What the plans of a job ask for. */
struct slc_attention_need {
    size_t workspace;
    bool sum, full; /* SLC_SDPA_SUM, SLC_SDPA_DK_FULL and DV_FULL */
};

/* Scratch of a job, one part after another. second: the workspace of the second stream;
 * the first one where there is no room for two, and then all calls are in one. */
struct slc_attention_parts {
    size_t length, off_q, off_k, off_stats, sum, dk, dv, workspace, second, end;
};

/* Whether cuDNN can be asked at all; the work is not cut yet. */
bool slc_attention_job_init(struct slc_attention_job *j, const struct slc_cuda *c,
                            const struct slc_attention_backward_args *a, bool backward);
/* dS of one head in a call with room for S tokens; -1 with e: more than it may be. */
int slc_attention_check_room(const struct slc_cuda *c, int64_t S, struct slc_err *e);
void slc_attention_cut(struct slc_attention_job *j);
/* The job's shape, of calls of B sequences with room for S tokens. */
const struct slc_sdpa_shape *slc_attention_shape(struct slc_attention_job *j, int64_t B,
                                                 int64_t S);
/* The plan of such calls is needed; false: there is none. */
bool slc_attention_add_need(struct slc_attention_need *n, struct slc_cuda *c,
                            struct slc_attention_job *j, int64_t B, int64_t S);
/* slots: places in lists of sequences. */
struct slc_attention_parts
slc_attention_scratch(const struct slc_cuda *c,
                      const struct slc_attention_backward_args *a, int64_t slots,
                      const struct slc_attention_need *n);

#endif
