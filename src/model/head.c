/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "model/model_private.h"

/*
 * One chunk of rows: logits, loss, and with `grad` the gradients by the hidden rows and
 * by the head's weights at once, so that no logits outlive their chunk.
 */
static void chunk(struct slc_model *m, int64_t t, int64_t rows, bool grad)
{
    const struct slc_spec *c = m->spec;
    void *y = slc_model_row(m, m->n, t, c->H);

    slc_linear_forward(m, m->head, m->logits, y, rows, c->V, c->H);
    SLC_RUN(m->q, cross_entropy, .loss = m->token_loss + t, .logits = m->logits,
            .targets = m->targets + t, .rows = rows, .V = c->V,
            .scale = m->w.targets > 0 ? (float)(1 / m->w.targets) : 0, .grad = grad,
            .dtype = m->o.dtype);
    if (grad)
        slc_linear_backward(m, m->head, slc_model_row(m, m->dn, t, c->H), m->logits, y,
                            rows, c->V, c->H);
}

void slc_head_forward(struct slc_model *m, bool grad)
{
    const double start = slc_now();

    slc_norm_forward(m, m->final_norm, m->n, NULL, m->rstd_f,
                     slc_model_x(m, m->spec->L), NULL, m->T);
    for (int64_t t = 0; t < m->T; t += m->chunk)
        chunk(m, t, m->T - t < m->chunk ? m->T - t : m->chunk, grad);
    SLC_RUN(m->q, sum, .out = m->loss_sum, .x = m->token_loss, .n = m->T);
    slc_model_phase(m, &m->counters.seconds_head, start);
}

void slc_head_backward(struct slc_model *m)
{
    const double start = slc_now();

    if (m->head != m->embed)
        slc_param_grad_ready(m->ps, m->head, m->q);
    slc_norm_backward(m, m->final_norm, m->dx, m->dn, slc_model_x(m, m->spec->L), NULL,
                      m->rstd_f);
    slc_model_phase(m, &m->counters.seconds_head, start);
}
