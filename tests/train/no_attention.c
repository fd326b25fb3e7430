/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linked with the program in tests/train/no_attention (slc_backend_open wrapped): a sluice whose
 * attention gives zero, forward and backward, so that each token sees only itself. What a
 * model learns beyond it, attention brought.
 */
#include "backend/backend.h"

struct slc_backend *__real_slc_backend_open(const char *name,
                                            const struct slc_backend_options *o,
                                            struct slc_err *e);

static void zero(struct slc_queue *q, void *p, int64_t elements, enum slc_dtype t)
{
    SLC_RUN(q, zero, .dst = p, .bytes = elements * (int64_t)slc_dtype_size(t));
}

static void forward(struct slc_queue *q, const struct slc_attention_forward_args *a)
{
    zero(q, a->o, a->T * a->NQ * a->D, a->dtype);
    zero(q, a->lse, a->T * a->NQ, SLC_F32);
}

static void backward(struct slc_queue *q, const struct slc_attention_backward_args *a)
{
    zero(q, a->dq, a->T * a->NQ * a->D, a->dtype);
    zero(q, a->dk, a->T * a->NK * a->D, a->dtype);
    zero(q, a->dv, a->T * a->NK * a->D, a->dtype);
}

struct slc_backend *__wrap_slc_backend_open(const char *name,
                                            const struct slc_backend_options *o,
                                            struct slc_err *e)
{
    struct slc_backend *b = __real_slc_backend_open(name, o, e);

    if (b) {
        b->ops.attention_forward = forward;
        b->ops.attention_backward = backward;
    }
    return b;
}
