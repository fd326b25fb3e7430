/* SPDX-License-Identifier: Apache-2.0 */
#include "model/param.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

#define PARAM_ALIGN 64
#define INIT_CHUNK (1 << 20)

int64_t slc_expert_first(int64_t E, int ep, int i)
{
    return (i * E + ep - 1) / ep;
}

static int64_t round_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* -- the inventory ---------------------------------------------------------- */

struct shape {
    const char *name;
    enum slc_role role;
    int64_t d[3];
    bool norm, expert;
};

static void add(struct slc_params *ps, const struct slc_spec *s, int layer,
                const struct shape *sh)
{
    struct slc_param *p = &ps->p[ps->n++];

    memset(p, 0, sizeof(*p));
    if (layer < 0)
        snprintf(p->name, sizeof(p->name), "%s", sh->name);
    else
        snprintf(p->name, sizeof(p->name), "layers.%d.%s", layer, sh->name);
    p->role = sh->role;
    p->layer = layer;
    p->count = 1;
    for (int i = 0; i < 3 && sh->d[i]; i++) {
        p->shape[p->ndim++] = sh->d[i];
        p->count *= sh->d[i];
    }
    p->expert = sh->expert;
    p->decay = !sh->norm;
    p->init_std = sh->norm ? 0 : s->init_std;
}

static void add_layer(struct slc_params *ps, const struct slc_spec *s, int l)
{
    const int64_t q = s->NQ * s->D, k = s->NK * s->D;
    const bool full = s->qk_norm == SLC_QK_NORM_FULL;
    const struct shape before[] = {
        {"attn_norm", SLC_ATTN_NORM, {s->H}, true, false},
        {"qkv", SLC_QKV, {q + 2 * k, s->H}, false, false},
        {"q_norm", SLC_Q_NORM, {full ? q : s->D}, true, false},
        {"k_norm", SLC_K_NORM, {full ? k : s->D}, true, false},
        {"attn_out", SLC_ATTN_OUT, {s->H, q}, false, false},
        {"mlp_norm", SLC_MLP_NORM, {s->H}, true, false},
    };
    const struct shape moe[] = {
        {"router", SLC_ROUTER, {s->E, s->H}, false, false},
        {"experts.up", SLC_EXPERT_UP, {s->E, 2 * s->F, s->H}, false, true},
        {"experts.down", SLC_EXPERT_DOWN, {s->E, s->H, s->F}, false, true},
    };
    const struct shape dense[] = {
        {"dense.up", SLC_DENSE_UP, {2 * s->FD, s->H}, false, false},
        {"dense.down", SLC_DENSE_DOWN, {s->H, s->FD}, false, false},
    };

    for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
        if (s->qk_norm != SLC_QK_NORM_NONE ||
            (before[i].role != SLC_Q_NORM && before[i].role != SLC_K_NORM))
            add(ps, s, l, &before[i]);
    for (int i = 0; s->moe[l] && i < 3; i++)
        add(ps, s, l, &moe[i]);
    for (int i = 0; !s->moe[l] && i < 2; i++)
        add(ps, s, l, &dense[i]);
}

static void list(struct slc_params *ps, const struct slc_spec *s)
{
    const struct shape embed = {"embed", SLC_EMBED, {s->V, s->H}, false, false};
    const struct shape norm = {"final_norm", SLC_FINAL_NORM, {s->H}, true, false};
    const struct shape head = {"head", SLC_HEAD, {s->V, s->H}, false, false};

    add(ps, s, -1, &embed);
    for (int l = 0; l < (int)s->L; l++)
        add_layer(ps, s, l);
    add(ps, s, -1, &norm);
    if (!s->tied)
        add(ps, s, -1, &head);
}

/* This rank's part of every parameter, and its place in the flat arrays. */
static void place(struct slc_params *ps, int ep, int index)
{
    for (int i = 0; i < ps->n; i++) {
        struct slc_param *p = &ps->p[i];
        const int64_t row = p->count / p->shape[0];

        p->start = 0;
        p->local = p->count;
        if (p->expert) {
            const int64_t first = slc_expert_first(p->shape[0], ep, index);

            p->start = first * row;
            p->local = slc_expert_first(p->shape[0], ep, index + 1) * row - p->start;
        }
        p->at = ps->local;
        ps->local += round_up(p->local, PARAM_ALIGN);
        ps->total += p->count;
    }
}

static bool narrow(const struct slc_param *p)
{
    switch (p->role) {
    case SLC_QKV:
    case SLC_ATTN_OUT:
    case SLC_EXPERT_UP:
    case SLC_EXPERT_DOWN:
    case SLC_DENSE_UP:
    case SLC_DENSE_DOWN:
        return true;
    default: /* small, or summed over chunks or tokens */
        return false;
    }
}

/* fp32 gradients first, in the order of the weights, then bf16 ones. */
void slc_params_place_grads(struct slc_params *ps, enum slc_grads grads)
{
    ps->grad_bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < ps->n; i++) {
            struct slc_param *p = &ps->p[i];
            const bool low = grads == SLC_GRADS_NARROW && narrow(p);

            if (low != (pass == 1))
                continue;
            p->grad_dtype = low ? SLC_BF16 : SLC_F32;
            p->grad_at = ps->grad_bytes;
            ps->grad_bytes += (size_t)round_up(p->local, PARAM_ALIGN) *
                              slc_dtype_size(p->grad_dtype);
        }
        if (pass == 0)
            ps->grad_added = ps->grad_bytes;
    }
}

static char *weights_of(const struct slc_params *ps, int i)
{
    return (char *)ps->w + (size_t)ps->p[i].at * slc_dtype_size(ps->dtype);
}

static void hide(const struct slc_params *ps, int i, struct slc_queue *q, bool hidden)
{
    slc_mem_hide(q, weights_of(ps, i),
                 (size_t)ps->p[i].local * slc_dtype_size(ps->dtype), hidden);
}

/* Bring fresh memory to zero: pads between parameters are read as whole arrays. */
static int clear(struct slc_params *ps, size_t elem, struct slc_err *e)
{
    struct slc_queue *q = slc_queue_create(ps->b, e);

    if (!q)
        return -1;
    SLC_RUN(q, zero, .dst = ps->w, .bytes = ps->local * (int64_t)elem);
    if (ps->g)
        SLC_RUN(q, zero, .dst = ps->g, .bytes = (int64_t)ps->grad_bytes);
    for (int i = 0; ps->users && i < ps->n; i++)
        hide(ps, i, q, true);
    int rc = slc_queue_sync(q, e);
    slc_queue_destroy(q);
    return rc;
}

int slc_params_list(struct slc_params *ps, const struct slc_spec *s, int ep, int index,
                    struct slc_err *e)
{
    memset(ps, 0, sizeof(*ps));
    if (ep > 1 && ep > s->E)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "parallel.ep is %d but the model has %" PRId64
                        " experts; lower parallel.ep",
                        ep, s->E);
    ps->p = calloc((size_t)(3 + 9 * s->L), sizeof(*ps->p));
    if (!ps->p)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the parameter list");
    list(ps, s);
    place(ps, ep, index);
    slc_params_place_grads(ps, SLC_GRADS_F32);
    return 0;
}

int slc_params_create(struct slc_params *ps, const struct slc_spec *s, int ep,
                      int index, struct slc_backend *b, enum slc_dtype dtype,
                      enum slc_grads grads, struct slc_err *e)
{
    const bool training = grads != SLC_GRADS_NONE;
    const size_t elem = slc_dtype_size(dtype);

    if (slc_params_list(ps, s, ep, index, e) < 0)
        return -1;
    ps->b = b;
    ps->dtype = dtype;
    ps->w = slc_mem_alloc(b, (size_t)ps->local * elem, SLC_MEM_DEVICE, e);
    SLC_ASSERT(grads != SLC_GRADS_NARROW || dtype == SLC_BF16);
    slc_params_place_grads(ps, grads);
    if (ps->w && training)
        ps->g = slc_mem_alloc(b, ps->grad_bytes, SLC_MEM_DEVICE, e);
    if (!ps->w || (training && !ps->g)) {
        slc_err_prefix(e, "%" PRId64 " parameters of this rank", ps->local);
        goto err_release;
    }
    if (b->calls.hide) {
        ps->users = calloc((size_t)ps->n, sizeof(*ps->users));
        if (!ps->users) {
            slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d parameters", ps->n);
            goto err_release;
        }
    }
    if (clear(ps, elem, e) < 0)
        goto err_release;
    return 0;

err_release:
    slc_params_destroy(ps);
    return -1;
}

void slc_params_destroy(struct slc_params *ps)
{
    if (ps->w)
        slc_mem_free(ps->b, ps->w, SLC_MEM_DEVICE);
    if (ps->g)
        slc_mem_free(ps->b, ps->g, SLC_MEM_DEVICE);
    free(ps->users);
    free(ps->p);
    memset(ps, 0, sizeof(*ps));
}

int slc_params_find(const struct slc_params *ps, enum slc_role role, int layer)
{
    for (int i = 0; i < ps->n; i++)
        if (ps->p[i].role == role && ps->p[i].layer == layer)
            return i;
    return -1;
}

/* -- random init ------------------------------------------------------------- */

/* out[0..n) = elements [first, first+n) of the global parameter. */
static void draw(const struct slc_param *p, uint64_t seed, int64_t first, int64_t n,
                 float *out)
{
    const uint64_t name = slc_hash64(p->name, strlen(p->name));
    const int64_t last = first + n;

#pragma omp parallel for schedule(static)
    for (int64_t at = first - first % SLC_RNG_NORMALS; at < last; at += SLC_RNG_NORMALS) {
        const int64_t from = at < first ? first : at;
        const int64_t to = at + SLC_RNG_NORMALS < last ? at + SLC_RNG_NORMALS : last;
        float z[SLC_RNG_NORMALS];

        if (p->init_std > 0)
            slc_rng_normals(seed, SLC_RNG_INIT, name, (uint64_t)at / 4, z);
        for (int64_t i = from; i < to; i++)
            out[i - first] = p->init_std > 0 ? (float)p->init_std * z[i - at] : 1;
    }
}

/* Upload n values to elements at.. of w, in the weights' dtype; low: room for n in bf16. */
static void put(const struct slc_params *ps, char *w, int64_t at, const float *x,
                uint16_t *low, int64_t n, struct slc_queue *q)
{
    const size_t elem = slc_dtype_size(ps->dtype);

    if (ps->dtype == SLC_BF16) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++)
            low[i] = slc_f32_to_bf16(x[i]);
    }
    slc_upload(q, w + (size_t)at * elem, ps->dtype == SLC_BF16 ? (const void *)low : x,
               (size_t)n * elem);
}

int slc_params_init(struct slc_params *ps, uint64_t seed, struct slc_queue *q,
                    struct slc_err *e)
{
    float *chunk = malloc(INIT_CHUNK * (sizeof(float) + sizeof(uint16_t)));

    if (!chunk)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to draw the initial weights");
    for (int i = 0; i < ps->n; i++) {
        const struct slc_param *p = &ps->p[i];
        char *w = (char *)slc_param_acquire(ps, i, q);

        for (int64_t at = 0; at < p->local; at += INIT_CHUNK) {
            const int64_t n = p->local - at < INIT_CHUNK ? p->local - at : INIT_CHUNK;

            draw(p, seed, p->start + at, n, chunk);
            put(ps, w, at, chunk, (uint16_t *)(chunk + INIT_CHUNK), n, q);
        }
        slc_param_release(ps, i, q);
    }
    free(chunk);
    return slc_queue_sync(q, e);
}

/* -- access ------------------------------------------------------------------ */

const void *slc_param_acquire(struct slc_params *ps, int i, struct slc_queue *q)
{
    if (ps->users && ps->users[i]++ == 0)
        hide(ps, i, q, false);
    return weights_of(ps, i);
}

void slc_param_release(struct slc_params *ps, int i, struct slc_queue *q)
{
    if (ps->users && --ps->users[i] == 0)
        hide(ps, i, q, true);
}

float *slc_param_grad(struct slc_params *ps, int i)
{
    enum slc_dtype dtype;
    float *g = slc_param_grad_of(ps, i, &dtype);

    SLC_ASSERT(dtype == SLC_F32);
    return g;
}

void *slc_param_grad_of(struct slc_params *ps, int i, enum slc_dtype *dtype)
{
    SLC_ASSERT(ps->g);
    *dtype = ps->p[i].grad_dtype;
    return (char *)ps->g + ps->p[i].grad_at;
}

void slc_param_grad_ready(struct slc_params *ps, int i, struct slc_queue *q)
{
    if (ps->ready)
        ps->ready(ps->ready_ctx, i, q);
}
