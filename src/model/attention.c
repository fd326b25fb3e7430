/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "model/model_private.h"

/* q, k (after norm and RoPE) and v of a layer into scratch; backward makes them again
 * rather than keep them. */
static void rotate(struct slc_model *m, const struct slc_layer_params *p,
                   const struct slc_layer_saved *s)
{
    const struct slc_spec *c = m->spec;
    const bool norm = p->q_norm >= 0;
    const void *qw = norm ? slc_param_acquire(m->ps, p->q_norm, m->q) : NULL;
    const void *kw = norm ? slc_param_acquire(m->ps, p->k_norm, m->q) : NULL;

    SLC_RUN(m->q, qkv_rope_forward, .q = m->q_, .k = m->k_, .v = m->v_,
            .rstd = s->rstd_qk, .qkv = s->qkv, .q_weight = qw, .k_weight = kw,
            .pos = m->pos, .inv_freq = m->inv_freq, .T = m->T, .NQ = c->NQ, .NK = c->NK,
            .D = c->D, .eps = c->norm_eps, .clip = c->clip_qkv, .norm = c->qk_norm,
            .dtype = m->o.dtype);
    if (norm) {
        slc_param_release(m->ps, p->k_norm, m->q);
        slc_param_release(m->ps, p->q_norm, m->q);
    }
}

void slc_attention_forward(struct slc_model *m, int l, const void *x)
{
    const struct slc_spec *c = m->spec;
    const struct slc_layer_params *p = &m->layers[l];
    struct slc_layer_saved *s = slc_model_saved(m, l);

    slc_norm_forward(m, p->attn_norm, m->n, NULL, s->rstd1, x, NULL, m->T);
    slc_linear_forward(m, p->qkv, s->qkv, m->n, m->T, m->QKV, c->H);
    rotate(m, p, s);
    SLC_RUN(m->q, attention_forward, .o = s->o, .lse = s->lse, .q = m->q_, .k = m->k_,
            .v = m->v_, .seg = m->seg, .seg_host = m->h_seg, .T = m->T, .NQ = c->NQ,
            .NK = c->NK, .D = c->D, .n_seg = m->n_seg, .max_len = m->longest,
            .window = c->window, .scale = 1 / sqrtf((float)c->D), .dtype = m->o.dtype);
    slc_linear_forward(m, p->attn_out, m->a, s->o, m->T, c->H, m->QD);
    slc_norm_forward(m, p->mlp_norm, m->n, s->x2, s->rstd2, x, m->a, m->T);
}

/* dqkv from the gradients of q, k, v; reports the norms of the heads. */
static void unrotate(struct slc_model *m, const struct slc_layer_params *p,
                     const struct slc_layer_saved *s)
{
    const struct slc_spec *c = m->spec;
    const bool norm = p->q_norm >= 0;
    const void *qw = norm ? slc_param_acquire(m->ps, p->q_norm, m->q) : NULL;
    const void *kw = norm ? slc_param_acquire(m->ps, p->k_norm, m->q) : NULL;

    SLC_RUN(m->q, qkv_rope_backward, .dqkv = m->dqkv,
            .dq_weight = norm ? slc_param_grad(m->ps, p->q_norm) : NULL,
            .dk_weight = norm ? slc_param_grad(m->ps, p->k_norm) : NULL, .dq = m->dq,
            .dk = m->dk, .dv = m->dv, .qkv = s->qkv, .q_weight = qw, .k_weight = kw,
            .rstd = s->rstd_qk, .pos = m->pos, .inv_freq = m->inv_freq, .T = m->T,
            .NQ = c->NQ, .NK = c->NK, .D = c->D, .eps = c->norm_eps,
            .clip = c->clip_qkv, .norm = c->qk_norm, .dtype = m->o.dtype);
    if (!norm)
        return;
    slc_param_release(m->ps, p->k_norm, m->q);
    slc_param_release(m->ps, p->q_norm, m->q);
    slc_param_grad_ready(m->ps, p->q_norm, m->q);
    slc_param_grad_ready(m->ps, p->k_norm, m->q);
}

void slc_attention_backward(struct slc_model *m, int l, const void *x)
{
    const struct slc_spec *c = m->spec;
    const struct slc_layer_params *p = &m->layers[l];
    const struct slc_layer_saved *s = slc_model_saved(m, l);

    slc_linear_backward(m, p->attn_out, m->d_o, m->dx, s->o, m->T, c->H, m->QD);
    slc_param_grad_ready(m->ps, p->attn_out, m->q);
    rotate(m, p, s);
    SLC_RUN(m->q, attention_backward, .dq = m->dq, .dk = m->dk, .dv = m->dv,
            .d_o = m->d_o, .q = m->q_, .k = m->k_, .v = m->v_, .o = s->o, .lse = s->lse,
            .seg = m->seg, .seg_host = m->h_seg, .T = m->T, .NQ = c->NQ, .NK = c->NK,
            .D = c->D, .n_seg = m->n_seg, .max_len = m->longest, .window = c->window,
            .scale = 1 / sqrtf((float)c->D), .dtype = m->o.dtype);
    unrotate(m, p, s);
    slc_norm_forward(m, p->attn_norm, m->n, NULL, s->rstd1, x, NULL, m->T);
    slc_linear_backward(m, p->qkv, m->dn, m->dqkv, m->n, m->T, m->QKV, c->H);
    slc_param_grad_ready(m->ps, p->qkv, m->q);
    slc_norm_backward(m, p->attn_norm, m->dx, m->dn, x, m->dx, s->rstd1);
}
