/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_COMM_WINDOW_PRIVATE_H
#define SLC_COMM_WINDOW_PRIVATE_H

#include "comm/comm_private.h"

#define SLC_PUT_CHUNK (512u << 10)
#define SLC_PUTS_IN_FLIGHT 4

/*
 * Operations on one member's window wait in a ring, in the order they were posted:
 * puts may overtake puts (test transport) but nothing passes a signal.
 */
struct slc_op {
    enum { SLC_OP_PUT, SLC_OP_SIGNAL, SLC_OP_DONE } kind;
    unsigned delay; /* test transport: looks until it may start */
    size_t offset, bytes;
    const char *src;
    uint64_t value;
};

#define SLC_PIECES 4

/* What a message to a window says: runs of bytes, which follow one after the other, and
 * the signal that was posted next. Only the pieces in use are sent. */
struct slc_window_header {
    uint16_t window; /* receiver's id */
    uint16_t from;   /* sender's index in the group */
    uint16_t pieces;
    uint16_t signal; /* 1: there is one */
    uint64_t offset, value; /* of the signal */
    uint64_t count;  /* messages with data sent so far, this one among them */
    struct {
        uint64_t offset, bytes;
    } piece[SLC_PIECES];
};

struct slc_target;

/* One operation in flight; the memory UCX reads until it completes. */
struct slc_slot {
    struct slc_target *target; /* NULL: free */
    struct slc_window_header header;
    ucp_dt_iov_t source[SLC_PIECES];
};

/* A signal that came before the data it follows. */
struct slc_held {
    uint64_t offset, value, count;
};

enum slc_signal_stage { SLC_STAGE_IDLE, SLC_STAGE_FLUSH, SLC_STAGE_PUT };

struct slc_target {
    struct slc_window *window;
    int rank;   /* world rank */
    char *near; /* mapped base, NULL: far */
    enum slc_path path;
    size_t chunk; /* most bytes of one operation */
    bool eager;   /* messages go without asking the target first */
    int pieces;   /* most of a message */
    ucp_rkey_h rkey;
    uint64_t base; /* address over there */
    uint16_t id;   /* window id over there */
    bool dirty;    /* a signal was put and not yet flushed */
    bool lost;
    bool busy; /* counted in window->busy */

    struct slc_op
        *ops; /* ring of `room` (a power of two), at most one grow at a time */
    size_t room, head, tail;
    size_t current; /* the one that has begun; SIZE_MAX: none */
    size_t sent;    /* bytes of it already on their way */
    enum slc_signal_stage stage;
    void *request;  /* of the flush or the signal's put */
    uint64_t value; /* signal in flight: its source */
    int in_flight;
    struct slc_slot slots[SLC_PUTS_IN_FLIGHT];

    uint64_t messages; /* data messages sent */
    /* the other direction */
    uint64_t arrived; /* data messages complete here */
    struct slc_held *held;
    size_t n_held, held_room;
};

struct slc_window {
    struct slc_group *g;
    size_t bytes;
    uint16_t id; /* index in world->windows */
    char *local;
    ucp_mem_h memh;             /* NULL: plain memory, nobody else writes */
    struct slc_target *targets; /* [group size] */
    int busy;                   /* targets with operations under way */
    int lost;                   /* targets that died */
    uint64_t random;            /* test transport: counter of draws */
};

/* --- window_message.c: windows over a lane without puts
 * ---------------------------------- */

/* Decide chunk, eager and pieces of a target whose path is by messages. */
int slc_message_open(struct slc_target *t, const char *lanes, struct slc_err *e);
/* Send what waits in the ring, several operations a message. all: also a message that what
 * is posted next could still join. */
void slc_message_advance(struct slc_target *t, bool all);

/* --- window_order.c: which operation may go next
 * ------------------------------------------ */

/* Index of the operation to work on now, SIZE_MAX: none may start yet. */
size_t slc_order_next(struct slc_target *t);
/* Test transport: cut a put, give it delays. */
int slc_order_post(struct slc_target *t, const struct slc_op *op, struct slc_err *e);
/* Test transport: sometimes sleep, so that ranks drift apart. */
void slc_order_drift(struct slc_window *w);

/* --- window_target.c: the way to one member
 * ------------------------------------------ */

/* A free slot, from now on in flight; there must be one. */
struct slc_slot *slc_slot_take(struct slc_target *t);
/* Completion of a request whose user data is its slot. */
void slc_slot_done(void *request, ucs_status_t status, void *slot);
/* The outcome of a call that returned `request`: 0, or -1 and the target is lost. */
int slc_slot_started(struct slc_slot *slot, void *request);
struct slc_op *slc_target_op(struct slc_target *t, size_t i);
/* Operation i is on its way for good. */
void slc_target_done(struct slc_target *t, size_t i);
int slc_target_push(struct slc_target *t, const struct slc_op *op, struct slc_err *e);
void slc_target_lose(struct slc_target *t, ucs_status_t status);
/* Move what is posted on. all: also what waits for company in a message. */
void slc_target_advance(struct slc_target *t, bool all);

#endif
