/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/gemm.h"

/* What cannot be computed is refused here, at set-up; scratch and primitives are made.
 */

static int product(bool trans_a, bool trans_b, bool acc, enum slc_dtype dtype,
                   enum slc_dtype c_dtype, struct slc_err *e)
{
    const struct slc_matmul_args a = {.trans_a = trans_a,
                                      .trans_b = trans_b,
                                      .acc = acc,
                                      .dtype = dtype,
                                      .c_dtype = c_dtype};

    return slc_product_prepare(&a, e);
}

static int head(int64_t D, struct slc_err *e)
{
    if (D <= SLC_CPU_HEAD && D % 2 == 0)
        return 0;
    return slc_errf(
        e, SLC_EXIT_UNSUPPORTED,
        "backend cpu: not supported: head width %lld; use an even one up to "
        "%d",
        (long long)D, SLC_CPU_HEAD);
}

/* Sums over T rows of `width` columns, kept per piece. */
static int rows(int64_t T, int64_t width, struct slc_err *e)
{
    return slc_cpu_scratch_grow(slc_pieces_of(T).n * width, e);
}

static int qkv_rope_backward(const struct slc_qkv_rope_backward_args *a,
                             struct slc_err *e)
{
    const bool full = a->norm == SLC_QK_NORM_FULL;

    return head(a->D, e) ? -1 : rows(a->T, (full ? a->NQ + a->NK : 2) * a->D, e);
}

static int attention_backward(const struct slc_attention_backward_args *a,
                              struct slc_err *e)
{
    if (head(a->D, e) != 0)
        return -1;
    return slc_cpu_scratch_grow(a->T * a->NQ * (a->dtype == SLC_F32 ? 1 : 1 + a->D), e);
}

static int expert_index(const struct slc_expert_index_args *a, struct slc_err *e)
{
    if (a->El <= SLC_CPU_EXPERTS)
        return 0;
    return slc_errf(
        e, SLC_EXIT_UNSUPPORTED,
        "backend cpu: not supported: %lld experts on one rank; use a larger "
        "ep so that at most %d remain",
        (long long)a->El, SLC_CPU_EXPERTS);
}

int slc_cpu_prepare(enum slc_op op, const void *args, struct slc_err *e)
{
    const struct slc_matmul_args *mm = args;
    const struct slc_grouped_matmul_args *gm = args;
    const struct slc_grouped_wgrad_args *gw = args;

    switch (op) {
    case SLC_OP_matmul:
        return product(mm->trans_a, mm->trans_b, mm->acc, mm->dtype, mm->c_dtype, e);
    case SLC_OP_grouped_matmul:
        return product(false, gm->trans_w, false, gm->dtype, gm->dtype, e);
    case SLC_OP_grouped_wgrad:
        return product(true, false, gw->acc, gw->dtype, gw->dw_dtype, e);
    case SLC_OP_rmsnorm_backward:
        return rows(((const struct slc_rmsnorm_backward_args *)args)->T,
                    ((const struct slc_rmsnorm_backward_args *)args)->H, e);
    case SLC_OP_qkv_rope_forward:
        return head(((const struct slc_qkv_rope_forward_args *)args)->D, e);
    case SLC_OP_qkv_rope_backward:
        return qkv_rope_backward(args, e);
    case SLC_OP_attention_forward:
        return head(((const struct slc_attention_forward_args *)args)->D, e);
    case SLC_OP_attention_backward:
        return attention_backward(args, e);
    case SLC_OP_expert_index:
        return expert_index(args, e);
    default:
        return 0;
    }
}
