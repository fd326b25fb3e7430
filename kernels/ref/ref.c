/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"
#include "kernels/ref/ref.h"

#include <stdlib.h>

void slc_ops_ref(struct slc_ops *ops)
{
#define SLC_REF_ENTRY(op) ops->op = slc_ref_##op;
    SLC_OPS(SLC_REF_ENTRY)
#undef SLC_REF_ENTRY
}

double *slc_ref_doubles(int64_t n)
{
    double *p = calloc((size_t)(n > 0 ? n : 1), sizeof(*p));

    if (!p)
        SLC_BUG("kernels/ref: no memory for %lld doubles", (long long)n);
    return p;
}
