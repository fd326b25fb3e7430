/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_REF_REF_H
#define SLC_KERNELS_REF_REF_H

#include "backend/ops.h"
#include "base/err.h"

/*
 * The oracle: one thread, plain loops, every sum in double and rounded once when it
 * is stored. What an op must compute is said in backend/ops.h only.
 */

#define SLC_REF_DECLARE(op)                                                            \
    void slc_ref_##op(struct slc_queue *q, const struct slc_##op##_args *a);
SLC_OPS(SLC_REF_DECLARE)
#undef SLC_REF_DECLARE

/* Element i of an array of fp32, bf16 or fp64. */
static inline double slc_ref_load(const void *p, enum slc_dtype t, int64_t i)
{
    if (t == SLC_F32)
        return ((const float *)p)[i];
    if (t == SLC_BF16)
        return slc_bf16_to_f32(((const uint16_t *)p)[i]);
    SLC_ASSERT(t == SLC_F64);
    return ((const double *)p)[i];
}

static inline void slc_ref_store(void *p, enum slc_dtype t, int64_t i, double x)
{
    if (t == SLC_F32)
        ((float *)p)[i] = (float)x;
    else if (t == SLC_BF16)
        ((uint16_t *)p)[i] = slc_f32_to_bf16((float)x);
    else {
        SLC_ASSERT(t == SLC_F64);
        ((double *)p)[i] = x;
    }
}

/* x as it would be read back after being stored as t. */
static inline double slc_ref_round(double x, enum slc_dtype t)
{
    if (t == SLC_F32)
        return (float)x;
    return t == SLC_BF16 ? slc_bf16_to_f32(slc_f32_to_bf16((float)x)) : x;
}

/* n doubles, zeroed; to be freed. Without memory the oracle cannot go on: aborts. */
double *slc_ref_doubles(int64_t n);

#endif
