/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/model_private.h"
#include "moe/balance.h"

/*
 * Gradient and value of the auxiliary losses. The gradient depends on counts alone: it is
 * made by an op, before backward, and only where the counts of other ranks belong to it
 * does the host read them. The value is put together when the results are read.
 */

/* Counts are pooled over all ranks; probabilities stay this rank's, so that the ranks'
 * shares of the loss add up. */
static int pool_counts(struct slc_model *m, struct slc_model_waiting *w, struct slc_err *e)
{
    const int64_t E = m->spec->E, rows = m->n_moe * w->n_pools;
    const size_t bytes = (size_t)(rows * E) * 4;

    if (slc_fetch(m->q, m->h_count, m->count, bytes, e) < 0)
        return -1;
    memset(w->count, 0, (size_t)E * sizeof(double));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t x = 0; x < E; x++)
            w->count[x] += m->h_count[r * E + x];
    return slc_allreduce(m->o.all, w->count, E, SLC_F64, e);
}

static double micro_value(struct slc_model *m, const struct slc_model_waiting *w,
                          const double *count, const double *prob)
{
    return slc_aux_micro(m->spec->E, count, prob, m->n_moe * w->w.micro_tokens,
                         m->o.aux_coef, w->w.micro_tokens / w->w.tokens,
                         m->h_prob_grad);
}

static int micro_gradient(struct slc_model *m, struct slc_model_waiting *w,
                          struct slc_err *e)
{
    const int64_t E = m->spec->E;
    const double n = m->n_moe * w->w.micro_tokens;

    if (!m->o.all) {
        const double share = w->w.micro_tokens / w->w.tokens;
        SLC_RUN(m->q, balance, .out = m->prob_grad, .count = m->count,
                .rows = m->n_moe * w->n_pools, .E = E, .pooled = true,
                .scale = n > 0 ? share * m->o.aux_coef * (double)E / (n * n) : 0);
        return 0;
    }
    if (pool_counts(m, w, e) < 0)
        return -1;
    memset(m->h_sum, 0, (size_t)E * sizeof(double));
    micro_value(m, w, w->count, m->h_sum);
    slc_upload(m->q, m->prob_grad, m->h_prob_grad, (size_t)E * 4);
    return 0;
}

int slc_aux_gradient(struct slc_model *m, struct slc_model_waiting *w, struct slc_err *e)
{
    const struct slc_spec *c = m->spec;

    m->z_coef = 0;
    if (!m->n_moe || !w->grad)
        return 0;
    if (m->o.z_coef != 0)
        slc_z_loss(0, m->o.z_coef, w->w.tokens, &m->z_coef);
    if (m->o.aux_scope == SLC_AUX_MICRO)
        return micro_gradient(m, w, e);
    if (m->o.aux_scope == SLC_AUX_SEQUENCE)
        SLC_RUN(m->q, balance, .out = m->prob_grad, .count = m->count,
                .rows = m->n_moe * w->n_pools, .E = c->E,
                .scale = m->o.aux_coef * (double)(c->E * c->K) / w->w.sequences);
    return 0;
}

/* Every assignment of a routed token is counted in some expert; what is not is dropped.
 * Validation on a training model is not part of the training load. */
static void add_load(struct slc_model *m, const struct slc_model_waiting *w,
                     const int32_t *count)
{
    const bool wanted = w->grad || !m->o.training;
    const int64_t E = m->spec->E;
    int64_t counted = 0;

    for (int64_t i = 0; i < m->n_moe; i++)
        for (int64_t p = 0; p < w->n_pools; p++)
            for (int64_t x = 0; x < E; x++) {
                const int32_t n = count[(i * w->n_pools + p) * E + x];

                m->load[i * E + x] += wanted ? n : 0;
                counted += n;
            }
    m->counters.dropped +=
        (unsigned long long)(m->n_moe * w->n_tokens * m->spec->K - counted);
}

static double micro(struct slc_model *m, const struct slc_model_waiting *w,
                    const int32_t *count, const float *prob)
{
    const int64_t E = m->spec->E, rows = m->n_moe * w->n_pools;
    double *counts = w->count, *probs = m->h_sum;

    memset(probs, 0, (size_t)E * sizeof(double));
    if (!m->o.all)
        memset(counts, 0, (size_t)E * sizeof(double));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t x = 0; x < E; x++) {
            counts[x] += m->o.all ? 0 : count[r * E + x];
            probs[x] += (double)prob[r * E + x];
        }
    return micro_value(m, w, counts, probs);
}

static double sequence(struct slc_model *m, const struct slc_model_waiting *w,
                       const int32_t *count, const float *prob)
{
    const struct slc_spec *c = m->spec;
    const int64_t stats = w->n_pools * c->E;
    double aux = 0;

    for (int64_t i = 0; i < m->n_moe; i++)
        aux += slc_aux_sequence(c->E, c->K, w->n_pools, count + i * stats,
                                prob + i * stats, m->o.aux_coef, w->w.sequences,
                                m->h_prob_grad + i * stats);
    return aux;
}

void slc_aux_value(struct slc_model *m, const struct slc_model_waiting *w, const float *z,
                   const int32_t *count, const float *prob, struct slc_model_result *out)
{
    float unused;

    if (!m->n_moe)
        return;
    add_load(m, w, count);
    if (w->grad && m->o.aux_scope == SLC_AUX_MICRO)
        out->aux += micro(m, w, count, prob);
    if (w->grad && m->o.aux_scope == SLC_AUX_SEQUENCE)
        out->aux += sequence(m, w, count, prob);
    for (int i = 0; w->grad && m->o.z_coef != 0 && i < m->n_moe; i++)
        out->z += slc_z_loss((double)z[i], m->o.z_coef, w->w.tokens, &unused);
}

const float *slc_aux_grad(const struct slc_model *m, int i)
{
    switch (m->o.aux_scope) {
    case SLC_AUX_NONE:
        return NULL;
    case SLC_AUX_MICRO:
        return m->prob_grad;
    case SLC_AUX_SEQUENCE:
        return m->prob_grad + i * m->n_pools * m->spec->E;
    }
    return NULL;
}
