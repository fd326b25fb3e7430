/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model_private.h"

static void *act(struct slc_model *m, const char *name, int64_t rows, int64_t width)
{
    return slc_arena_take(&m->device, name, (size_t)(rows * width) * m->elem);
}

static void *words(struct slc_arena *a, const char *name, int64_t n)
{
    return slc_arena_take(a, name, (size_t)n * 4);
}

static int64_t rstd_width(const struct slc_spec *c)
{
    switch (c->qk_norm) {
    case SLC_QK_NORM_HEAD:
        return c->NQ + c->NK;
    case SLC_QK_NORM_FULL:
        return 2;
    case SLC_QK_NORM_NONE:
        break;
    }
    return 0;
}

/* One layer's, or with one struct for all layers, what any of them needs. */
static void layout_saved(struct slc_model *m, struct slc_layer_saved *s, bool moe,
                         bool dense)
{
    const struct slc_spec *c = m->spec;

    s->x2 = act(m, "kept: residual after attention", m->T, c->H);
    s->qkv = act(m, "kept: qkv", m->T, m->QKV);
    s->o = act(m, "kept: attention out", m->T, m->QD);
    s->rstd1 = words(&m->device, "kept: statistics", m->T);
    s->rstd2 = words(&m->device, "kept: statistics", m->T);
    s->rstd_qk = words(&m->device, "kept: statistics", m->T * rstd_width(c));
    s->lse = words(&m->device, "kept: statistics", m->T * c->NQ);
    if (dense)
        s->h = act(m, "kept: dense hidden", m->T, 2 * c->FD);
    if (moe)
        slc_moe_saved_carve(m->moe, &s->moe, &m->device, &m->host);
}

static void layout_batch(struct slc_model *m)
{
    m->ids = words(&m->device, "batch", m->T);
    m->targets = words(&m->device, "batch", m->T);
    m->pos = words(&m->device, "batch", m->T);
    m->seg = words(&m->device, "batch", m->T + 1);
    m->pool = words(&m->device, "batch", m->T);
    m->h_pool = words(&m->host, "batch", m->T);
    m->h_seg = words(&m->host, "batch", m->T + 1);
}

static void layout_statistics(struct slc_model *m)
{
    const struct slc_spec *c = m->spec;
    const int64_t stats = m->n_moe * m->pools * c->E;

    m->route_ids = words(&m->device, "router statistics", m->n_moe * m->T * c->K);
    slc_result_layout(m);
    m->h_sum = slc_arena_take(&m->host, "router statistics", (size_t)(8 * c->E));
    m->load =
        slc_arena_take(&m->host, "router statistics", (size_t)(8 * m->n_moe * c->E));
    if (m->o.training && m->o.aux_scope != SLC_AUX_NONE) {
        const int64_t n = m->o.aux_scope == SLC_AUX_MICRO ? c->E : stats;

        m->prob_grad = words(&m->device, "router statistics", n);
        m->h_prob_grad = words(&m->host, "router statistics", n);
    }
}

static void layout_attention(struct slc_model *m)
{
    const char *name = "scratch: attention";

    m->q_ = act(m, name, m->T, m->QD);
    m->k_ = act(m, name, m->T, m->KD);
    m->v_ = act(m, name, m->T, m->KD);
    if (!m->o.training)
        return;
    m->dq = act(m, name, m->T, m->QD);
    m->dk = act(m, name, m->T, m->KD);
    m->dv = act(m, name, m->T, m->KD);
    m->dqkv = act(m, name, m->T, m->QKV);
    m->d_o = act(m, name, m->T, m->QD);
}

static void layout_dense(struct slc_model *m)
{
    const char *name = "scratch: dense, in the place of attention's";
    const int64_t FD = m->spec->FD;

    m->act = act(m, name, m->T, FD);
    if (!m->o.training)
        return;
    m->da0 = act(m, name, m->T, FD);
    m->dh = act(m, name, m->T, 2 * FD);
}

/* Attention and dense MLP of a layer never run at the same time: their scratch is one
 * place, and the last of the arena. */
static void layout_scratch(struct slc_model *m)
{
    const int64_t H = m->spec->H;

    m->n = act(m, "scratch", m->T, H);
    m->a = act(m, "scratch", m->T, H);
    if (m->o.training) {
        m->dx = act(m, "gradient flow", m->T, H);
        m->dn = act(m, "gradient flow", m->T, H);
    }
    m->logits = act(m, "logits of a chunk", m->chunk, m->spec->V);
    m->token_loss = words(&m->device, "loss", m->T);
    const size_t mark = slc_arena_mark(&m->device);
    layout_attention(m);
    if (m->n_moe < m->spec->L) {
        slc_arena_rewind(&m->device, mark);
        layout_dense(m);
    }
}

void slc_model_layout(struct slc_model *m)
{
    const int64_t L = m->spec->L, streams = m->o.training ? L + 1 : 2;

    for (int64_t i = 0; i < streams; i++)
        m->x[i] = act(m, "residual stream", m->T, m->spec->H);
    for (int i = 0; i < m->n_saved; i++) {
        const bool all = m->n_saved < L, moe = m->layers[i].moe >= 0;

        layout_saved(m, &m->saved[i], all ? m->n_moe > 0 : moe,
                     all ? m->n_moe < L : !moe);
    }
    m->rstd_f = words(&m->device, "kept: statistics", m->T);
    m->inv_freq = words(&m->device, "RoPE", m->spec->D / 2);
    layout_batch(m);
    layout_statistics(m);
    layout_scratch(m);
}
