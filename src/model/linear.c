/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model_private.h"

void slc_linear_forward(struct slc_model *m, int i, void *y, const void *x,
                        int64_t rows, int64_t N, int64_t K)
{
    const void *w = slc_param_acquire(m->ps, i, m->q);

    SLC_RUN(m->q, matmul, .c = y, .a = x, .b = w, .M = rows, .N = N, .K = K,
            .trans_b = true, .dtype = m->o.dtype, .c_dtype = m->o.dtype);
    slc_param_release(m->ps, i, m->q);
}

void slc_linear_backward(struct slc_model *m, int i, void *dx, const void *dy,
                         const void *x, int64_t rows, int64_t N, int64_t K)
{
    if (dx) {
        const void *w = slc_param_acquire(m->ps, i, m->q);

        SLC_RUN(m->q, matmul, .c = dx, .a = dy, .b = w, .M = rows, .N = K, .K = N,
                .dtype = m->o.dtype, .c_dtype = m->o.dtype);
        slc_param_release(m->ps, i, m->q);
    }
    enum slc_dtype dtype;
    void *dw = slc_param_grad_of(m->ps, i, &dtype);
    SLC_RUN(m->q, matmul, .c = dw, .a = dy, .b = x, .M = N, .N = K, .K = rows,
            .trans_a = true, .acc = dtype == SLC_F32, .dtype = m->o.dtype,
            .c_dtype = dtype);
}

int slc_linear_prepare(struct slc_model *m, int64_t rows, int64_t N, int64_t K,
                       struct slc_err *e)
{
    if (SLC_PREPARE(m->b, matmul, e, .M = rows, .N = N, .K = K, .trans_b = true,
                    .dtype = m->o.dtype, .c_dtype = m->o.dtype) < 0)
        return -1;
    if (!m->o.training)
        return 0;
    if (SLC_PREPARE(m->b, matmul, e, .M = rows, .N = K, .K = N, .dtype = m->o.dtype,
                    .c_dtype = m->o.dtype) < 0)
        return -1;
    return SLC_PREPARE(m->b, matmul, e, .M = N, .N = K, .K = rows, .trans_a = true,
                       .acc = true, .dtype = m->o.dtype, .c_dtype = SLC_F32);
}

void slc_norm_forward(struct slc_model *m, int i, void *y, void *sum, float *rstd,
                      const void *x, const void *add, int64_t rows)
{
    const void *w = slc_param_acquire(m->ps, i, m->q);

    SLC_RUN(m->q, rmsnorm_forward, .y = y, .sum = sum, .rstd = rstd, .x = x, .add = add,
            .w = w, .T = rows, .H = m->spec->H, .eps = m->spec->norm_eps,
            .dtype = m->o.dtype);
    slc_param_release(m->ps, i, m->q);
}

void slc_norm_backward(struct slc_model *m, int i, void *dx, const void *dy,
                       const void *x, const void *dres, const float *rstd)
{
    const void *w = slc_param_acquire(m->ps, i, m->q);

    SLC_RUN(m->q, rmsnorm_backward, .dx = dx, .dw = slc_param_grad(m->ps, i), .dy = dy,
            .x = x, .w = w, .dres = dres, .rstd = rstd, .T = m->T, .H = m->spec->H,
            .dtype = m->o.dtype);
    slc_param_release(m->ps, i, m->q);
    slc_param_grad_ready(m->ps, i, m->q);
}
