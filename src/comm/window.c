/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: their memory, and what is posted to near and far members. */
#include "comm/window_private.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"

/* By messages, a put of fewer bytes waits for a signal or progress, to go with what is
 * posted next: a message costs more than the wait. */
#define JOIN (64u << 10)

/* --- creation
 * ---------------------------------------------------------------------------- */

struct card {
    uint64_t base, id;
    size_t rkey_len;
};

static int take_id(struct slc_window *win, struct slc_err *e)
{
    struct slc_world *w = win->g->w;
    int i = 0;

    while (i < w->n_windows && w->windows[i])
        i++;
    if (i > UINT16_MAX)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED, "not supported: more than %d windows",
                        i);
    if (i == w->n_windows) {
        struct slc_window **more = realloc(w->windows, sizeof(*more) * (size_t)(i + 1));

        if (!more)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a window");
        w->windows = more;
        w->n_windows++;
    }
    w->windows[i] = win;
    win->id = (uint16_t)i;
    return 0;
}

/* UCX allocates: shared memory that peers map, so that their writes need no help here.
 */
static int map_memory(struct slc_window *win, struct slc_err *e)
{
    struct slc_world *w = win->g->w;
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        .length = win->bytes,
        .flags = UCP_MEM_MAP_ALLOCATE,
        .memory_type = UCS_MEMORY_TYPE_HOST,
    };
    ucp_mem_attr_t attr = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    ucs_status_t rc = ucp_mem_map(w->ctx, &params, &win->memh);

    if (rc != UCS_OK) {
        win->memh = NULL;
        return slc_errf(e, SLC_EXIT_SYSTEM,
                        "no %zu bytes of memory shared between ranks on "
                        "%s: %s (see the size of /dev/shm, kernel.shmmax)",
                        win->bytes, slc_world_host(w, w->rank), ucs_status_string(rc));
    }
    rc = ucp_mem_query(win->memh, &attr);
    if (rc != UCS_OK)
        return slc_ucx_error(e, "ucp_mem_query", rc);
    win->local = attr.address;
    return 0;
}

static int plain_memory(struct slc_window *win, struct slc_err *e)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    win->local = aligned_alloc(page, (win->bytes + page - 1) / page * page);
    return win->local ? 0
                      : slc_errf(e, SLC_EXIT_SYSTEM,
                                 "no memory for a window of %zu bytes", win->bytes);
}

static int open_target(struct slc_window *win, int i, const struct card *card,
                       const void *rkey, struct slc_err *e)
{
    struct slc_world *w = win->g->w;
    struct slc_target *t = &win->targets[i];
    struct slc_peer *peer = &w->peers[t->rank];
    void *mapped = NULL;
    ucp_ep_h ep = slc_peer_ep(w, t->rank, e);

    if (!ep)
        return -1;
    ucs_status_t rc = ucp_ep_rkey_unpack(ep, rkey, &t->rkey);
    if (rc != UCS_OK)
        return slc_ucx_error(e, "ucp_ep_rkey_unpack", rc);
    t->base = card->base;
    t->id = (uint16_t)card->id;
    t->path = peer->path;
    if (peer->same_machine && ucp_rkey_ptr(t->rkey, card->base, &mapped) != UCS_OK)
        t->path =
            SLC_PATH_MESSAGE; /* a put would be emulated and need the target's help */
    if (t->path == SLC_PATH_MESSAGE && slc_message_open(t, peer->lanes, e) < 0)
        return -1;
    if (mapped && peer->node == w->node && !w->options.force_far)
        t->near = mapped;
    peer->chosen = t->near ? SLC_PATH_NEAR : t->path;
    return 0;
}

/* Tell all members where my window is and how to reach it. */
static int exchange_keys(struct slc_window *win, struct slc_err *e)
{
    struct slc_group *g = win->g;
    struct card *cards = calloc((size_t)g->size, sizeof(*cards));
    void *packed = NULL;
    char *keys = NULL;
    size_t len = 0, most = 0;
    int rc = -1;
    ucs_status_t status = ucp_rkey_pack(g->w->ctx, win->memh, &packed, &len);

    if (status != UCS_OK || !cards) {
        slc_ucx_error(e, "ucp_rkey_pack",
                      status != UCS_OK ? status : UCS_ERR_NO_MEMORY);
        goto out;
    }
    cards[g->index] = (struct card){(uintptr_t)win->local, win->id, len};
    if (slc_allgather(g, &cards[g->index], cards, sizeof(*cards), e) < 0)
        goto out;
    for (int i = 0; i < g->size; i++)
        most = cards[i].rkey_len > most ? cards[i].rkey_len : most;
    keys = calloc((size_t)g->size, most);
    if (!keys) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d window keys", g->size);
        goto out;
    }
    memcpy(keys + (size_t)g->index * most, packed, len);
    if (slc_allgather(g, keys + (size_t)g->index * most, keys, most, e) < 0)
        goto out;
    rc = 0;
    for (int i = 0; rc == 0 && i < g->size; i++)
        if (i != g->index)
            rc = open_target(win, i, &cards[i], keys + (size_t)i * most, e);
out:
    if (packed)
        ucp_rkey_buffer_release(packed);
    free(keys);
    free(cards);
    return rc;
}

static void release(struct slc_window *win)
{
    struct slc_group *g = win->g;

    for (int i = 0; win->targets && i < g->size; i++) {
        struct slc_target *t = &win->targets[i];

        if (t->rkey && !slc_fail_known())
            ucp_rkey_destroy(t->rkey);
        free(t->ops);
        free(t->held);
    }
    if (win->memh) {
        if (!slc_fail_known()) /* a peer may still write: the end of the process frees
                                  it */
            ucp_mem_unmap(g->w->ctx, win->memh);
    } else {
        free(win->local);
    }
    if (g->w->n_windows > win->id && g->w->windows[win->id] == win)
        g->w->windows[win->id] = NULL;
    free(win->targets);
    free(win);
}

struct slc_window *slc_window_create(struct slc_group *g, size_t bytes,
                                     struct slc_err *e)
{
    struct slc_window *win = calloc(1, sizeof(*win));

    if (!win) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a window");
        return NULL;
    }
    win->g = g;
    win->bytes = bytes ? bytes : 1;
    win->targets = calloc((size_t)g->size, sizeof(*win->targets));
    if (!win->targets) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a window");
        goto err_release;
    }
    for (int i = 0; i < g->size; i++) {
        win->targets[i].window = win;
        win->targets[i].rank = g->members[i];
        win->targets[i].current = SIZE_MAX;
        win->targets[i].chunk = SLC_PUT_CHUNK;
    }
    if (take_id(win, e) < 0 ||
        (g->size > 1 ? map_memory(win, e) : plain_memory(win, e)) < 0)
        goto err_release;
    memset(win->local, 0, win->bytes);
    win->targets[g->index].near = win->local;
    if (g->size > 1 && (exchange_keys(win, e) < 0 || slc_barrier(g, e) < 0))
        goto err_release;
    return win;

err_release:
    release(win);
    return NULL;
}

/* All that was sent to me has arrived when I have seen as many messages as were sent.
 */
static int drain(struct slc_window *win, struct slc_err *e)
{
    struct slc_group *g = win->g;
    struct slc_world *w = g->w;
    struct slc_wait wait = {0};
    uint64_t *sent = calloc((size_t)g->size * (size_t)g->size, sizeof(*sent));
    int rc = -1;

    if (!sent)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to close a window");
    while (!slc_window_flushed(win))
        if (slc_wait_step(w, &wait, e) < 0)
            goto out;
    for (int i = 0; i < g->size; i++)
        sent[g->index * g->size + i] = win->targets[i].messages;
    if (slc_allgather(g, sent + g->index * g->size, sent,
                      sizeof(*sent) * (size_t)g->size, e) < 0)
        goto out;
    for (int i = 0; i < g->size; i++)
        while (win->targets[i].arrived < sent[i * g->size + g->index])
            if (slc_wait_step(w, &wait, e) < 0)
                goto out;
    rc = slc_barrier(g, e);
out:
    free(sent);
    return rc;
}

void slc_window_destroy(struct slc_window *win)
{
    struct slc_err e = SLC_ERR_INIT;

    if (!win)
        return;
    /* When this fails a failure is known, and the caller hears of it elsewhere. */
    if (win->g->size > 1 && !slc_fail_known())
        drain(win, &e);
    release(win);
}

/* --- use
 * --------------------------------------------------------------------------------- */

void *slc_window_local(struct slc_window *win)
{
    return win->local;
}

size_t slc_window_bytes(const struct slc_window *win)
{
    return win->bytes;
}

void *slc_window_near(struct slc_window *win, int i)
{
    return win->targets[i].near;
}

bool slc_window_by_message(const struct slc_window *win, int i)
{
    return !win->targets[i].near && win->targets[i].path == SLC_PATH_MESSAGE;
}

static void check_range(const struct slc_window *win, int i, size_t offset,
                        size_t bytes)
{
    if (i < 0 || i >= win->g->size || offset > win->bytes ||
        bytes > win->bytes - offset)
        SLC_BUG("write of %zu bytes at %zu of member %d is outside the window of %zu",
                bytes, offset, i, win->bytes);
}

static int post(struct slc_target *t, const struct slc_op *op, struct slc_err *e)
{
    struct slc_world *w = t->window->g->w;

    if (t->lost)
        return slc_peer_lost(w, t->rank, "connection lost", e);
    if ((w->options.test_seed ? slc_order_post : slc_target_push)(t, op, e) < 0)
        return -1;
    slc_target_advance(t, op->bytes >= JOIN || w->options.test_seed != 0);
    return 0;
}

int slc_window_put(struct slc_window *win, int i, size_t offset, const void *src,
                   size_t bytes, struct slc_err *e)
{
    struct slc_target *t = &win->targets[i];
    struct slc_op op = {
        .kind = SLC_OP_PUT, .offset = offset, .bytes = bytes, .src = src};

    check_range(win, i, offset, bytes);
    if (bytes == 0)
        return 0;
    if (t->near && i != win->g->index)
        win->g->w->traffic.near_bytes += bytes;
    if (t->near && !win->g->w->options.test_seed) {
        memcpy(t->near + offset, src, bytes);
        return 0;
    }
    return post(t, &op, e);
}

int slc_window_signal(struct slc_window *win, int i, size_t offset, uint64_t value,
                      struct slc_err *e)
{
    struct slc_target *t = &win->targets[i];
    struct slc_op op = {.kind = SLC_OP_SIGNAL, .offset = offset, .value = value};

    check_range(win, i, offset, 8);
    SLC_ASSERT(offset % 8 == 0);
    if (t->near && !win->g->w->options.test_seed) {
        __atomic_store_n((uint64_t *)(t->near + offset), value, __ATOMIC_RELEASE);
        return 0;
    }
    return post(t, &op, e);
}

uint64_t slc_window_load(struct slc_window *win, size_t offset)
{
    return __atomic_load_n((uint64_t *)(win->local + offset), __ATOMIC_ACQUIRE);
}

bool slc_window_flushed(struct slc_window *win)
{
    return win->busy == 0 && win->lost == 0;
}
