/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

/* How much scratch each op takes, so that prepare() can have it ready. The numbers are
 * upper bounds of what the ops themselves ask for. */

static size_t floats(int64_t n)
{
    return (size_t)(n + 64) * sizeof(float);
}

/* Parts of the weight gradients of 264 blocks (rmsnorm.cu, qkv_rope.cu). */
static size_t rope_scratch(const struct slc_qkv_rope_backward_args *a)
{
    return floats(264 * (a->norm == SLC_QK_NORM_FULL ? (a->NQ + a->NK) * a->D : 2 * a->D));
}

size_t slc_cuda_scratch_of(struct slc_cuda *c, enum slc_op op, const void *args)
{
    const struct slc_rmsnorm_backward_args *norm = args;
    const struct slc_attention_backward_args *attention = args;
    const struct slc_router_forward_args *router = args;
    const struct slc_dispatch_index_args *dispatch = args;
    const struct slc_expert_index_args *expert = args;

    switch (op) {
    case SLC_OP_embedding_backward:
        return slc_cuda_embedding_scratch(c, args);
    case SLC_OP_rmsnorm_backward:
        return floats(264 * norm->H);
    case SLC_OP_qkv_rope_backward:
        return rope_scratch(args);
    case SLC_OP_attention_forward:
        return slc_cuda_attention_prepare_forward(c, args);
    case SLC_OP_attention_backward:
        return (size_t)slc_most(
            (int64_t)floats(attention->T * attention->NQ),
            (int64_t)slc_cuda_attention_prepare_backward(c, attention));
    case SLC_OP_router_forward: /* parts of 1024 tokens */
        return floats((slc_ceil_div(router->T, 1024) + 1) * router->P * router->E);
    case SLC_OP_dispatch_index: /* chunks of 256 */
        return floats((slc_ceil_div(dispatch->T, 256) + 1) * dispatch->R);
    case SLC_OP_expert_index:
        return floats((slc_ceil_div(expert->src.count, 256) + 2) * expert->El);
    default:
        return 0;
    }
}
