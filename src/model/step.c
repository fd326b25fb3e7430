/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "model/model_private.h"

static int check_batch(const struct slc_model *m, const struct slc_batch *b,
                       struct slc_err *e)
{
    if (b->T != m->T || b->S != m->o.S)
        SLC_BUG("a batch of %" PRId64 " tokens in rows of %" PRId64 " for a model of "
                "%" PRId64 " in rows of %" PRId64,
                b->T, b->S, m->T, m->o.S);
    if (b->n_seg < 1 || b->n_seg > m->T)
        SLC_BUG("a batch of %" PRId64 " tokens with %" PRId64 " segments", b->T,
                b->n_seg);
    if (slc_model_by_document(m) && b->n_docs > m->pools)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "sample %" PRId64 ": a micro-batch of %" PRId64
                        " documents, but "
                        "memory was planned for %" PRId64,
                        b->sample, b->n_docs, m->pools);
    return 0;
}

static void upload_batch(struct slc_model *m, const struct slc_batch *b)
{
    const bool documents = slc_model_by_document(m);

    for (int64_t t = 0; t < m->T; t++)
        m->h_pool[t] = b->doc[t] < 0 ? -1 : documents ? b->doc[t] : 0;
    m->n_pools = documents && b->n_docs > 1 ? b->n_docs : 1;
    m->n_seg = b->n_seg;
    m->n_tokens = b->n_tokens;
    m->longest = 1;
    for (int64_t s = 0; s < b->n_seg; s++)
        if (b->seg[s + 1] - b->seg[s] > m->longest)
            m->longest = b->seg[s + 1] - b->seg[s];
    slc_upload(m->q, m->ids, b->ids, (size_t)m->T * 4);
    slc_upload(m->q, m->targets, b->targets, (size_t)m->T * 4);
    slc_upload(m->q, m->pos, b->pos, (size_t)m->T * 4);
    slc_upload(m->q, m->pool, m->h_pool, (size_t)m->T * 4);
    memcpy(m->h_seg, b->seg, (size_t)(b->n_seg + 1) * 4);
    slc_upload(m->q, m->seg, m->h_seg, (size_t)(b->n_seg + 1) * 4);
}

static void embed(struct slc_model *m)
{
    const double start = slc_now();
    const void *w = slc_param_acquire(m->ps, m->embed, m->q);

    SLC_RUN(m->q, embedding_forward, .y = slc_model_x(m, 0), .w = w, .ids = m->ids,
            .T = m->T, .H = m->spec->H, .V = m->spec->V, .dtype = m->o.dtype);
    slc_param_release(m->ps, m->embed, m->q);
    slc_model_phase(m, &m->counters.seconds_head, start);
}

int slc_model_forward(struct slc_model *m, const struct slc_batch *b,
                      const struct slc_loss_weights *w, const int32_t *forced_ids,
                      float *token_loss, struct slc_model_result *out,
                      struct slc_err *e)
{
    const bool grad = m->o.training && w;

    m->graded = false;
    if (check_batch(m, b, e) < 0)
        return -1;
    SLC_ASSERT(out ? m->n_waiting == 0 : !token_loss);
    m->w = w ? *w : (struct slc_loss_weights){0};
    upload_batch(m, b);
    struct slc_model_waiting *waiting = slc_result_begin(m, grad);
    m->forced = forced_ids && m->n_moe;
    if (m->forced)
        slc_upload(m->q, m->route_ids, forced_ids,
                   (size_t)(m->n_moe * m->T * m->spec->K) * 4);
    embed(m);
    if (slc_layers_forward(m, 0, (int)m->spec->L, e) < 0)
        return -1;
    slc_head_forward(m, grad);
    if (slc_aux_gradient(m, waiting, e) < 0 || (out && slc_model_results(m, out, e) < 0))
        return -1;
    if (token_loss &&
        slc_fetch(m->q, token_loss, m->token_loss, (size_t)m->T * 4, e) < 0)
        return -1;
    m->graded = grad;
    return 0;
}

int slc_model_backward(struct slc_model *m, struct slc_err *e)
{
    if (!m->graded)
        SLC_BUG("backward without a training forward before it");
    m->graded = false;
    slc_head_backward(m);
    if (slc_layers_backward(m, 0, (int)m->spec->L, e) < 0)
        return -1;
    const double start = slc_now();
    SLC_RUN(m->q, embedding_backward, .dw = slc_param_grad(m->ps, m->embed),
            .dy = m->dx, .ids = m->ids, .T = m->T, .H = m->spec->H, .V = m->spec->V,
            .dtype = m->o.dtype);
    slc_param_grad_ready(m->ps, m->embed, m->q);
    slc_model_phase(m, &m->counters.seconds_head, start);
    return 0;
}

int slc_model_logits(struct slc_model *m, int64_t t, float *logits, struct slc_err *e)
{
    const struct slc_spec *c = m->spec;
    const void *x = slc_model_row(m, slc_model_x(m, c->L), t, c->H);

    if (t < 0 || t >= m->T)
        SLC_BUG("logits of position %" PRId64 " of %" PRId64, t, m->T);
    slc_norm_forward(m, m->final_norm, m->a, NULL, m->rstd_f + t, x, NULL, 1);
    slc_linear_forward(m, m->head, m->logits, m->a, 1, c->V, c->H);
    if (slc_fetch(m->q, logits, m->logits, (size_t)c->V * m->elem, e) < 0)
        return -1;
    /* Widen in place, from the end: element i of bf16 lies below element i of fp32. */
    for (int64_t i = c->V - 1; m->o.dtype == SLC_BF16 && i >= 0; i--) {
        uint16_t low;

        memcpy(&low, (char *)logits + 2 * i, 2);
        logits[i] = slc_bf16_to_f32(low);
    }
    return 0;
}

const int64_t *slc_model_load(const struct slc_model *m, int *n_moe_layers)
{
    *n_moe_layers = m->n_moe;
    return m->load;
}

int slc_model_router_ids(struct slc_model *m, int i, int32_t *ids, struct slc_err *e)
{
    const int64_t n = m->T * m->spec->K;

    if (i < 0 || i >= m->n_moe)
        SLC_BUG("MoE layer %d of %d", i, m->n_moe);
    return slc_fetch(m->q, ids, m->route_ids + i * n, (size_t)n * 4, e);
}

void slc_model_counters(struct slc_model *m, struct slc_model_counters *c, bool reset)
{
    struct slc_moe_counters *moe = m->moe ? slc_moe_counters(m->moe) : NULL;

    *c = m->counters;
    if (moe) {
        c->rounds = moe->rounds;
        c->near_bytes = moe->near_bytes;
        c->far_bytes = moe->far_bytes;
        c->seconds_router = moe->seconds_router;
        c->seconds_exchange = moe->seconds_exchange;
        c->seconds_experts = moe->seconds_experts;
        c->seconds_wait = moe->seconds_wait;
    }
    if (!reset)
        return;
    memset(&m->counters, 0, sizeof(m->counters));
    if (moe)
        memset(moe, 0, sizeof(*moe));
}
