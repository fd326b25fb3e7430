/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "model/model_private.h"

/* A dense layer does its MLP in the experts stage; its exchange stages are empty. */
typedef int stage_f(struct slc_model *m, int l, int slot, struct slc_err *e);

static bool dense(const struct slc_model *m, int l)
{
    return m->layers[l].moe < 0;
}

static void acquire_moe(struct slc_model *m, int l, struct slc_moe_weights *w)
{
    const struct slc_layer_params *p = &m->layers[l];

    w->router = slc_param_acquire(m->ps, p->router, m->q);
    w->up = slc_param_acquire(m->ps, p->up, m->q);
    w->down = slc_param_acquire(m->ps, p->down, m->q);
}

static void release_moe(struct slc_model *m, int l)
{
    const struct slc_layer_params *p = &m->layers[l];

    slc_param_release(m->ps, p->down, m->q);
    slc_param_release(m->ps, p->up, m->q);
    slc_param_release(m->ps, p->router, m->q);
}

/* -- forward ---------------------------------------------------------------- */

static int attention_and_router(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const double start = slc_now();
    struct slc_layer_saved *s = slc_model_saved(m, l);

    slc_attention_forward(m, l, slc_model_x(m, l));
    slc_model_phase(m, &m->counters.seconds_attention, start);
    if (dense(m, l))
        return 0;
    const int32_t *forced = m->route_ids + m->layers[l].moe * m->T * m->spec->K;
    acquire_moe(m, l, &m->call[slot].weights);
    return slc_moe_dispatch_post(
        m->moe, slot,
        &(struct slc_moe_call){.saved = &s->moe,
                               .queue = m->q,
                               .weights = &m->call[slot].weights,
                               .x = m->n,
                               .pool = m->pool,
                               .n_pools = m->n_pools,
                               .add = s->x2,
                               .out = slc_model_x(m, l + 1),
                               .forced = m->forced ? forced : NULL},
        e);
}

static int dispatch(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    return dense(m, l) ? 0 : slc_moe_dispatch_finish(m->moe, slot, e);
}

static int experts(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const double start = slc_now();

    if (!dense(m, l))
        return slc_moe_experts(m->moe, slot, e);
    slc_dense_forward(m, l, slc_model_x(m, l + 1));
    slc_model_phase(m, &m->counters.seconds_dense, start);
    return 0;
}

/* Beside the result: what the statistics of the step are made of. */
static int combine(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const struct slc_layer_saved *s = slc_model_saved(m, l);
    const int i = m->layers[l].moe;
    const int64_t ids = m->T * m->spec->K, stats = m->n_pools * m->spec->E;

    if (dense(m, l))
        return 0;
    if (slc_moe_combine_post(m->moe, slot, e) < 0 ||
        slc_moe_combine_finish(m->moe, slot, e) < 0)
        return -1;
    release_moe(m, l);
    SLC_RUN(m->q, copy, .dst = m->route_ids + i * ids, .src = s->moe.ids,
            .bytes = 4 * ids);
    SLC_RUN(m->q, copy, .dst = m->count + i * stats, .src = s->moe.pool_count,
            .bytes = 4 * stats);
    SLC_RUN(m->q, copy, .dst = m->prob + i * stats, .src = s->moe.pool_prob,
            .bytes = 4 * stats);
    SLC_RUN(m->q, copy, .dst = m->z + i, .src = s->moe.z_sum, .bytes = 4);
    return 0;
}

/* -- backward: the same stages, mirrored -------------------------------------- */

static int combine_backward(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const struct slc_layer_params *p = &m->layers[l];
    struct slc_layer_saved *s = slc_model_saved(m, l);

    /* The input of the MLP is cheaper made again than kept. */
    slc_norm_forward(m, p->mlp_norm, m->n, NULL, s->rstd2, s->x2, NULL, m->T);
    if (dense(m, l))
        return 0;
    acquire_moe(m, l, &m->call[slot].weights);
    struct slc_moe_grads *g = &m->call[slot].grads;
    g->router = slc_param_grad(m->ps, p->router);
    g->up = slc_param_grad_of(m->ps, p->up, &g->dtype);
    g->down = slc_param_grad_of(m->ps, p->down, &g->dtype);
    return slc_moe_dispatch_post(
        m->moe, slot,
        &(struct slc_moe_call){.saved = &s->moe,
                               .queue = m->q,
                               .weights = &m->call[slot].weights,
                               .x = m->n,
                               .pool = m->pool,
                               .n_pools = m->n_pools,
                               .d_out = m->dx,
                               .dx = m->dn,
                               .grads = &m->call[slot].grads,
                               .prob_grad = slc_aux_grad(m, p->moe),
                               .z_coef = m->z_coef},
        e);
}

static int experts_backward(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const struct slc_layer_params *p = &m->layers[l];
    const double start = slc_now();

    if (dense(m, l)) {
        slc_dense_backward(m, l);
        slc_model_phase(m, &m->counters.seconds_dense, start);
        return 0;
    }
    if (slc_moe_experts(m->moe, slot, e) < 0)
        return -1;
    slc_param_grad_ready(m->ps, p->down, m->q);
    slc_param_grad_ready(m->ps, p->up, m->q);
    return 0;
}

static int dispatch_backward(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    if (dense(m, l))
        return 0;
    if (slc_moe_combine_post(m->moe, slot, e) < 0 ||
        slc_moe_combine_finish(m->moe, slot, e) < 0)
        return -1;
    release_moe(m, l);
    slc_param_grad_ready(m->ps, m->layers[l].router, m->q);
    return 0;
}

static int attention_backward(struct slc_model *m, int l, int slot, struct slc_err *e)
{
    const struct slc_layer_saved *s = slc_model_saved(m, l);
    const double start = slc_now();

    (void)slot;
    (void)e;
    slc_norm_backward(m, m->layers[l].mlp_norm, m->dx, m->dn, s->x2, m->dx, s->rstd2);
    slc_attention_backward(m, l, slc_model_x(m, l));
    slc_model_phase(m, &m->counters.seconds_attention, start);
    return 0;
}

/* -- the order of stages ------------------------------------------------------ */

static stage_f *const forward_stages[] = {attention_and_router, dispatch, experts,
                                          combine, NULL};
static stage_f *const backward_stages[] = {combine_backward,   dispatch,
                                           experts_backward,   dispatch_backward,
                                           attention_backward, NULL};

static int run(struct slc_model *m, stage_f *const *stages, int l, int slot,
               struct slc_err *e)
{
    for (; *stages; stages++)
        if ((*stages)(m, l, slot, e) < 0)
            return slc_err_prefix(e, "layer %d", l);
    return 0;
}

int slc_layers_forward(struct slc_model *m, int first, int last, struct slc_err *e)
{
    for (int l = first; l < last; l++)
        if (run(m, forward_stages, l, 0, e) < 0)
            return -1;
    return 0;
}

int slc_layers_backward(struct slc_model *m, int first, int last, struct slc_err *e)
{
    for (int l = last - 1; l >= first; l--) {
        /* Writes x[l+1] again, with the same bits. */
        if (m->o.recompute && run(m, forward_stages, l, 0, e) < 0)
            return -1;
        if (run(m, backward_stages, l, 0, e) < 0)
            return -1;
    }
    return 0;
}
