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

/* One exchange in flight. */
struct slc_flight {
    struct slc_queue *q;
    struct slc_moe_saved *s;
    const void *x, *d_out;
    struct slc_plan plan;
    uint64_t n;                /* number of this exchange, from 1 */
    uint64_t base;             /* uses before it */
    int uses;                  /* of this exchange, once planned */
    int sent, taken, credited; /* uses sent from here, read here, reported as read */
    int summed;                /* rounds whose rows were summed here */
    bool active, published, planned;
    bool packing; /* use `sent` is being packed */
    bool summing; /* rows of round summed-1 are being summed */

    struct slc_event *packed, *read[2], *summed_event, *combined;
    struct slc_rows *host_rows;                        /* [R] scratch for uploads */
    struct slc_rows *pack_rows, *sum_rows, *home_rows; /* [R] device */
    int32_t *row; /* [R+E] source of the published row */
    char *out[2]; /* staging [T*S] of token and gradient records; NULL: none far */
    char *back;   /* staging [cap] of returned rows */
    uint64_t row_mark, out_mark[2], back_mark; /* busy until flushes > mark */
    size_t lines, rows, window, combine;       /* offsets of this slot in the window */
};

struct slc_dispatch {
    struct slc_dispatch_options o;
    const struct slc_moe_shape *n;
    struct slc_window *window;
    struct slc_world *world;
    char **near; /* [R] mapped window of a near member (own: local), or NULL */
    bool any_far;
    int mapped; /* windows, from this rank's on round, that ops were given */
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

/* Offsets in the window, the same on all members. */
size_t slc_line_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       enum slc_line kind, uint64_t number, int member);
size_t slc_half_offset(const struct slc_dispatch *d, const struct slc_flight *f,
                       uint64_t use);

/* True when member `from` has signalled at least `value` for `number` on a line. */
bool slc_line_reached(const struct slc_dispatch *d, const struct slc_flight *f,
                      enum slc_line kind, uint64_t number, int from, uint64_t value);
int slc_line_signal(struct slc_dispatch *d, struct slc_flight *f, enum slc_line kind,
                    uint64_t number, int to, uint64_t value, struct slc_err *e);

/* May use i of the exchange be written into member `to`? credit.c, alone in its file so
 * that a test can put in one that never waits. */
bool slc_dispatch_has_credit(const struct slc_dispatch *d, const struct slc_flight *f,
                             int i, int to);

/* Do what can be done now for every exchange in flight. Never blocks. */
int slc_dispatch_advance(struct slc_dispatch *d, struct slc_err *e);
/* The part of it in combine.c: put and signal the rows summed last. */
int slc_combine_advance(struct slc_dispatch *d, struct slc_flight *f,
                        struct slc_err *e);

#endif
