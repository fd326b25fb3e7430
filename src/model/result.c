/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "model/model_private.h"

/*
 * What the host wants to know of a forward lies in one block: loss, z sums, counts,
 * probabilities. Blocks lie one after another and wait until all are read at once, so
 * that the host does not stop a device between forward and backward.
 */

static size_t head_bytes(const struct slc_model *m)
{
    return (8 + (size_t)m->n_moe * 4 + 7) / 8 * 8;
}

static size_t stats_bytes(const struct slc_model *m, int64_t pools)
{
    return (size_t)(m->n_moe * pools * m->spec->E) * 4;
}

size_t slc_result_bytes(const struct slc_model *m)
{
    return (head_bytes(m) + 2 * stats_bytes(m, m->pools) + 7) / 8 * 8;
}

void slc_result_layout(struct slc_model *m)
{
    const size_t n = (size_t)m->o.results * slc_result_bytes(m);

    m->result = slc_arena_take(&m->device, "router statistics", n);
    m->h_result = slc_arena_take(&m->host, "router statistics", n);
    for (int64_t i = 0; i < m->o.results; i++)
        m->waiting[i].count =
            slc_arena_take(&m->host, "router statistics", (size_t)m->spec->E * 8);
}

struct slc_model_waiting *slc_result_begin(struct slc_model *m, bool grad)
{
    SLC_ASSERT(m->n_waiting < m->o.results);
    struct slc_model_waiting *w = &m->waiting[m->n_waiting];
    const size_t at = (size_t)m->n_waiting * slc_result_bytes(m);
    char *block = m->result + at, *host = m->h_result + at;

    m->n_waiting++;
    w->w = m->w;
    w->n_pools = m->n_pools;
    w->n_tokens = m->n_tokens;
    w->grad = grad;
    m->loss_sum = (double *)block;
    m->z = (float *)(block + 8);
    m->count = (int32_t *)(block + head_bytes(m));
    m->prob = (float *)(block + head_bytes(m) + stats_bytes(m, m->n_pools));
    m->h_count = (int32_t *)(host + head_bytes(m));
    return w;
}

int slc_model_results(struct slc_model *m, struct slc_model_result *out, struct slc_err *e)
{
    const int n = m->n_waiting;
    size_t bytes = (size_t)n * slc_result_bytes(m);

    memset(out, 0, sizeof(*out));
    m->n_waiting = 0;
    if (n == 0)
        return 0;
    if (n == 1) /* with pools to spare, only what is there */
        bytes = head_bytes(m) + 2 * stats_bytes(m, m->waiting[0].n_pools);
    if (slc_fetch(m->q, m->h_result, m->result, bytes, e) < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        const struct slc_model_waiting *w = &m->waiting[i];
        const char *block = m->h_result + (size_t)i * slc_result_bytes(m);
        const char *stats = block + head_bytes(m);
        double loss;

        memcpy(&loss, block, sizeof(loss));
        out->loss_sum += loss;
        slc_aux_value(m, w, (const float *)(block + 8), (const int32_t *)stats,
                      (const float *)(stats + stats_bytes(m, w->n_pools)), out);
    }
    return 0;
}

bool slc_model_results_full(const struct slc_model *m)
{
    return m->n_waiting == m->o.results;
}
