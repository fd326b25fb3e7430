/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows over a lane without puts (TCP): the same operations as active messages. The
 * target must drive its worker. Every message costs both sides a call of the kernel, so
 * what is posted one after the other goes together, a signal with the data before it. A
 * signal carries the number of messages with data up to its own and is held back until
 * they all arrived, so that no order between messages is relied on.
 */
#include "comm/window_private.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AM_WINDOW 1
#define HEADERS 256 /* of UCX and ours, in the segment of a message */
#define JOINED (96u << 10) /* bytes of small puts that go without waiting for more */
#define HELD 16     /* signals that may wait for their data before memory is taken */

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

int slc_message_open(struct slc_target *t, const char *lanes, struct slc_err *e)
{
    /*
     * Over TCP a rendezvous costs a round trip, and a message of several segments is put
     * together in memory of UCX first. One of one segment is read from the socket and
     * copied into the window, which is all that a stream does.
     */
    t->pieces = 1;
    if (strcmp(lanes, "tcp") == 0) {
        t->eager = true;
        t->pieces = SLC_PIECES;
        t->chunk = (tcp_segment() - HEADERS) & ~(size_t)63;
    }
    t->held = malloc(HELD * sizeof(*t->held));
    if (!t->held)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the signals of a window");
    t->held_room = HELD;
    return 0;
}

static size_t header_bytes(const struct slc_window_header *h)
{
    return offsetof(struct slc_window_header, piece) + h->pieces * sizeof(h->piece[0]);
}

/* --- sending ----------------------------------------------------------------------- */

static int send_message(struct slc_slot *slot)
{
    struct slc_target *t = slot->target;
    struct slc_world *w = t->window->g->w;
    struct slc_window_header *h = &slot->header;
    const bool one = h->pieces <= 1;
    const void *data = one ? slot->source[0].buffer : slot->source;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_DATATYPE,
        .flags = t->eager ? UCP_AM_SEND_FLAG_EAGER : 0,
        .datatype = one ? ucp_dt_make_contig(1) : ucp_dt_make_iov(),
        .cb.send = slc_slot_done,
        .user_data = slot,
    };

    t->messages += h->pieces > 0;
    h->count = t->messages;
    return slc_slot_started(slot, ucp_am_send_nbx(w->peers[t->rank].ep, AM_WINDOW, h,
                                                  header_bytes(h), h->pieces ? data : NULL,
                                                  one ? slot->source[0].length : h->pieces,
                                                  &param));
}

/* As much of a put as the message has room for, which has `bytes` so far. */
static size_t add_piece(struct slc_slot *slot, const struct slc_op *op, size_t bytes)
{
    struct slc_target *t = slot->target;
    size_t left = op->bytes - t->sent, room = t->chunk - bytes;
    size_t n = left < room ? left : room;
    int at = slot->header.pieces++;

    slot->header.piece[at].offset = op->offset + t->sent;
    slot->header.piece[at].bytes = n;
    slot->source[at] = (ucp_dt_iov_t){.buffer = (void *)(op->src + t->sent), .length = n};
    t->sent += n;
    return n;
}

/* Fill a message: up to a signal, or as much as goes into it. */
static void fill(struct slc_slot *slot)
{
    struct slc_target *t = slot->target;
    size_t i, bytes = 0;

    slot->source[0] = (ucp_dt_iov_t){0};
    slot->header = (struct slc_window_header){.window = t->id,
                                              .from = (uint16_t)t->window->g->index};
    while ((i = slc_order_next(t)) != SIZE_MAX) {
        struct slc_op *op = slc_target_op(t, i);

        if (op->kind == SLC_OP_SIGNAL) {
            slot->header.signal = 1;
            slot->header.offset = op->offset;
            slot->header.value = op->value;
            slc_target_done(t, i);
            break;
        }
        if (slot->header.pieces == t->pieces || bytes == t->chunk)
            break;
        t->current = i;
        bytes += add_piece(slot, op, bytes);
        if (t->sent < op->bytes)
            break;
        t->sent = 0;
        slc_target_done(t, i);
    }
    t->window->g->w->traffic.far_bytes += bytes;
}

/* What is posted next could not join the first message in the ring. */
static bool is_full(struct slc_target *t)
{
    size_t bytes = 0;
    int pieces = 0;

    for (size_t i = t->head; i < t->tail; i++) {
        const struct slc_op *op = slc_target_op(t, i);

        if (op->kind == SLC_OP_SIGNAL)
            return true;
        bytes += op->bytes - (i == t->current ? t->sent : 0);
        if (bytes >= JOINED || bytes >= t->chunk || ++pieces > t->pieces)
            return true;
    }
    return false;
}

void slc_message_advance(struct slc_target *t, bool all)
{
    while (!t->lost && t->head != t->tail && t->in_flight < SLC_PUTS_IN_FLIGHT &&
           (all ? slc_order_next(t) != SIZE_MAX : is_full(t))) {
        struct slc_slot *slot = slc_slot_take(t);

        fill(slot);
        send_message(slot);
    }
}

/* --- receiving --------------------------------------------------------------------- */

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
        size_t room = 2 * t->held_room;
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

/* Check what came and copy it where it belongs. */
static void place(struct slc_window *win, const struct slc_window_header *h,
                  const char *data, size_t length)
{
    for (int i = 0; i < h->pieces; i++) {
        const size_t offset = h->piece[i].offset, bytes = h->piece[i].bytes;

        SLC_ASSERT(bytes <= length && offset <= win->bytes && bytes <= win->bytes - offset);
        if (data)
            memcpy(win->local + offset, data, bytes);
        data = data ? data + bytes : NULL;
        length -= bytes;
    }
    SLC_ASSERT(length == 0);
}

static ucs_status_t receive(void *arg, const void *header, size_t header_length,
                            void *data, size_t length, const ucp_am_recv_param_t *param)
{
    const bool here = !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
    struct slc_world *w = arg;
    struct slc_window_header h = {0};

    SLC_ASSERT(header_length <= sizeof(h));
    memcpy(&h, header, header_length);
    SLC_ASSERT(h.pieces <= SLC_PIECES && header_length == header_bytes(&h));
    SLC_ASSERT(h.window < w->n_windows && w->windows[h.window]);
    struct slc_window *win = w->windows[h.window];
    SLC_ASSERT(h.from < win->g->size);
    struct slc_target *t = &win->targets[h.from];
    place(win, &h, here ? data : NULL, length);
    if (h.signal) {
        SLC_ASSERT(h.offset <= win->bytes - 8 && h.offset % 8 == 0);
        hold(t, &h);
    }
    if (!here) {
        SLC_ASSERT(h.pieces == 1);
        return fetch(t, data, length, h.piece[0].offset);
    }
    t->arrived += h.pieces > 0;
    release_held(t);
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
