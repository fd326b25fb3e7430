/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

void slc_cuda_copy(struct slc_queue *q, const struct slc_copy_args *a)
{
    if (a->bytes > 0)
        slc_cuda_fail(q,
                      cudaMemcpyAsync(a->dst, a->src, (size_t)a->bytes,
                                      cudaMemcpyDefault, slc_cuda_queue_of(q)->stream),
                      "copy");
}

void slc_cuda_zero(struct slc_queue *q, const struct slc_zero_args *a)
{
    if (a->bytes > 0)
        slc_cuda_fail(q,
                      cudaMemsetAsync(a->dst, 0, (size_t)a->bytes,
                                      slc_cuda_queue_of(q)->stream),
                      "zero");
}
