/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows over a lane without puts (TCP): the same operations as active messages. The
 * target must drive its worker. A signal carries the number of data messages before it
 * and is held back until they all arrived, so that no order between messages is relied
 * on.
 */
#include "comm/window_private.h"

#include <stdlib.h>
#include <string.h>

#define AM_WINDOW 1
#define HEADERS 256 /* of UCX and ours, in the segment of a message */

/* Bytes that one TCP message of UCX may have: UCX_TCP_RX_SEG_SIZE, see slc_ucx_prepare. */
static size_t tcp_segment(void)
{
    const char *text = getenv("UCX_TCP_RX_SEG_SIZE");
    char *end = NULL;
    size_t n = text ? strtoul(text, &end, 10) : 0;

    if (n && (*end == 'k' || *end == 'K'))
        n <<= 10;
    else if (n && (*end == 'm' || *end == 'M'))
        n <<= 20;
    return n >= 8192 ? n : 65536;
}

void slc_message_open(struct slc_target *t, const char *lanes)
{
    /*
     * Over TCP a rendezvous costs a round trip, and a message of several segments is put
     * together in memory of UCX first. One of one segment is read from the socket and
     * copied into the window, which is all that a stream does.
     */
    if (strcmp(lanes, "tcp") != 0)
        return;
    t->eager = true;
    t->chunk = (tcp_segment() - HEADERS) & ~(size_t)63;
}

static int send_message(struct slc_slot *slot, const void *data, size_t bytes)
{
    struct slc_target *t = slot->target;
    struct slc_world *w = t->window->g->w;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_FLAGS,
        .flags = t->eager ? UCP_AM_SEND_FLAG_EAGER : 0,
        .cb.send = slc_slot_done,
        .user_data = slot,
    };

    return slc_slot_started(slot, ucp_am_send_nbx(w->peers[t->rank].ep, AM_WINDOW,
                                                  &slot->header, sizeof(slot->header),
                                                  data, bytes, &param));
}

static struct slc_slot *message(struct slc_target *t, size_t offset)
{
    struct slc_slot *slot = slc_slot_take(t);

    slot->header = (struct slc_window_header){
        .window = t->id,
        .from = (uint16_t)t->window->g->index,
        .offset = offset,
    };
    return slot;
}

int slc_message_put(struct slc_target *t, size_t offset, const void *src, size_t bytes)
{
    t->messages++;
    return send_message(message(t, offset), src, bytes);
}

int slc_message_signal(struct slc_target *t, size_t offset, uint64_t value)
{
    struct slc_slot *slot = message(t, offset);

    slot->header.signal = 1;
    slot->header.value = value;
    slot->header.count = t->messages;
    return send_message(slot, NULL, 0);
}

static void store(struct slc_target *t, uint64_t offset, uint64_t value)
{
    __atomic_store_n((uint64_t *)(t->window->local + offset), value, __ATOMIC_RELEASE);
}

/* Let go of held signals, in order, as far as their data is here. */
static void release_held(struct slc_target *t)
{
    size_t n = 0;

    while (n < t->n_held && t->held[n].count <= t->arrived) {
        store(t, t->held[n].offset, t->held[n].value);
        n++;
    }
    if (n == 0)
        return;
    t->n_held -= n;
    memmove(t->held, t->held + n, t->n_held * sizeof(*t->held));
}

static void hold(struct slc_target *t, const struct slc_window_header *h)
{
    size_t at = t->n_held;

    if (t->n_held == t->held_room) {
        size_t room = t->held_room ? 2 * t->held_room : 16;
        struct slc_held *more = realloc(t->held, room * sizeof(*more));

        SLC_ASSERT(more != NULL); /* no way to fail from inside a UCX callback */
        t->held = more;
        t->held_room = room;
    }
    /* Signals may overtake each other, too: keep the order in which they were posted.
     */
    while (at > 0 && t->held[at - 1].count > h->count)
        at--;
    memmove(t->held + at + 1, t->held + at, (t->n_held - at) * sizeof(*t->held));
    t->held[at] = (struct slc_held){h->offset, h->value, h->count};
    t->n_held++;
}

static void data_arrived(void *request, ucs_status_t status, size_t length, void *arg)
{
    struct slc_target *t = arg;

    (void)length;
    if (status == UCS_OK) {
        t->arrived++;
        release_held(t);
    } else {
        slc_target_lose(t, status);
    }
    if (request)
        ucp_request_free(request);
}

/* A large message: let UCX bring it straight into the window. */
static ucs_status_t fetch(struct slc_target *t, void *desc, size_t length,
                          uint64_t offset)
{
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = data_arrived,
        .user_data = t,
    };
    void *request = ucp_am_recv_data_nbx(t->window->g->w->worker, desc,
                                         t->window->local + offset, length, &param);

    if (!UCS_PTR_IS_PTR(request)) /* done at once, or failed */
        data_arrived(NULL, UCS_PTR_STATUS(request), length, t);
    return UCS_INPROGRESS;
}

static ucs_status_t receive(void *arg, const void *header, size_t header_length,
                            void *data, size_t length, const ucp_am_recv_param_t *param)
{
    struct slc_world *w = arg;
    struct slc_window_header h;

    SLC_ASSERT(header_length == sizeof(h));
    memcpy(&h, header, sizeof(h));
    SLC_ASSERT(h.window < w->n_windows && w->windows[h.window]);
    struct slc_window *win = w->windows[h.window];
    SLC_ASSERT(h.from < win->g->size && h.offset <= win->bytes);
    struct slc_target *t = &win->targets[h.from];
    if (h.signal) {
        hold(t, &h);
        release_held(t);
        return UCS_OK;
    }
    SLC_ASSERT(length <= win->bytes - h.offset);
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)
        return fetch(t, data, length, h.offset);
    memcpy(win->local + h.offset, data, length);
    data_arrived(NULL, UCS_OK, length, t);
    return UCS_OK;
}

int slc_windows_open(struct slc_world *w, struct slc_err *e)
{
    ucp_am_handler_param_t param = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = AM_WINDOW,
        .cb = receive,
        .arg = w,
    };
    ucs_status_t rc = ucp_worker_set_am_recv_handler(w->worker, &param);

    return rc == UCS_OK ? 0 : slc_ucx_error(e, "ucp_worker_set_am_recv_handler", rc);
}
