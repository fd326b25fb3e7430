/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MOE_DISPATCH_PRIVATE_H
#define SLC_MOE_DISPATCH_PRIVATE_H

#include "comm/window.h"
#include "moe/dispatch.h"
#include "moe/plan.h"

/* Signal lines: [kind][number % 2][member], one cache line each. */
enum slc_line {
    SLC_LINE_ROW,
    SLC_LINE_ARRIVED,
    SLC_LINE_CREDIT,
    SLC_LINE_RETURNED,
    SLC_LINES
};
#define SLC_LINE_BYTES 64

/*
 * Memory that puts read from: filled from its start on, free again as a whole once all
 * that was posted has been seen complete after the last put from it.
 */
struct slc_staging {
    char *base;
    size_t size, used;
    int waiting; /* pieces taken and not put yet */
    uint64_t mark;
};

/* Records summed for a far source that are not on their way yet. */
struct slc_returning {
    int to;
    int32_t first, count; /* by the source's own numbering */
    char *rows;           /* count rows, then their scalars */
};

/* What is summed of a round: rows of y and what they are multiplied by. */
struct slc_sums {
    const void *y;
    const float *weight, *scalar;
};

/* One exchange in flight. */
struct slc_flight {
    struct slc_queue *q;
    struct slc_moe_saved *s;
    const void *x, *d_out;
    struct slc_sums sums; /* of the last round */
    struct slc_plan plan;
    uint64_t n;                /* number of this exchange, from 1 */
    uint64_t base;             /* uses before it */
    int uses;                  /* of this exchange, once planned */
    int sent, taken, credited; /* uses sent from here, read here, reported as read */
    int summed;                /* rounds whose rows were summed here */
    bool active, published, planned;
    int chunk;    /* of use `sent`: the next one to be packed */
    bool packing; /* ... and it is being packed */
    bool summing; /* rows of round summed-1 are being summed and sent */
    bool asked;   /* ... and all sums of it are on the queue */
    bool early_packed; /* what goes with the count row is on the queue */
    bool *early;       /* [R] rows to this member go with the count row */
    bool *looked;      /* [R] looked for rows of this member that came so */
    bool *here;        /* [R] ... they did, and are in the window's half */

    struct slc_event *packed, *read[2], *summed_event, *combined;
    struct slc_rows *host_rows;                        /* [R] scratch for uploads */
    struct slc_rows *pack_rows, *sum_rows, *home_rows; /* [R] device */
    int32_t *row; /* [R+E] source of the published row */
    /* With far members: */
    int32_t *bound; /* [chunks+1][R] records to each rank before the chunk's first token */
    struct slc_staging out;          /* records that leave */
    struct slc_staging back;         /* rows that return */
    char *packed_at;                 /* in out, what is being packed */
    char *early_out;                 /* busy as long as row is */
    struct slc_returning *returning; /* [returns] */
    int n_returning;

    uint64_t row_mark; /* row is busy until flushes > mark */
    size_t lines, rows, window, combine, early_at; /* offsets of this slot in the window */
};

struct slc_dispatch {
    struct slc_dispatch_options o;
    const struct slc_moe_shape *n;
    struct slc_window *window;
    struct slc_world *world;
    char **near; /* [R] mapped window of a near member (own: local), or NULL */
    bool *message;      /* [R] rows to this member travel in messages */
    bool by_message;    /* to any */
    size_t early_bytes; /* of the place for what a member sends early; 0: none */
    int mapped; /* windows, from this rank's on round, that ops were given */
    int n_far;
    int64_t chunk_tokens; /* tokens packed at a time: all when no member is far */
    int chunks;
    int64_t chunk_records; /* records summed at a time for a far member */
    int returns;           /* most of these in staging */
    int32_t *slots;        /* [2][T*S] host copy of slot_rank and slot_row */
    uint64_t flushes;      /* moments at which everything posted was seen complete */
    int32_t *first_expert; /* [R+1] device */
    size_t row_stride;
    void *device, *host;
    struct slc_flight flight[2];
};

/* What use i of a planned exchange carries. */
static inline int slc_use_round(const struct slc_flight *f, int i)
{
    return f->d_out && f->plan.rounds > 1 ? i / 2 : i;
}
static inline bool slc_use_has_grad(const struct slc_flight *f, int i)
{
    return f->d_out && (f->plan.rounds == 1 || i % 2 == 1);
}

/* True when the rows of records to r stay where they are, because r is this rank. */
static inline bool slc_own_in_place(const struct slc_dispatch *d, int r)
{
    return r == d->n->me && d->o.backend->own_in_place;
}
/* ... and when their results do: until combine is finished y is then in use, which the
 * next round would overwrite. */
static inline bool slc_own_returns_in_place(const struct slc_dispatch *d,
                                            const struct slc_flight *f, int r)
{
    return slc_own_in_place(d, r) && f->plan.rounds == 1;
}

/* Offsets in the window, the same on all members. */
size_t slc_line_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       enum slc_line kind, uint64_t number, int member);
size_t slc_half_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       uint64_t use);
/* What goes along with rows lies behind the rows, from record to record without gaps:
 * so a row is on as few pages as can be and the index is read in one run. */
size_t slc_half_meta(const struct slc_dispatch *d, const struct slc_flight *f, uint64_t use);
size_t slc_combine_meta(const struct slc_dispatch *d, const struct slc_flight *f);

/* count records from `row` on of a window or staging area with rows and meta there. */
void slc_rows_place(const struct slc_dispatch *d, struct slc_rows *to, char *rows,
                    char *meta, size_t meta_bytes, int64_t row, int32_t count);

/* True when member `from` has signalled at least `value` for `number` on a line. */
bool slc_line_reached(const struct slc_dispatch *d, const struct slc_flight *f,
                      enum slc_line kind, uint64_t number, int from, uint64_t value);
int slc_line_signal(struct slc_dispatch *d, struct slc_flight *f, enum slc_line kind,
                    uint64_t number, int to, uint64_t value, struct slc_err *e);

/* May use i of the exchange be written into member `to`? credit.c, alone in its file so
 * that a test can put in one that never waits. */
bool slc_dispatch_has_credit(const struct slc_dispatch *d, const struct slc_flight *f,
                             int i, int to);

/* Take bytes of staging; NULL while they are not free. */
char *slc_staging_take(struct slc_dispatch *d, struct slc_staging *s, size_t bytes);
/* Put count records that lie in staging (rows, then meta) to member r at `row` of the
 * places at these offsets of its window. */
int slc_records_put(struct slc_dispatch *d, struct slc_staging *s, int r, const char *from,
                    int32_t count, size_t rows_at, size_t meta_at, size_t meta_bytes,
                    int64_t row, struct slc_err *e);
/* Add to the counters what went to member r. */
void slc_records_count(struct slc_dispatch *d, int r, int32_t count, size_t meta_bytes);

/* early.c: small exchanges by messages, see there. */
size_t slc_early_bytes(const struct slc_moe_shape *n);
void slc_early_carve(struct slc_dispatch *d, struct slc_flight *f, struct slc_arena *host);
size_t slc_early_staging(const struct slc_dispatch *d);
/* At post: who gets rows early. */
void slc_early_choose(struct slc_dispatch *d, struct slc_flight *f);
/* Pack them: 1 when that has run, 0 not yet, -1 failure. */
int slc_early_pack(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e);
/* Put those to r, before the signal that the count row is there. */
int slc_early_put(struct slc_dispatch *d, struct slc_flight *f, int r, struct slc_err *e);
/* Bring what came early to where it belongs. */
void slc_early_take(struct slc_dispatch *d, struct slc_flight *f);

/* send.c: pack `count` tokens from `first` on, or their gradients, to where host_rows says;
 * f->packed tells when that has run. */
void slc_pack_tokens(struct slc_dispatch *d, struct slc_flight *f, int64_t first,
                     int64_t count, bool grad);

/* send.c: at post, where chunks begin; then pack and send what may go. */
int slc_dispatch_cut(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e);
int slc_dispatch_send(struct slc_dispatch *d, struct slc_flight *f, struct slc_err *e);

/* Do what can be done now for every exchange in flight. Never blocks. */
int slc_dispatch_advance(struct slc_dispatch *d, struct slc_err *e);
/* The part of it in combine.c: put and signal the rows summed last. */
int slc_combine_advance(struct slc_dispatch *d, struct slc_flight *f,
                        struct slc_err *e);

#endif
