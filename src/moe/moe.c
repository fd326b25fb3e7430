/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/moe.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/fail.h"
#include "moe/balance.h"
#include "moe/dispatch.h"
#include "moe/experts.h"
#include "moe/router.h"

struct slc_moe {
    struct slc_moe_options o;
    struct slc_moe_shape shape;
    struct slc_router router;
    struct slc_experts experts[2]; /* of each slot; they differ in y and dweight */
    struct slc_dispatch *dispatch; /* NULL with ep = 1 */
    float *dweights[2];            /* [T, K] of each slot, scratch of backward */
    struct slc_rows *own_rows;     /* [1] device: where results go with ep = 1 */
    void *device;
    struct slc_arena table;
    struct slc_moe_counters counters;
    struct slc_moe_call call[2];
    struct slc_rows view[2]; /* the records that wait for experts */
};

static void layout(struct slc_moe *m, struct slc_arena *a)
{
    const struct slc_moe_shape *n = &m->shape;

    slc_router_carve(&m->router, n, m->o.renorm, m->o.training, a);
    slc_experts_carve(&m->experts[0], n, m->o.training, a);
    m->experts[1] = m->experts[0];
    if (m->o.slots > 1 && n->R > 1) /* combine of the other slot may still read y */
        slc_experts_carve_results(&m->experts[1], m->o.training, a);
    for (int i = 0; i < m->o.slots && m->o.training; i++)
        m->dweights[i] =
            slc_arena_take(a, "moe scratch", (size_t)(n->T * n->K) * sizeof(float));
    m->own_rows = slc_arena_take(a, "moe lists", sizeof(*m->own_rows));
}

static int make_dispatch(struct slc_moe *m, struct slc_err *e)
{
    if (m->shape.R == 1)
        return 0;
    m->dispatch =
        slc_dispatch_create(&(struct slc_dispatch_options){.backend = m->o.backend,
                                                           .group = m->o.group,
                                                           .shape = &m->shape,
                                                           .counters = &m->counters,
                                                           .slots = m->o.slots,
                                                           .force_far = m->o.force_far,
                                                           .training = m->o.training},
                            e);
    return m->dispatch ? 0 : -1;
}

struct slc_moe *slc_moe_create(const struct slc_moe_options *o, struct slc_err *e)
{
    struct slc_moe *m = calloc(1, sizeof(*m));
    struct slc_arena a;

    if (!m) {
        slc_errf(e, SLC_EXIT_SYSTEM, "out of memory for the MoE layers");
        return NULL;
    }
    m->o = *o;
    if (slc_moe_shape_init(&m->shape, o, e) < 0)
        goto err_free;
    slc_arena_measure(&a);
    layout(m, &a);
    m->device = slc_mem_alloc(o->backend, slc_arena_size(&a), SLC_MEM_DEVICE, e);
    if (!m->device)
        goto err_free;
    slc_arena_carve(&a, m->device);
    layout(m, &a);
    if (slc_router_prepare(&m->router, o->backend, o->pools, e) < 0 ||
        slc_experts_prepare(&m->experts[0], o->backend, o->training, e) < 0 ||
        make_dispatch(m, e) < 0)
        goto err_device;
    slc_arena_measure(&m->table);
    layout(&(struct slc_moe){.o = *o, .shape = m->shape}, &m->table);
    if (m->dispatch)
        slc_arena_take(&m->table, "moe windows", slc_dispatch_bytes(m->dispatch));
    return m;

err_device:
    slc_mem_free(o->backend, m->device, SLC_MEM_DEVICE);
err_free:
    free(m);
    return NULL;
}

void slc_moe_destroy(struct slc_moe *m)
{
    if (!m)
        return;
    slc_dispatch_destroy(m->dispatch);
    slc_mem_free(m->o.backend, m->device, SLC_MEM_DEVICE);
    free(m);
}

/* What expert_index writes, and the rows themselves. */
static void carve_rows(const struct slc_moe *m, struct slc_moe_saved *s,
                       struct slc_arena *a)
{
    const struct slc_moe_shape *n = &m->shape;
    size_t rows = (size_t)n->rows_cap, i4 = sizeof(int32_t);
    size_t ds = slc_dtype_size(n->dtype);

    s->off = slc_arena_take(a, "moe routing", (size_t)(n->El_max + 1) * i4);
    s->row_of = slc_arena_take(a, "moe routing", (size_t)(n->cap * n->M) * i4);
    s->rec_of = slc_arena_take(a, "moe routing", rows * i4);
    s->row_weight = slc_arena_take(a, "moe routing", rows * sizeof(float));
    s->x = m->experts[0].x;
    s->h = m->experts[0].h;
    if (m->o.training) {
        s->x = slc_arena_take(a, "moe rows", rows * (size_t)n->H * ds);
        s->h = slc_arena_take(a, "moe rows", rows * 2 * (size_t)n->F * ds);
    }
}

void slc_moe_saved_carve(const struct slc_moe *m, struct slc_moe_saved *s,
                         struct slc_arena *device, struct slc_arena *host)
{
    const struct slc_moe_shape *n = &m->shape;
    size_t T = (size_t)n->T, E = (size_t)n->E, TK = T * (size_t)n->K;
    size_t R = (size_t)n->R, pools = (size_t)m->o.pools, i4 = sizeof(int32_t);

    *s = (struct slc_moe_saved){.rounds = 1};
    s->ids = slc_arena_take(device, "moe routing", TK * i4);
    s->weights = slc_arena_take(device, "moe routing", TK * sizeof(float));
    s->probs = slc_arena_take(device, "moe routing", T * E * sizeof(float));
    s->lse = slc_arena_take(device, "moe routing", T * sizeof(float));
    s->counts = slc_arena_take(device, "moe routing", (R + E) * i4);
    s->pool_count = slc_arena_take(device, "moe routing", pools * E * i4);
    s->pool_prob = slc_arena_take(device, "moe routing", pools * E * sizeof(float));
    s->z_sum = slc_arena_take(device, "moe routing", sizeof(float));
    if (m->dispatch) {
        s->slot_rank = slc_arena_take(device, "moe routing", T * (size_t)n->S * i4);
        s->slot_row = slc_arena_take(device, "moe routing", T * (size_t)n->S * i4);
        s->own_token = slc_arena_take(device, "moe routing", T * i4);
        s->plan = slc_arena_take(host, "moe plan", R * (R + E) * i4);
    }
    carve_rows(m, s, device);
}

/* Times a part of the exchange; what it waits for peers is counted apart as well. */
struct span {
    double start, waited;
};

static double waited(const struct slc_moe *m)
{
    return m->o.group ? slc_world_waited(slc_group_world(m->o.group)) : 0;
}

static struct span exchange_begins(const struct slc_moe *m)
{
    return (struct span){slc_now(), waited(m)};
}

/* The host's clock; with timing, once the work enqueued so far is done. An error is sticky
 * in the queue: the next read reports it. */
static double now(const struct slc_moe *m, int slot)
{
    if (m->o.timing)
        slc_queue_sync(m->call[slot].queue, NULL);
    return slc_now();
}

static void exchange_ends(struct slc_moe *m, int slot, struct span s)
{
    m->counters.seconds_exchange += now(m, slot) - s.start;
    m->counters.seconds_wait += waited(m) - s.waited;
}

/* -- stages -------------------------------------------------------------------------
 */

static void route(struct slc_moe *m, int slot)
{
    const struct slc_moe_call *c = &m->call[slot];
    double start = slc_now();

    slc_router_forward(&m->router, c->queue, c->saved, c->weights->router, c->x,
                       c->pool, c->n_pools, c->forced);
    m->counters.seconds_router += now(m, slot) - start;
}

/* ep = 1: the tokens themselves are the records. */
static struct slc_rows own_view(const struct slc_moe *m, const struct slc_moe_call *c)
{
    const struct slc_moe_shape *n = &m->shape;

    return (struct slc_rows){.data = (char *)(c->d_out ? c->d_out : c->x),
                             .stride = (int64_t)n->row_bytes,
                             .ids = (char *)c->saved->ids,
                             .scalars = (char *)c->saved->weights,
                             .meta_stride = n->K * 4,
                             .count = (int32_t)n->T};
}

int slc_moe_dispatch_post(struct slc_moe *m, int slot, const struct slc_moe_call *c,
                          struct slc_err *e)
{
    struct span span;
    int rc = 0;

    SLC_ASSERT(slot >= 0 && slot < m->o.slots && c->n_pools <= m->o.pools);
    SLC_ASSERT(!c->d_out || m->o.training);
    m->call[slot] = *c;
    if (!c->d_out)
        route(m, slot);
    span = exchange_begins(m);
    if (m->dispatch)
        rc =
            slc_dispatch_post(m->dispatch, slot, c->queue, c->saved, c->x, c->d_out, e);
    else
        c->saved->rounds = 1;
    exchange_ends(m, slot, span);
    return rc;
}

int slc_moe_dispatch_test(struct slc_moe *m, int slot, struct slc_err *e)
{
    return m->dispatch ? slc_dispatch_test(m->dispatch, slot, e) : 1;
}

/* A failure while waiting for rows is one of the exchange, whatever step or pass it is in. */
static int wait_dispatch(struct slc_moe *m, int slot, struct slc_err *e)
{
    const char *phase = slc_fail_phase();

    slc_fail_set_phase("exchange");
    int rc = slc_dispatch_finish(m->dispatch, slot, &m->view[slot], e);
    if (rc == 0)
        slc_fail_set_phase(phase);
    return rc;
}

int slc_moe_dispatch_finish(struct slc_moe *m, int slot, struct slc_err *e)
{
    struct span span = exchange_begins(m);
    int rc = 0;

    if (m->dispatch)
        rc = wait_dispatch(m, slot, e);
    else
        m->view[slot] = own_view(m, &m->call[slot]);
    exchange_ends(m, slot, span);
    return rc;
}

/* The records in view have been read once what is on the queue now has run. */
static void release(struct slc_moe *m, int slot)
{
    if (m->dispatch)
        slc_dispatch_release(m->dispatch, slot);
}

static void forward_round(struct slc_moe *m, int slot)
{
    const struct slc_moe_call *c = &m->call[slot];
    int32_t *load = m->dispatch ? m->experts[slot].load : c->saved->counts + 1;

    slc_experts_load(&m->experts[slot], c->queue, c->saved, &m->view[slot], load);
    release(m, slot);
    slc_experts_forward(&m->experts[slot], c->queue, c->saved, c->weights);
}

static int backward_round(struct slc_moe *m, int slot, struct slc_err *e)
{
    const struct slc_moe_call *c = &m->call[slot];

    if (c->saved->rounds > 1) { /* X and H were not kept: the tokens came once more */
        slc_experts_load(&m->experts[slot], c->queue, c->saved, &m->view[slot],
                         m->experts[slot].load);
        release(m, slot);
        slc_experts_up(&m->experts[slot], c->queue, c->saved, c->weights);
        if (slc_moe_dispatch_finish(m, slot, e) < 0)
            return -1;
    }
    slc_experts_load_grad(&m->experts[slot], c->queue, c->saved, &m->view[slot]);
    release(m, slot);
    slc_experts_backward(&m->experts[slot], c->queue, c->saved, c->weights, c->grads);
    return 0;
}

int slc_moe_experts(struct slc_moe *m, int slot, struct slc_err *e)
{
    double start = slc_now(), exchange = m->counters.seconds_exchange;
    int rc = 0;

    for (int round = 0; rc == 0 && round < m->call[slot].saved->rounds; round++) {
        if (round > 0 && (slc_moe_combine_post(m, slot, e) < 0 ||
                          slc_moe_dispatch_finish(m, slot, e) < 0))
            return -1;
        if (m->call[slot].d_out)
            rc = backward_round(m, slot, e);
        else
            forward_round(m, slot);
    }
    exchange =
        m->counters.seconds_exchange - exchange; /* of the rounds after the first */
    m->counters.seconds_experts += now(m, slot) - start - exchange;
    return rc;
}

/* ep = 1: the expert rows of a token are summed straight into the output. */
static void own_sum(struct slc_moe *m, int slot)
{
    const struct slc_moe_call *c = &m->call[slot];
    const struct slc_moe_shape *n = &m->shape;
    struct slc_rows to = {.data = c->d_out ? c->dx : c->out,
                          .stride = (int64_t)n->row_bytes,
                          .meta_stride = n->K * 4,
                          .count = (int32_t)n->T};

    if (c->d_out)
        to.scalars = (char *)m->dweights[slot];
    slc_upload(c->queue, m->own_rows, &to, sizeof(to));
    SLC_RUN(c->queue, expert_sum, .dst = m->own_rows, .y = m->experts[slot].y,
            .add = c->d_out ? NULL : c->add,
            .row_weight = c->d_out ? NULL : c->saved->row_weight,
            .row_scalar = c->d_out ? m->experts[slot].dweight : NULL,
            .row_of = c->saved->row_of, .n = n->T, .H = n->H, .M = n->M, .R = 1,
            .dtype = n->dtype);
}

int slc_moe_combine_post(struct slc_moe *m, int slot, struct slc_err *e)
{
    const struct slc_moe_call *c = &m->call[slot];
    struct span span = exchange_begins(m);
    int rc = 0;

    if (m->dispatch)
        rc = slc_combine_post(m->dispatch, slot, m->experts[slot].y,
                              c->d_out ? NULL : c->saved->row_weight,
                              c->d_out ? m->experts[slot].dweight : NULL, e);
    else
        own_sum(m, slot);
    exchange_ends(m, slot, span);
    return rc;
}

int slc_moe_combine_test(struct slc_moe *m, int slot, struct slc_err *e)
{
    return m->dispatch ? slc_combine_test(m->dispatch, slot, e) : 1;
}

int slc_moe_combine_finish(struct slc_moe *m, int slot, struct slc_err *e)
{
    const struct slc_moe_call *c = &m->call[slot];
    struct span span = exchange_begins(m);
    double middle;
    int rc = 0;

    if (m->dispatch && !c->d_out)
        rc = slc_combine_finish(m->dispatch, slot, c->out, c->add, NULL, e);
    else if (m->dispatch)
        rc = slc_combine_finish(m->dispatch, slot, c->dx, NULL, m->dweights[slot], e);
    exchange_ends(m, slot, span);
    middle = now(m, slot);
    if (rc == 0 && c->d_out)
        slc_router_backward(&m->router, c->queue, c->saved, c->weights->router,
                            c->grads->router, c->x, c->dx, m->dweights[slot], c->pool,
                            c->n_pools, c->prob_grad, c->z_coef);
    m->counters.seconds_router += now(m, slot) - middle;
    return rc;
}

int slc_moe_run(struct slc_moe *m, int slot, const struct slc_moe_call *c,
                struct slc_err *e)
{
    if (slc_moe_dispatch_post(m, slot, c, e) < 0 ||
        slc_moe_dispatch_finish(m, slot, e) < 0 || slc_moe_experts(m, slot, e) < 0 ||
        slc_moe_combine_post(m, slot, e) < 0 || slc_moe_combine_finish(m, slot, e) < 0)
        return -1;
    return 0;
}

int slc_moe_forward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                    struct slc_queue *q, const struct slc_moe_weights *w, const void *x,
                    const void *add, void *out, const int32_t *pool, int64_t n_pools,
                    const int32_t *forced, struct slc_err *e)
{
    return slc_moe_run(m, slot,
                       &(struct slc_moe_call){.saved = s,
                                              .queue = q,
                                              .weights = w,
                                              .x = x,
                                              .pool = pool,
                                              .n_pools = n_pools,
                                              .add = add,
                                              .out = out,
                                              .forced = forced},
                       e);
}

int slc_moe_backward(struct slc_moe *m, int slot, struct slc_moe_saved *s,
                     struct slc_queue *q, const struct slc_moe_weights *w,
                     const struct slc_moe_grads *g, const void *x, const void *d_out,
                     void *dx, const int32_t *pool, int64_t n_pools,
                     const float *prob_grad, float z_coef, struct slc_err *e)
{
    return slc_moe_run(m, slot,
                       &(struct slc_moe_call){.saved = s,
                                              .queue = q,
                                              .weights = w,
                                              .x = x,
                                              .pool = pool,
                                              .n_pools = n_pools,
                                              .d_out = d_out,
                                              .dx = dx,
                                              .grads = g,
                                              .prob_grad = prob_grad,
                                              .z_coef = z_coef},
                       e);
}

/* -- what callers ask ---------------------------------------------------------------
 */

struct slc_moe_counters *slc_moe_counters(struct slc_moe *m)
{
    return &m->counters;
}

const struct slc_arena *slc_moe_memory(const struct slc_moe *m)
{
    return &m->table;
}

int slc_moe_load_add(const struct slc_moe *m, const struct slc_moe_saved *s,
                     struct slc_queue *q, int64_t *load, struct slc_err *e)
{
    const struct slc_moe_shape *n = &m->shape;

    if (m->dispatch) {
        const int32_t *own = s->plan + n->me * (n->R + n->E) + n->R;

        for (int64_t i = 0; i < n->E; i++)
            load[i] += own[i];
        return 0;
    }
    for (int64_t at = 0; at < n->E; at += 256) {
        int32_t part[256];
        int64_t len = n->E - at < 256 ? n->E - at : 256;

        if (slc_fetch(q, part, s->counts + 1 + at, (size_t)len * sizeof(int32_t), e) <
            0)
            return -1;
        for (int64_t i = 0; i < len; i++)
            load[at + i] += part[i];
    }
    return 0;
}
