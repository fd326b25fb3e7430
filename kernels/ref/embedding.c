/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_embedding_forward(struct slc_queue *q,
                               const struct slc_embedding_forward_args *a)
{
    size_t row = (size_t)a->H * slc_dtype_size(a->dtype);

    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        memcpy((char *)a->y + (size_t)t * row,
               (const char *)a->w + (size_t)a->ids[t] * row, row);
}

void slc_ref_embedding_backward(struct slc_queue *q,
                                const struct slc_embedding_backward_args *a)
{
    (void)q;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t i = 0; i < a->H; i++)
            a->dw[a->ids[t] * a->H + i] +=
                (float)slc_ref_load(a->dy, a->dtype, t * a->H + i);
}
