/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/dispatch.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "moe/dispatch_private.h"

#define PAGE 4096
/* Bytes of records packed and put at a time, for each far member: they are still in the
 * core's cache when they are put. */
#define CHUNK (256u << 10)
/* ... where they travel in messages: small enough for two to join in one. With messages of
 * 200 KiB an exchange of 16 MiB over TCP takes a third longer. */
#define CHUNK_MESSAGE (60u << 10)
#define CHUNKS_STAGED 16

static size_t pad(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

size_t slc_line_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       enum slc_line kind, uint64_t number, int member)
{
    size_t i = ((size_t)kind * 2 + number % 2) * (size_t)d->n->R + (size_t)member;

    return f->lines + i * SLC_LINE_BYTES;
}

size_t slc_half_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       uint64_t use)
{
    return f->window + use % 2 * (pad((size_t)d->n->cap * d->n->stride) +
                                  pad((size_t)d->n->cap * d->n->meta_x));
}

size_t slc_half_meta(const struct slc_dispatch *d, const struct slc_flight *f, uint64_t use)
{
    return slc_half_offset(d, f, use) + pad((size_t)d->n->cap * d->n->stride);
}

size_t slc_combine_meta(const struct slc_dispatch *d, const struct slc_flight *f)
{
    return f->combine + pad((size_t)(d->n->T * d->n->S) * d->n->stride);
}

bool slc_line_reached(const struct slc_dispatch *d, const struct slc_flight *f,
                      enum slc_line kind, uint64_t number, int from, uint64_t value)
{
    return slc_window_load(d->window, slc_line_offset(d, f, kind, number, from)) >=
           value;
}

int slc_line_signal(struct slc_dispatch *d, struct slc_flight *f, enum slc_line kind,
                    uint64_t number, int to, uint64_t value, struct slc_err *e)
{
    return slc_window_signal(d->window, to,
                             slc_line_offset(d, f, kind, number, d->n->me), value, e);
}

/* Offsets of every slot; returns the size of the window. */
static size_t layout(struct slc_dispatch *d)
{
    const struct slc_moe_shape *n = d->n;
    size_t at = 0, R = (size_t)n->R, records = (size_t)(n->T * n->S);

    d->row_stride = (R + (size_t)n->E) * sizeof(int32_t);
    d->row_stride = (d->row_stride + 63) / 64 * 64;
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        f->lines = at;
        at = pad(at + SLC_LINES * 2 * R * SLC_LINE_BYTES);
        f->rows = at;
        at = pad(at + 2 * R * d->row_stride);
        f->window = at = (at + PAGE - 1) / PAGE * PAGE;
        at = slc_half_offset(d, f, 1) + (slc_half_offset(d, f, 1) - f->window);
        f->combine = at = (at + PAGE - 1) / PAGE * PAGE;
        at = slc_combine_meta(d, f) + (d->o.training ? pad(records * n->meta_s) : 0);
        f->early_at = at = pad(at);
        at += 2 * R * d->early_bytes;
    }
    return at;
}

static void carve_host(struct slc_dispatch *d, struct slc_arena *a)
{
    const struct slc_moe_shape *n = d->n;
    size_t R = (size_t)n->R;

    d->near = slc_arena_take(a, "moe plan", R * sizeof(*d->near));
    d->message = slc_arena_take(a, "moe plan", R * sizeof(*d->message));
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        slc_plan_carve(&f->plan, n->R, a);
        f->host_rows = slc_arena_take(a, "moe plan", R * sizeof(*f->host_rows));
        f->row = slc_arena_take(a, "moe plan", d->row_stride);
        slc_early_carve(d, f, a);
    }
}

static void take_staging(struct slc_staging *s, struct slc_arena *a, size_t bytes)
{
    s->size = bytes;
    s->base = slc_arena_take(a, "moe staging", bytes);
}

static void carve_staging(struct slc_dispatch *d, struct slc_arena *a)
{
    const struct slc_moe_shape *n = d->n;
    size_t chunk =
        (size_t)(d->chunk_tokens * n->S) * (n->stride + n->meta_x) + 64 * (size_t)n->R;
    size_t returned = (size_t)d->chunk_records * (n->stride + n->meta_s) + 64;
    int staged = d->chunks < CHUNKS_STAGED ? d->chunks : CHUNKS_STAGED;

    for (int i = 0; i < d->o.slots && d->n_far; i++) {
        take_staging(&d->flight[i].out, a, (size_t)staged * chunk);
        take_staging(&d->flight[i].back, a, (size_t)d->returns * returned);
        d->flight[i].early_out = slc_arena_take(a, "moe staging", slc_early_staging(d));
    }
}

/* The lists of chunks, with far members. */
static void carve_chunks(struct slc_dispatch *d, struct slc_arena *a)
{
    const struct slc_moe_shape *n = d->n;

    if (d->n_far == 0)
        return;
    d->slots = slc_arena_take(a, "moe plan", (size_t)(2 * n->T * n->S) * sizeof(int32_t));
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        f->bound = slc_arena_take(
            a, "moe plan", (size_t)(d->chunks + 1) * (size_t)n->R * sizeof(int32_t));
        f->returning =
            slc_arena_take(a, "moe plan", (size_t)d->returns * sizeof(*f->returning));
    }
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* How much is packed and summed at a time. */
static void set_chunks(struct slc_dispatch *d)
{
    const struct slc_moe_shape *n = d->n;
    int64_t most = n->S < d->n_far ? n->S : d->n_far; /* records of a token that are put */
    int64_t chunk = d->by_message ? CHUNK_MESSAGE : CHUNK;

    d->chunk_tokens = n->T;
    if (d->n_far)
        d->chunk_tokens = ceil_div(chunk * d->n_far, most * (int64_t)n->stride);
    if (d->chunk_tokens > n->T)
        d->chunk_tokens = n->T;
    d->chunks = (int)ceil_div(n->T, d->chunk_tokens);
    d->chunk_records = ceil_div(chunk, (int64_t)n->stride);
    if (d->chunk_records > n->cap)
        d->chunk_records = n->cap;
    d->returns = CHUNKS_STAGED;
}

static void carve_device(struct slc_dispatch *d, struct slc_arena *a)
{
    size_t list = (size_t)d->n->R * sizeof(struct slc_rows);

    d->first_expert =
        slc_arena_take(a, "moe lists", (size_t)(d->n->R + 1) * sizeof(int32_t));
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        f->pack_rows = slc_arena_take(a, "moe lists", list);
        f->sum_rows = slc_arena_take(a, "moe lists", list);
        f->home_rows = slc_arena_take(a, "moe lists", list);
    }
}

static void carve_host_all(struct slc_dispatch *d, struct slc_arena *a)
{
    carve_host(d, a);
    carve_chunks(d, a);
    carve_staging(d, a);
}

static void *carve(struct slc_dispatch *d, enum slc_mem_kind kind,
                   void (*take)(struct slc_dispatch *, struct slc_arena *),
                   struct slc_err *e)
{
    struct slc_arena a;
    void *base;

    slc_arena_measure(&a);
    take(d, &a);
    base = slc_mem_alloc(d->o.backend, slc_arena_size(&a), kind, e);
    if (!base)
        return NULL;
    slc_arena_carve(&a, base);
    take(d, &a);
    return base;
}

static int make_events(struct slc_dispatch *d, struct slc_err *e)
{
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];
        struct slc_event **all[] = {&f->packed, &f->read[0], &f->read[1],
                                    &f->summed_event, &f->combined};

        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++) {
            *all[j] = slc_event_create(d->o.backend, e);
            if (!*all[j])
                return -1;
        }
    }
    return 0;
}

/* Windows are symmetric: members that differ in a size would write past each other. */
static int compare_shapes(struct slc_dispatch *d, size_t bytes, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    int64_t mine[] = {n->T,           n->H,      n->E,
                      n->K,           n->cap,    (int64_t)n->stride,
                      (int64_t)bytes, d->o.slots};
    int64_t *all = calloc((size_t)n->R, sizeof(mine));
    int rc = -1;

    if (!all)
        return slc_errf(e, SLC_EXIT_SYSTEM, "out of memory for the shapes of %d ranks",
                        n->R);
    if (slc_allgather(d->o.group, mine, all, sizeof(mine), e) < 0)
        goto done;
    for (int i = 0; i < n->R; i++) {
        if (memcmp((char *)all + (size_t)i * sizeof(mine), mine, sizeof(mine)) != 0) {
            slc_errf(e, SLC_EXIT_CONFIG,
                     "MoE sizes of rank %d and rank %d differ: all ranks of an expert "
                     "group need the same run file",
                     slc_group_member(d->o.group, n->me),
                     slc_group_member(d->o.group, i));
            goto done;
        }
    }
    rc = 0;
done:
    free(all);
    return rc;
}

/* Windows that ops read or write: this rank's and those of near members. */
static char *window_of(struct slc_dispatch *d, int i)
{
    return slc_window_near(d->window, (d->n->me + i) % d->n->R);
}

static int map_windows(struct slc_dispatch *d, size_t bytes, struct slc_err *e)
{
    struct slc_backend *b = d->o.backend;

    for (; b->calls.host_map && d->mapped < d->n->R; d->mapped++) {
        char *p = window_of(d, d->mapped);

        if (p && b->calls.host_map(b, p, bytes, e) < 0)
            return -1;
    }
    return 0;
}

static void unmap_windows(struct slc_dispatch *d)
{
    while (d->mapped > 0) {
        char *p = window_of(d, --d->mapped);

        if (p)
            d->o.backend->calls.host_unmap(d->o.backend, p);
    }
}

static int upload_first_experts(struct slc_dispatch *d, struct slc_err *e)
{
    const struct slc_moe_shape *n = d->n;
    struct slc_queue *q = slc_queue_create(d->o.backend, e);
    int32_t *first = calloc((size_t)n->R + 1, sizeof(*first));
    int rc = -1;

    if (!q || !first) {
        if (q)
            slc_errf(e, SLC_EXIT_SYSTEM, "out of memory for %d expert ranges", n->R);
        goto done;
    }
    for (int r = 0; r <= n->R; r++)
        first[r] = (int32_t)slc_expert_first(n->E, n->R, r);
    slc_upload(q, d->first_expert, first, (size_t)(n->R + 1) * sizeof(*first));
    rc = slc_queue_sync(q, e);
done:
    free(first);
    slc_queue_destroy(q);
    return rc;
}

struct slc_dispatch *slc_dispatch_create(const struct slc_dispatch_options *o,
                                         struct slc_err *e)
{
    struct slc_dispatch *d = calloc(1, sizeof(*d));
    size_t bytes;

    if (!d) {
        slc_errf(e, SLC_EXIT_SYSTEM, "out of memory for the token exchange");
        return NULL;
    }
    d->o = *o;
    d->n = o->shape;
    d->world = slc_group_world(o->group);
    d->early_bytes = slc_early_bytes(d->n);
    bytes = layout(d);
    if (compare_shapes(d, bytes, e) < 0)
        goto err_free;
    d->window = slc_window_create(o->group, bytes, e);
    if (!d->window)
        goto err_free;
    for (int i = 0; i < d->n->R; i++) {
        d->n_far += i != d->n->me && (o->force_far || !slc_window_near(d->window, i));
        d->by_message |= slc_window_by_message(d->window, i);
    }
    set_chunks(d);
    if (map_windows(d, bytes, e) < 0)
        goto err_window;
    d->device = carve(d, SLC_MEM_DEVICE, carve_device, e);
    if (!d->device)
        goto err_window;
    d->host = carve(d, SLC_MEM_HOST, carve_host_all, e);
    if (!d->host)
        goto err_device;
    for (int i = 0; i < d->n->R; i++) {
        bool far = o->force_far && i != d->n->me;

        d->near[i] = far ? NULL : slc_window_near(d->window, i);
        d->message[i] = !d->near[i] && slc_window_by_message(d->window, i);
    }
    if (make_events(d, e) < 0 || upload_first_experts(d, e) < 0) {
        slc_dispatch_destroy(d);
        return NULL;
    }
    return d;

err_device:
    slc_mem_free(o->backend, d->device, SLC_MEM_DEVICE);
err_window:
    unmap_windows(d);
    slc_window_destroy(d->window);
err_free:
    free(d);
    return NULL;
}

void slc_dispatch_destroy(struct slc_dispatch *d)
{
    if (!d)
        return;
    for (int i = 0; i < d->o.slots; i++) {
        struct slc_flight *f = &d->flight[i];

        slc_event_destroy(f->packed);
        slc_event_destroy(f->read[0]);
        slc_event_destroy(f->read[1]);
        slc_event_destroy(f->summed_event);
        slc_event_destroy(f->combined);
    }
    unmap_windows(d);
    slc_window_destroy(d->window);
    slc_mem_free(d->o.backend, d->host, SLC_MEM_HOST);
    slc_mem_free(d->o.backend, d->device, SLC_MEM_DEVICE);
    free(d);
}

size_t slc_dispatch_bytes(const struct slc_dispatch *d)
{
    struct slc_dispatch copy = *d;
    struct slc_arena a;

    slc_arena_measure(&a);
    carve_staging(&copy, &a);
    return slc_window_bytes(d->window) + slc_arena_size(&a);
}
