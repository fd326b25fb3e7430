/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model_private.h"

void slc_dense_forward(struct slc_model *m, int l, void *out)
{
    const struct slc_spec *c = m->spec;
    const struct slc_layer_params *p = &m->layers[l];
    const struct slc_layer_saved *s = slc_model_saved(m, l);

    slc_linear_forward(m, p->up, s->h, m->n, m->T, 2 * c->FD, c->H);
    SLC_RUN(m->q, swiglu_forward, .a = m->act, .h = s->h, .rows = m->T, .F = c->FD,
            .dtype = m->o.dtype);
    slc_linear_forward(m, p->down, m->a, m->act, m->T, c->H, c->FD);
    SLC_RUN(m->q, add, .y = out, .a = m->a, .b = s->x2, .n = m->T * c->H,
            .dtype = m->o.dtype);
}

void slc_dense_backward(struct slc_model *m, int l)
{
    const struct slc_spec *c = m->spec;
    const struct slc_layer_params *p = &m->layers[l];
    const struct slc_layer_saved *s = slc_model_saved(m, l);

    /* The activation is an input of the down projection's gradient: made again. */
    SLC_RUN(m->q, swiglu_forward, .a = m->act, .h = s->h, .rows = m->T, .F = c->FD,
            .dtype = m->o.dtype);
    slc_linear_backward(m, p->down, m->da0, m->dx, m->act, m->T, c->H, c->FD);
    slc_param_grad_ready(m->ps, p->down, m->q);
    SLC_RUN(m->q, swiglu_backward, .dh = m->dh, .da0 = m->da0, .h = s->h, .rows = m->T,
            .F = c->FD, .dtype = m->o.dtype);
    slc_linear_backward(m, p->up, m->dn, m->dh, m->n, m->T, 2 * c->FD, c->H);
    slc_param_grad_ready(m->ps, p->up, m->q);
}
