/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/model_private.h"
#include "moe/balance.h"

static int fetch_statistics(struct slc_model *m, bool probs, bool z, struct slc_err *e)
{
    const size_t bytes = (size_t)(m->n_moe * m->n_pools * m->spec->E) * 4;

    if (slc_fetch(m->q, m->h_count, m->count, bytes, e) < 0)
        return -1;
    if (probs && slc_fetch(m->q, m->h_prob, m->prob, bytes, e) < 0)
        return -1;
    return z ? slc_fetch(m->q, m->h_z, m->z, (size_t)m->n_moe * 4, e) : 0;
}

/* Every assignment of a routed token is counted in some expert; what is not is dropped.
 * Validation on a training model is not part of the training load. */
static void add_load(struct slc_model *m, bool wanted)
{
    const int64_t E = m->spec->E;
    int64_t counted = 0;

    for (int64_t i = 0; i < m->n_moe; i++)
        for (int64_t p = 0; p < m->n_pools; p++)
            for (int64_t x = 0; x < E; x++) {
                const int32_t n = m->h_count[(i * m->n_pools + p) * E + x];

                m->load[i * E + x] += wanted ? n : 0;
                counted += n;
            }
    m->counters.dropped +=
        (unsigned long long)(m->n_moe * m->n_tokens * m->spec->K - counted);
}

/* Counts are pooled over all ranks; probabilities stay this rank's, so that the ranks'
 * shares of the loss add up. */
static int micro(struct slc_model *m, double *aux, struct slc_err *e)
{
    const int64_t E = m->spec->E, rows = m->n_moe * m->n_pools;
    double *count = m->h_pool_sum, *prob = m->h_pool_sum + E;

    memset(count, 0, (size_t)(16 * E));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t x = 0; x < E; x++) {
            count[x] += m->h_count[r * E + x];
            prob[x] += (double)m->h_prob[r * E + x];
        }
    if (m->o.all && slc_allreduce(m->o.all, count, E, SLC_F64, e) < 0)
        return -1;
    *aux = slc_aux_micro(E, count, prob, m->n_moe * m->w.micro_tokens, m->o.aux_coef,
                         m->w.micro_tokens / m->w.tokens, m->h_prob_grad);
    slc_upload(m->q, m->prob_grad, m->h_prob_grad, (size_t)E * 4);
    return 0;
}

static double sequence(struct slc_model *m)
{
    const int64_t stats = m->n_pools * m->spec->E;
    double aux = 0;

    for (int64_t i = 0; i < m->n_moe; i++)
        aux +=
            slc_aux_sequence(m->spec->E, m->spec->K, m->n_pools, m->h_count + i * stats,
                             m->h_prob + i * stats, m->o.aux_coef, m->w.sequences,
                             m->h_prob_grad + i * stats);
    slc_upload(m->q, m->prob_grad, m->h_prob_grad, (size_t)(m->n_moe * stats) * 4);
    return aux;
}

int slc_aux_finish(struct slc_model *m, bool grad, struct slc_model_result *out,
                   struct slc_err *e)
{
    const bool aux = grad && m->o.aux_scope != SLC_AUX_NONE;
    const bool z = grad && m->o.z_coef != 0;

    m->z_coef = 0;
    if (!m->n_moe)
        return 0;
    if (fetch_statistics(m, aux, z, e) < 0)
        return -1;
    add_load(m, grad || !m->o.training);
    if (aux && m->o.aux_scope == SLC_AUX_MICRO && micro(m, &out->aux, e) < 0)
        return -1;
    if (aux && m->o.aux_scope == SLC_AUX_SEQUENCE)
        out->aux = sequence(m);
    for (int i = 0; z && i < m->n_moe; i++)
        out->z += slc_z_loss((double)m->h_z[i], m->o.z_coef, m->w.tokens, &m->z_coef);
    return 0;
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
