/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_cast(struct slc_queue *q, const struct slc_cast_args *a)
{
    (void)q;
    for (int64_t i = 0; i < a->n; i++)
        slc_ref_store(a->dst, a->dst_dtype, i, slc_ref_load(a->src, a->src_dtype, i));
}

void slc_ref_add(struct slc_queue *q, const struct slc_add_args *a)
{
    (void)q;
    for (int64_t i = 0; i < a->n; i++)
        slc_ref_store(a->y, a->dtype, i,
                      slc_ref_load(a->a, a->dtype, i) +
                          slc_ref_load(a->b, a->dtype, i));
}

void slc_ref_scale(struct slc_queue *q, const struct slc_scale_args *a)
{
    (void)q;
    for (int64_t i = 0; i < a->n; i++)
        slc_ref_store(a->x, a->dtype, i, slc_ref_load(a->x, a->dtype, i) * a->alpha);
}
