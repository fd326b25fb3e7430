/* SPDX-License-Identifier: Apache-2.0 */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_private.h"

/* Logits of a chunk when the caller does not choose: 2^25 values, at least 64 rows; on a
 * GPU 2^27, in equal chunks of whole tiles. */
#define CHUNK_VALUES (INT64_C(1) << 25)
#define CHUNK_ROWS 64

static int64_t choose_chunk(const struct slc_model *m, int64_t T, int64_t V)
{
    const int64_t tile = m->b->row_align;
    const int64_t most = (tile > 1 ? 4 * CHUNK_VALUES : CHUNK_VALUES) / V;
    int64_t rows = m->o.loss_chunk;

    if (rows <= 0) {
        rows = most < CHUNK_ROWS ? CHUNK_ROWS : most;
        if (tile > 1 && rows < T) {
            const int64_t n = (T + rows - 1) / rows;

            rows = ((T + n - 1) / n + tile - 1) / tile * tile;
        }
    }
    return rows < T ? rows : T;
}

static void find_layers(struct slc_model *m)
{
    for (int l = 0; l < (int)m->spec->L; l++) {
        struct slc_layer_params *p = &m->layers[l];
        const bool moe = m->spec->moe[l];

        p->attn_norm = slc_params_find(m->ps, SLC_ATTN_NORM, l);
        p->qkv = slc_params_find(m->ps, SLC_QKV, l);
        p->q_norm = slc_params_find(m->ps, SLC_Q_NORM, l);
        p->k_norm = slc_params_find(m->ps, SLC_K_NORM, l);
        p->attn_out = slc_params_find(m->ps, SLC_ATTN_OUT, l);
        p->mlp_norm = slc_params_find(m->ps, SLC_MLP_NORM, l);
        p->router = slc_params_find(m->ps, SLC_ROUTER, l);
        p->up = slc_params_find(m->ps, moe ? SLC_EXPERT_UP : SLC_DENSE_UP, l);
        p->down = slc_params_find(m->ps, moe ? SLC_EXPERT_DOWN : SLC_DENSE_DOWN, l);
        p->moe = moe ? m->n_moe++ : -1;
    }
    m->embed = slc_params_find(m->ps, SLC_EMBED, -1);
    m->final_norm = slc_params_find(m->ps, SLC_FINAL_NORM, -1);
    m->head = slc_params_find(m->ps, SLC_HEAD, -1);
    if (m->head < 0)
        m->head = m->embed;
}

static int create_moe(struct slc_model *m, struct slc_err *e)
{
    const struct slc_spec *c = m->spec;
    const struct slc_moe_options mo = {
        .backend = m->b,
        .group = m->o.experts,
        .T = m->T,
        .H = c->H,
        .E = c->E,
        .K = c->K,
        .F = c->F,
        .pools = m->pools,
        .dtype = m->o.dtype,
        .renorm = c->renorm,
        .training = m->o.training,
        .slots = 1,
        .window_factor = m->o.window_factor > 0 ? m->o.window_factor : 1.25,
        .window_rows = m->o.window_rows,
        .force_far = m->o.force_far,
        .timing = m->o.timing,
    };

    m->moe = slc_moe_create(&mo, e);
    return m->moe ? 0 : -1;
}

static int allocate(struct slc_model *m, struct slc_err *e)
{
    slc_arena_measure(&m->device);
    slc_arena_measure(&m->host);
    slc_model_layout(m);
    const size_t device = slc_arena_size(&m->device), host = slc_arena_size(&m->host);
    m->device_base = slc_mem_alloc(m->b, device, SLC_MEM_DEVICE, e);
    if (!m->device_base)
        return slc_err_prefix(e,
                              "activations; lower train.micro_batch or data.sequence, "
                              "or set train.recompute");
    m->host_base = slc_mem_alloc(m->b, host, SLC_MEM_HOST, e);
    if (!m->host_base)
        return -1;
    memset(m->host_base, 0, host);
    slc_arena_carve(&m->device, m->device_base);
    slc_arena_carve(&m->host, m->host_base);
    slc_model_layout(m);
    SLC_RUN(m->q, zero, .dst = m->device_base, .bytes = (int64_t)device);
    return 0;
}

/* inv_freq[i] = theta^(-2i/D), rounded where Transformers rounds. */
static int upload_rope(struct slc_model *m, struct slc_err *e)
{
    const int64_t D = m->spec->D;
    float *f = malloc((size_t)(D / 2) * sizeof(*f));

    if (!f)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the RoPE table");
    for (int64_t i = 0; i < D / 2; i++)
        f[i] = 1 / powf((float)m->spec->rope_theta, (float)(2 * i) / (float)D);
    slc_upload(m->q, m->inv_freq, f, (size_t)(D / 2) * 4);
    free(f);
    return slc_queue_sync(m->q, e);
}

static int prepare_attention(struct slc_model *m, struct slc_err *e)
{
    const struct slc_spec *c = m->spec;

    if (SLC_PREPARE(m->b, attention_forward, e, .T = m->T, .NQ = c->NQ, .NK = c->NK,
                    .D = c->D, .n_seg = m->T, .max_len = m->o.S, .window = c->window,
                    .dtype = m->o.dtype) < 0)
        return -1;
    if (!m->o.training)
        return 0;
    return SLC_PREPARE(m->b, attention_backward, e, .T = m->T, .NQ = c->NQ, .NK = c->NK,
                       .D = c->D, .n_seg = m->T, .max_len = m->o.S, .window = c->window,
                       .dtype = m->o.dtype);
}

static int prepare(struct slc_model *m, struct slc_err *e)
{
    const struct slc_spec *c = m->spec;
    const bool dense = m->n_moe < c->L;

    if (slc_linear_prepare(m, m->T, m->QKV, c->H, e) < 0 ||
        slc_linear_prepare(m, m->T, c->H, m->QD, e) < 0 ||
        slc_linear_prepare(m, m->chunk, c->V, c->H, e) < 0)
        return -1;
    if (dense && (slc_linear_prepare(m, m->T, 2 * c->FD, c->H, e) < 0 ||
                  slc_linear_prepare(m, m->T, c->H, c->FD, e) < 0))
        return -1;
    return prepare_attention(m, e);
}

static int check_options(const struct slc_model_options *o, const struct slc_params *ps,
                         struct slc_err *e)
{
    if (o->rows < 1 || o->S < 1 || o->rows * o->S > INT32_MAX / 2)
        return slc_errf(
            e, SLC_EXIT_CONFIG,
            "a micro-batch of %lld rows of %lld tokens: both must be at least "
            "1, and all tokens fewer than 2^30",
            (long long)o->rows, (long long)o->S);
    if (o->dtype != ps->dtype || (o->training && !ps->g))
        SLC_BUG("model and parameters were created for different runs");
    return 0;
}

static void set_sizes(struct slc_model *m)
{
    const struct slc_spec *c = m->spec;
    const struct slc_model_options *o = &m->o;

    m->elem = slc_dtype_size(o->dtype);
    m->T = o->rows * o->S;
    m->QD = c->NQ * c->D;
    m->KD = c->NK * c->D;
    m->QKV = m->QD + 2 * m->KD;
    m->chunk = choose_chunk(m, m->T, c->V);
    m->n_saved = o->training && !o->recompute ? (int)c->L : 1;
    m->pools = 1;
    if (slc_model_by_document(m))
        m->pools =
            o->max_documents > 0 && o->max_documents < m->T ? o->max_documents : m->T;
    if (m->o.results < 1 || slc_model_by_document(m))
        m->o.results = 1;
}

/* The memory table: our regions and those of the MoE block. */
static void list_memory(struct slc_model *m)
{
    const struct slc_arena *parts[] = {&m->device,
                                       m->moe ? slc_moe_memory(m->moe) : NULL};

    slc_arena_measure(&m->table);
    for (int i = 0; i < 2 && parts[i]; i++)
        for (int r = 0; r < parts[i]->n_regions; r++)
            slc_arena_take(&m->table, parts[i]->regions[r].name,
                           parts[i]->regions[r].bytes);
}

struct slc_model *slc_model_create(const struct slc_spec *s, struct slc_params *ps,
                                   const struct slc_model_options *o, struct slc_err *e)
{
    struct slc_model *m;

    if (check_options(o, ps, e) < 0)
        return NULL;
    m = calloc(1, sizeof(*m));
    if (!m)
        goto err_memory;
    m->spec = s;
    m->ps = ps;
    m->o = *o;
    m->b = o->backend;
    set_sizes(m);
    m->layers = calloc((size_t)s->L, sizeof(*m->layers));
    m->saved = calloc((size_t)m->n_saved, sizeof(*m->saved));
    m->x = calloc((size_t)s->L + 2, sizeof(*m->x));
    m->waiting = calloc((size_t)m->o.results, sizeof(*m->waiting));
    if (!m->layers || !m->saved || !m->x || !m->waiting)
        goto err_memory;
    find_layers(m);
    m->q = o->queue ? o->queue : slc_queue_create(m->b, e);
    if (!m->q || (m->n_moe && create_moe(m, e) < 0) || allocate(m, e) < 0 ||
        upload_rope(m, e) < 0 || prepare(m, e) < 0)
        goto err_destroy;
    list_memory(m);
    return m;

err_memory:
    slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the model's layer tables");
err_destroy:
    slc_model_destroy(m);
    return NULL;
}

void slc_model_destroy(struct slc_model *m)
{
    if (!m)
        return;
    if (m->q)
        slc_queue_sync(m->q, NULL);
    slc_moe_destroy(m->moe);
    if (m->device_base)
        slc_mem_free(m->b, m->device_base, SLC_MEM_DEVICE);
    if (m->host_base)
        slc_mem_free(m->b, m->host_base, SLC_MEM_HOST);
    if (!m->o.queue)
        slc_queue_destroy(m->q);
    free(m->x);
    free(m->waiting);
    free(m->saved);
    free(m->layers);
    free(m);
}

struct slc_queue *slc_model_queue(const struct slc_model *m)
{
    return m->q;
}

const struct slc_arena *slc_model_memory(const struct slc_model *m)
{
    return &m->table;
}
