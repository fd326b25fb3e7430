/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/arena.h"
#include "tests/moe/moe_case.h"

static void layout(struct moe_layer *l, struct slc_moe *m, struct slc_arena *device,
                   struct slc_arena *host)
{
    const struct moe_case *c = l->c;
    size_t n = (size_t)l->d->n, H = (size_t)c->H, E = (size_t)c->E, F = (size_t)c->F;
    size_t El = (size_t)(l->d->e1 - l->d->e0), f4 = sizeof(float), ds = c->bf16 ? 2 : 4;

    l->x = slc_arena_take(device, "x", n * H * ds);
    l->add = slc_arena_take(device, "x", n * H * ds);
    l->d_out = slc_arena_take(device, "x", n * H * ds);
    l->out = slc_arena_take(device, "x", n * H * ds);
    l->dx = slc_arena_take(device, "x", n * H * ds);
    l->pool = slc_arena_take(device, "x", n * sizeof(int32_t));
    l->prob_grad = slc_arena_take(device, "x", (size_t)c->pools * E * f4);
    l->router = slc_arena_take(device, "w", E * H * ds);
    l->up = slc_arena_take(device, "w", El * 2 * F * H * ds);
    l->down = slc_arena_take(device, "w", El * H * F * ds);
    l->drouter = slc_arena_take(device, "g", E * H * f4);
    l->dup = slc_arena_take(device, "g", El * 2 * F * H * f4);
    l->ddown = slc_arena_take(device, "g", El * H * F * f4);
    slc_moe_saved_carve(m, &l->saved, device, host);
}

/* n floats to backend memory of the layer's dtype. */
static void put(struct moe_layer *l, void *dst, const float *src, size_t n)
{
    uint16_t low[256];

    if (!l->c->bf16) {
        slc_upload(l->q, dst, src, n * sizeof(*src));
        return;
    }
    for (size_t at = 0; at < n; at += 256) {
        size_t len = n - at < 256 ? n - at : 256;

        for (size_t i = 0; i < len; i++)
            low[i] = slc_f32_to_bf16(src[at + i]);
        slc_upload(l->q, (uint16_t *)dst + at, low, len * sizeof(*low));
    }
}

/* And back. */
static int get(struct moe_layer *l, float *dst, const void *src, size_t n,
               struct slc_err *e)
{
    uint16_t low[256];

    if (!l->c->bf16)
        return slc_fetch(l->q, dst, src, n * sizeof(*dst), e);
    for (size_t at = 0; at < n; at += 256) {
        size_t len = n - at < 256 ? n - at : 256;

        if (slc_fetch(l->q, low, (const uint16_t *)src + at, len * sizeof(*low), e) < 0)
            return -1;
        for (size_t i = 0; i < len; i++)
            dst[at + i] = slc_bf16_to_f32(low[i]);
    }
    return 0;
}

static void upload(struct moe_layer *l)
{
    const struct moe_case *c = l->c;
    const struct moe_data *d = l->d;
    size_t n = (size_t)d->n, H = (size_t)c->H, E = (size_t)c->E, F = (size_t)c->F;
    size_t El = (size_t)(d->e1 - d->e0), f4 = sizeof(float);

    put(l, l->x, d->x, n * H);
    put(l, l->add, d->add, n * H);
    put(l, l->d_out, d->d_out, n * H);
    slc_upload(l->q, l->pool, d->pool, n * sizeof(int32_t));
    slc_upload(l->q, l->prob_grad, d->prob_grad, (size_t)c->pools * E * f4);
    put(l, l->router, d->router, E * H);
    put(l, l->up, d->up, El * 2 * F * H);
    put(l, l->down, d->down, El * H * F);
}

int moe_layer_init(struct moe_layer *l, const struct moe_case *c,
                   const struct moe_data *d, struct slc_moe *m, struct slc_backend *b,
                   struct slc_queue *q, struct slc_err *e)
{
    struct slc_arena device, host;

    *l = (struct moe_layer){.c = c, .d = d, .b = b, .q = q};
    slc_arena_measure(&device);
    slc_arena_measure(&host);
    layout(l, m, &device, &host);
    l->device = slc_mem_alloc(b, slc_arena_size(&device), SLC_MEM_DEVICE, e);
    l->host = slc_mem_alloc(b, slc_arena_size(&host) + 1, SLC_MEM_HOST, e);
    if (!l->device || !l->host)
        return -1;
    slc_arena_carve(&device, l->device);
    slc_arena_carve(&host, l->host);
    layout(l, m, &device, &host);
    l->weights = (struct slc_moe_weights){l->router, l->up, l->down};
    l->grads = (struct slc_moe_grads){l->drouter, l->dup, l->ddown, SLC_F32};
    upload(l);
    moe_layer_clear(l);
    return 0;
}

void moe_layer_clear(struct moe_layer *l)
{
    const struct moe_case *c = l->c;
    int64_t El = l->d->e1 - l->d->e0, bytes = l->d->n * c->H * (c->bf16 ? 2 : 4);

    SLC_RUN(l->q, zero, .dst = l->out, .bytes = bytes);
    SLC_RUN(l->q, zero, .dst = l->dx, .bytes = bytes);
    SLC_RUN(l->q, zero, .dst = l->drouter, .bytes = c->E * c->H * 4);
    SLC_RUN(l->q, zero, .dst = l->dup, .bytes = El * 2 * c->F * c->H * 4);
    SLC_RUN(l->q, zero, .dst = l->ddown, .bytes = El * c->H * c->F * 4);
}

void moe_layer_release(struct moe_layer *l)
{
    if (l->device)
        slc_mem_free(l->b, l->device, SLC_MEM_DEVICE);
    if (l->host)
        slc_mem_free(l->b, l->host, SLC_MEM_HOST);
}

struct slc_moe_call moe_layer_forward(struct moe_layer *l)
{
    return (struct slc_moe_call){.saved = &l->saved,
                                 .queue = l->q,
                                 .weights = &l->weights,
                                 .x = l->x,
                                 .pool = l->pool,
                                 .n_pools = l->c->pools,
                                 .add = l->add,
                                 .out = l->out};
}

struct slc_moe_call moe_layer_backward(struct moe_layer *l)
{
    return (struct slc_moe_call){.saved = &l->saved,
                                 .queue = l->q,
                                 .weights = &l->weights,
                                 .x = l->x,
                                 .pool = l->pool,
                                 .n_pools = l->c->pools,
                                 .d_out = l->d_out,
                                 .dx = l->dx,
                                 .grads = &l->grads,
                                 .prob_grad = l->c->aux ? l->prob_grad : NULL,
                                 .z_coef = l->d->z_coef};
}

int moe_layer_fetch(struct moe_layer *l, struct moe_result *r, struct slc_err *e)
{
    const struct moe_case *c = l->c;
    size_t n = (size_t)l->d->n, H = (size_t)c->H, E = (size_t)c->E, F = (size_t)c->F;
    size_t El = (size_t)(l->d->e1 - l->d->e0), f4 = sizeof(float);
    size_t pools = (size_t)c->pools * E * f4;

    if (get(l, r->out, l->out, n * H, e) < 0 || get(l, r->dx, l->dx, n * H, e) < 0 ||
        slc_fetch(l->q, r->drouter, l->drouter, E * H * f4, e) < 0 ||
        slc_fetch(l->q, r->dup, l->dup, El * 2 * F * H * f4, e) < 0 ||
        slc_fetch(l->q, r->ddown, l->ddown, El * H * F * f4, e) < 0 ||
        slc_fetch(l->q, r->ids, l->saved.ids, n * (size_t)c->K * f4, e) < 0 ||
        slc_fetch(l->q, r->pool_prob, l->saved.pool_prob, pools, e) < 0 ||
        slc_fetch(l->q, r->pool_count, l->saved.pool_count, pools, e) < 0 ||
        slc_fetch(l->q, &r->z_sum, l->saved.z_sum, f4, e) < 0)
        return -1;
    return 0;
}
