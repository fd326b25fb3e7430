/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/ref/ref.h"

void slc_ref_copy(struct slc_queue *q, const struct slc_copy_args *a)
{
    (void)q;
    if (a->bytes > 0)
        memcpy(a->dst, a->src, (size_t)a->bytes);
}

void slc_ref_zero(struct slc_queue *q, const struct slc_zero_args *a)
{
    (void)q;
    if (a->bytes > 0)
        memset(a->dst, 0, (size_t)a->bytes);
}
