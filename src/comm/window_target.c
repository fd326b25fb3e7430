/* SPDX-License-Identifier: Apache-2.0 */
/* The way of puts and signals to one member of a window. */
#include "comm/window_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct slc_op *slc_target_op(struct slc_target *t, size_t i)
{
    return &t->ops[i & (t->room - 1)];
}

/* One more place in the ring; grows only until the most ever posted at once is known.
 */
int slc_target_push(struct slc_target *t, const struct slc_op *op, struct slc_err *e)
{
    if (t->tail - t->head == t->room) {
        size_t room = t->room ? 2 * t->room : 16;
        struct slc_op *ops = malloc(room * sizeof(*ops));

        if (!ops)
            return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %zu window operations",
                            room);
        for (size_t i = t->head; i < t->tail; i++)
            ops[i & (room - 1)] = *slc_target_op(t, i);
        free(t->ops);
        t->ops = ops;
        t->room = room;
    }
    *slc_target_op(t, t->tail++) = *op;
    return 0;
}

static void count_busy(struct slc_target *t)
{
    bool busy =
        !t->lost && (t->head != t->tail || t->in_flight || t->request || t->dirty);

    if (t->busy == busy)
        return;
    t->busy = busy;
    t->window->busy += busy ? 1 : -1;
    t->window->g->w->n_busy += busy ? 1 : -1;
}

void slc_target_lose(struct slc_target *t, ucs_status_t status)
{
    if (t->lost)
        return;
    t->lost = true;
    t->window->lost++;
    t->head = t->tail;
    t->dirty = false;
    count_busy(t);
    slc_heart_suspect(t->window->g->w, t->rank, ucs_status_string(status));
}

struct slc_slot *slc_slot_take(struct slc_target *t)
{
    for (int i = 0; i < SLC_PUTS_IN_FLIGHT; i++)
        if (!t->slots[i].target) {
            t->slots[i].target = t;
            t->in_flight++;
            return &t->slots[i];
        }
    SLC_BUG("no free slot for a window operation");
}

static void slot_free(struct slc_slot *slot, ucs_status_t status)
{
    struct slc_target *t = slot->target;

    slot->target = NULL;
    t->in_flight--;
    if (status != UCS_OK)
        slc_target_lose(t, status);
}

void slc_slot_done(void *request, ucs_status_t status, void *slot)
{
    slot_free(slot, status);
    ucp_request_free(request);
}

int slc_slot_started(struct slc_slot *slot, void *request)
{
    if (UCS_PTR_IS_PTR(request))
        return 0; /* slc_slot_done comes */
    slot_free(slot, request ? UCS_PTR_STATUS(request) : UCS_OK);
    return request ? -1 : 0;
}

/* Where the bytes go at the target, whatever the way. Returns -1 when it is lost. */
static int start_put(struct slc_target *t, size_t offset, const char *src, size_t bytes)
{
    struct slc_world *w = t->window->g->w;

    if (t->near) {
        memcpy(t->near + offset, src, bytes);
        return 0;
    }
    w->traffic.far_bytes += bytes;
    struct slc_slot *slot = slc_slot_take(t);
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = slc_slot_done,
        .user_data = slot,
    };
    return slc_slot_started(slot, ucp_put_nbx(w->peers[t->rank].ep, src, bytes,
                                              t->base + offset, t->rkey, &param));
}

/* True when the put is fully on its way. */
static bool advance_put(struct slc_target *t, struct slc_op *op)
{
    while (t->sent < op->bytes && t->in_flight < SLC_PUTS_IN_FLIGHT) {
        size_t left = op->bytes - t->sent;
        size_t chunk = left < t->chunk ? left : t->chunk;

        if (start_put(t, op->offset + t->sent, op->src + t->sent, chunk) < 0)
            return false;
        t->sent += chunk;
    }
    if (t->sent < op->bytes)
        return false;
    t->sent = 0;
    return true;
}

/* 1: the request of this target is done, 0: not yet, -1: lost. */
static int request_done(struct slc_target *t)
{
    ucs_status_t status;

    if (!t->request)
        return 1;
    if (UCS_PTR_IS_ERR(t->request)) {
        status = UCS_PTR_STATUS(t->request);
    } else {
        status = ucp_request_check_status(t->request);
        if (status == UCS_INPROGRESS)
            return 0;
        ucp_request_free(t->request);
    }
    t->request = NULL;
    if (status == UCS_OK)
        return 1;
    slc_target_lose(t, status);
    return -1;
}

static int start_flush(struct slc_target *t)
{
    ucp_request_param_t param = {.op_attr_mask = 0};

    t->request = ucp_ep_flush_nbx(t->window->g->w->peers[t->rank].ep, &param);
    return request_done(t);
}

/* Put, flush, signal: a signal never relies on the network keeping order. */
static bool advance_signal(struct slc_target *t, struct slc_op *op)
{
    ucp_request_param_t param = {.op_attr_mask = 0};

    if (t->near) {
        __atomic_store_n((uint64_t *)(t->near + op->offset), op->value,
                         __ATOMIC_RELEASE);
        return true;
    }
    if (t->stage == SLC_STAGE_IDLE) {
        if (t->in_flight)
            return false;
        t->stage = SLC_STAGE_FLUSH;
        if (start_flush(t) < 0)
            return false;
    }
    if (t->stage == SLC_STAGE_FLUSH) {
        if (request_done(t) <= 0)
            return false;
        t->stage = SLC_STAGE_PUT;
        t->value = op->value;
        t->request = ucp_put_nbx(t->window->g->w->peers[t->rank].ep, &t->value, 8,
                                 t->base + op->offset, t->rkey, &param);
        t->dirty = true;
    }
    if (request_done(t) <= 0)
        return false;
    t->stage = SLC_STAGE_IDLE;
    return true;
}

/* The last signal, too, must have reached its target before all is said to be flushed.
 */
static void flush_last(struct slc_target *t)
{
    if (t->stage == SLC_STAGE_IDLE) {
        t->stage = SLC_STAGE_FLUSH;
        if (start_flush(t) < 0)
            return;
    }
    if (request_done(t) > 0) {
        t->stage = SLC_STAGE_IDLE;
        t->dirty = false;
    }
}

void slc_target_done(struct slc_target *t, size_t i)
{
    t->current = SIZE_MAX;
    slc_target_op(t, i)->kind = SLC_OP_DONE;
    while (t->head < t->tail && slc_target_op(t, t->head)->kind == SLC_OP_DONE)
        t->head++;
}

static void advance_puts(struct slc_target *t)
{
    size_t i;

    while (!t->lost && (i = slc_order_next(t)) != SIZE_MAX) {
        struct slc_op *op = slc_target_op(t, i);

        t->current = i;
        if (!(op->kind == SLC_OP_PUT ? advance_put(t, op) : advance_signal(t, op)))
            break;
        slc_target_done(t, i);
    }
}

void slc_target_advance(struct slc_target *t, bool all)
{
    if (t->window->g->w->peers[t->rank].dead)
        slc_target_lose(t, UCS_ERR_CONNECTION_RESET);
    if (!t->near && t->path == SLC_PATH_MESSAGE)
        slc_message_advance(t, all);
    else
        advance_puts(t);
    if (!t->lost && t->head == t->tail && t->dirty)
        flush_last(t);
    count_busy(t);
}

int slc_windows_progress(struct slc_world *w, struct slc_err *e)
{
    (void)e;
    for (int i = 0; i < w->n_windows; i++) {
        struct slc_window *win = w->windows[i];

        for (int m = 0; win && win->busy && m < win->g->size; m++)
            if (win->targets[m].busy)
                slc_target_advance(&win->targets[m], true);
    }
    return 0;
}
