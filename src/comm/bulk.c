/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every member has a queue of DEPTH chunks in the window of every other one, one for sums
 * (LANE_REDUCE) and one for results (LANE_GATHER). The sender counts what it put, the
 * receiver what it took; each tells the other by a signal. Both know from the buckets what
 * comes next in each queue, so a chunk carries no header.
 */
#include "comm/comm_private.h"
#include "comm/bulk_private.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY (16u << 20) /* of all queues of a rank */
#define DEPTH 4u
#define CHUNK_MAX (128u << 10)
#define CHUNK_MIN 4096u
#define LINE 64u /* a signal has a cache line to itself */
/* From here on results do not fit the cache anyway. */
#define LARGE (8u << 20)

enum lane { LANE_REDUCE, LANE_GATHER, LANES };

/* The next element of the shares of one member. */
struct cursor {
    int bucket;
    int64_t pos; /* elements of its share in that bucket done */
};

/* What goes on between this rank and one other in one lane. */
struct flow {
    uint64_t sent, taken; /* chunks, over all operations */
    struct cursor out, in;
};

struct slc_bulk {
    struct slc_group *g;
    struct slc_window *win;
    struct slc_bulk *next; /* of those under way in this world */
    size_t chunk;
    bool active;
    struct slc_bulk_op op;
    int64_t step;  /* elements of a chunk */
    int ready;     /* buckets */
    bool large;
    struct flow *flow; /* [LANES][size] */
    const char **x;    /* [size] the addends of a sum */
};

static struct flow *flow(struct slc_bulk *b, enum lane lane, int i)
{
    return &b->flow[(size_t)lane * (size_t)b->g->size + (size_t)i];
}

/* --- the window: queues, then the signals ------------------------------------------ */

/* Row of member `of` among the others, as `at` has them. */
static size_t row(int of, int at)
{
    return (size_t)(of < at ? of : of - 1);
}

/* Where chunk number n from member `from` lies in the window of member `at`. */
static size_t chunk_at(const struct slc_bulk *b, enum lane lane, int from, int at,
                       uint64_t n)
{
    size_t others = (size_t)b->g->size - 1;

    return (((size_t)lane * others + row(from, at)) * DEPTH + n % DEPTH) * b->chunk;
}

enum line { LINE_ARRIVED, LINE_TAKEN, LINES };

static size_t line_at(const struct slc_bulk *b, enum line line, enum lane lane, int from)
{
    size_t n = (size_t)b->g->size;

    return LANES * (n - 1) * DEPTH * b->chunk +
           (((size_t)line * LANES + (size_t)lane) * n + (size_t)from) * LINE;
}

struct slc_bulk *slc_bulk_create(struct slc_group *g, struct slc_err *e)
{
    struct slc_bulk *b = calloc(1, sizeof(*b));
    size_t n = (size_t)g->size;

    SLC_ASSERT(g->size > 1);
    if (!b)
        goto err_memory;
    b->g = g;
    b->chunk = MEMORY / (LANES * DEPTH * (n - 1));
    b->chunk = b->chunk > CHUNK_MAX   ? CHUNK_MAX
               : b->chunk < CHUNK_MIN ? CHUNK_MIN
                                      : b->chunk & ~(size_t)(LINE - 1);
    b->flow = calloc(LANES * n, sizeof(*b->flow));
    b->x = calloc(n, sizeof(*b->x));
    if (!b->flow || !b->x)
        goto err_memory;
    b->win = slc_window_create(g, line_at(b, LINES, LANE_REDUCE, 0), e);
    if (!b->win) {
        slc_bulk_destroy(b);
        return NULL;
    }
    return b;

err_memory:
    slc_bulk_destroy(b);
    slc_errf(e, SLC_EXIT_SYSTEM, "no memory for collectives of %d ranks", g->size);
    return NULL;
}

/* Out of the world's list of those under way, if it is there. */
static void leave(struct slc_bulk *b)
{
    for (struct slc_bulk **p = &b->g->w->bulks; *p; p = &(*p)->next)
        if (*p == b) {
            *p = b->next;
            return;
        }
}

void slc_bulk_destroy(struct slc_bulk *b)
{
    if (!b)
        return;
    leave(b); /* still in it after a failure */
    slc_window_destroy(b->win);
    free(b->flow);
    free(b->x);
    free(b);
}

/* --- what is next ------------------------------------------------------------------ */

static int64_t share_at(const struct slc_bulk *b, int bucket, int i)
{
    return b->op.cut[(int64_t)bucket * (b->g->size + 1) + i];
}

/* The next piece of the shares of member i: elements [*at, *at + n), n at most a chunk;
 * 0: no more in the first `buckets` buckets. */
static int64_t peek(const struct slc_bulk *b, struct cursor *c, int i, int buckets,
                    int64_t *at)
{
    for (; c->bucket < buckets; c->bucket++, c->pos = 0) {
        int64_t from = share_at(b, c->bucket, i) + c->pos;
        int64_t left = share_at(b, c->bucket, i + 1) - from;

        if (left <= 0)
            continue;
        *at = from;
        return left < b->step ? left : b->step;
    }
    return 0;
}

static bool before(const struct cursor *a, const struct cursor *b)
{
    return a->bucket < b->bucket || (a->bucket == b->bucket && a->pos < b->pos);
}

/* The run that holds element `at`. */
static int run_of(const struct slc_bulk_op *op, int64_t at)
{
    int low = 0, high = op->n_runs;

    while (high - low > 1) {
        int mid = (low + high) / 2;

        if (op->flat[mid] <= at)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* Memory of element *at on, and in *n how many of at most that many follow it there. */
static char *memory(const struct slc_bulk_op *op, int64_t at, int64_t *n)
{
    int r = run_of(op, at);
    int64_t left = op->flat[r + 1] - at;

    *n = left < *n ? left : *n;
    return op->base + (size_t)(op->at[r] + at - op->flat[r]) * op->unit;
}

/* --- moving ------------------------------------------------------------------------ */

/* Put the next piece for member i. 1: done, 0: none or no room, -1: failure. */
static int put_next(struct slc_bulk *b, enum lane lane, int i, struct slc_err *e)
{
    struct flow *f = flow(b, lane, i);
    const int of = lane == LANE_REDUCE ? i : b->g->index;
    const int buckets = lane == LANE_GATHER && b->op.reduce ? b->op.n_buckets : b->ready;
    int64_t at, n = peek(b, &f->out, of, buckets, &at), part;
    size_t to;

    if (n == 0 || f->sent - slc_window_load(b->win, line_at(b, LINE_TAKEN, lane, i)) >=
                      DEPTH)
        return 0;
    /* What is not summed yet is no result. */
    if (lane == LANE_GATHER && b->op.reduce &&
        !before(&f->out, &flow(b, LANE_REDUCE, b->g->index)->in))
        return 0;
    to = chunk_at(b, lane, b->g->index, i, f->sent);
    for (int64_t done = 0; done < n; done += part) {
        part = n - done;
        const char *src = memory(&b->op, at + done, &part);
        if (slc_window_put(b->win, i, to + (size_t)done * b->op.unit, src,
                           (size_t)part * b->op.unit, e) < 0)
            return -1;
    }
    f->sent++;
    f->out.pos += n;
    b->g->w->traffic.collective_bytes += (size_t)n * b->op.unit;
    if (slc_window_signal(b->win, i, line_at(b, LINE_ARRIVED, lane, b->g->index), f->sent,
                          e) < 0)
        return -1;
    return 1;
}

static bool arrived(struct slc_bulk *b, enum lane lane, int i)
{
    return slc_window_load(b->win, line_at(b, LINE_ARRIVED, lane, i)) >
           flow(b, lane, i)->taken;
}

/* Where the next chunk from member i is. */
static const char *chunk_of(struct slc_bulk *b, enum lane lane, int i)
{
    return (char *)slc_window_local(b->win) +
           chunk_at(b, lane, i, b->g->index, flow(b, lane, i)->taken);
}

static int take(struct slc_bulk *b, enum lane lane, int i, struct slc_err *e)
{
    struct flow *f = flow(b, lane, i);

    f->taken++;
    return slc_window_signal(b->win, i, line_at(b, LINE_TAKEN, lane, b->g->index),
                             f->taken, e);
}

/* Add the next piece of the own share when all have sent theirs. */
static int sum(struct slc_bulk *b, struct slc_err *e)
{
    const int me = b->g->index, size = b->g->size;
    struct cursor *c = &flow(b, LANE_REDUCE, me)->in;
    int64_t at, n = peek(b, c, me, b->ready, &at), part;

    if (n == 0)
        return 0;
    for (int i = 0; i < size; i++)
        if (i != me && !arrived(b, LANE_REDUCE, i))
            return 0;
    for (int64_t done = 0; done < n; done += part) {
        part = n - done;
        char *own = memory(&b->op, at + done, &part);

        for (int i = 0; i < size; i++)
            b->x[i] = i == me ? own
                              : chunk_of(b, LANE_REDUCE, i) + (size_t)done * b->op.unit;
        slc_bulk_sum(b->op.dtype, own, b->x, size, (size_t)part);
    }
    c->pos += n;
    for (int i = 0; i < size; i++)
        if (i != me && take(b, LANE_REDUCE, i, e) < 0)
            return -1;
    return 1;
}

/* Copy the next piece of member i's result out of the window. */
static int receive(struct slc_bulk *b, int i, struct slc_err *e)
{
    struct flow *f = flow(b, LANE_GATHER, i);
    int64_t at, n = peek(b, &f->in, i, b->ready, &at), part;

    if (n == 0 || !arrived(b, LANE_GATHER, i))
        return 0;
    const char *from = chunk_of(b, LANE_GATHER, i);
    for (int64_t done = 0; done < n; done += part) {
        part = n - done;
        char *to = memory(&b->op, at + done, &part);
        const char *src = from + (size_t)done * b->op.unit;

        if (b->large)
            slc_bulk_copy_past_cache(to, src, (size_t)part * b->op.unit);
        else
            memcpy(to, src, (size_t)part * b->op.unit);
    }
    f->in.pos += n;
    return take(b, LANE_GATHER, i, e) < 0 ? -1 : 1;
}

/* One round over all members; the number of pieces moved, -1: failure. */
static int advance(struct slc_bulk *b, struct slc_err *e)
{
    const int me = b->g->index, size = b->g->size;
    int moved = 0, rc;

#define TRY(call)                                                                      \
    do {                                                                               \
        if ((rc = (call)) < 0)                                                         \
            return -1;                                                                 \
        moved += rc;                                                                   \
    } while (0)
    for (int step = 1; step < size; step++) {
        int to = (me + step) % size;

        if (b->op.reduce)
            TRY(put_next(b, LANE_REDUCE, to, e));
        if (b->op.gather)
            TRY(put_next(b, LANE_GATHER, to, e));
    }
    if (b->op.reduce)
        TRY(sum(b, e));
    for (int step = 1; b->op.gather && step < size; step++)
        TRY(receive(b, (me - step + size) % size, e));
#undef TRY
    b->g->w->moved += (unsigned)moved; /* no nap while something moves: comm/wait.c */
    return moved;
}

static bool done(struct slc_bulk *b)
{
    const int me = b->g->index, size = b->g->size, all = b->op.n_buckets;
    int64_t at;

    if (b->op.reduce && peek(b, &flow(b, LANE_REDUCE, me)->in, me, all, &at))
        return false;
    for (int i = 0; i < size; i++) {
        struct flow *r = flow(b, LANE_REDUCE, i), *g = flow(b, LANE_GATHER, i);

        if (i == me)
            continue;
        if (b->op.reduce && peek(b, &r->out, i, all, &at))
            return false;
        if (b->op.gather &&
            (peek(b, &g->out, me, all, &at) || peek(b, &g->in, i, all, &at)))
            return false;
    }
    return slc_window_flushed(b->win);
}

/* --- the caller's side ------------------------------------------------------------- */

void slc_bulk_start(struct slc_bulk *b, const struct slc_bulk_op *op)
{
    SLC_ASSERT(!b->active && op->n_runs > 0);
    b->op = *op;
    b->step = (int64_t)(b->chunk / op->unit);
    b->ready = 0;
    b->large = (size_t)op->flat[op->n_runs] * op->unit >= LARGE;
    for (int i = 0; i < LANES * b->g->size; i++)
        b->flow[i].out = b->flow[i].in = (struct cursor){0};
    b->active = true;
    b->next = b->g->w->bulks;
    b->g->w->bulks = b;
}

void slc_bulk_ready(struct slc_bulk *b, int buckets)
{
    SLC_ASSERT(b->active && buckets >= b->ready && buckets <= b->op.n_buckets);
    b->ready = buckets;
}

bool slc_bulk_active(const struct slc_bulk *b)
{
    return b->active;
}

int slc_bulk_progress(struct slc_bulk *b, struct slc_err *e)
{
    return b->active && advance(b, e) < 0 ? -1 : 0;
}

int slc_bulks_progress(struct slc_world *w, struct slc_err *e)
{
    for (struct slc_bulk *b = w->bulks; b; b = b->next)
        if (slc_bulk_progress(b, e) < 0)
            return -1;
    return 0;
}

int slc_bulk_finish(struct slc_bulk *b, struct slc_err *e)
{
    struct slc_world *w = b->g->w;
    struct slc_wait wait = {0};
    int moved;

    slc_bulk_ready(b, b->op.n_buckets);
    while ((moved = advance(b, e)) >= 0 && !done(b))
        if ((moved ? slc_world_progress(w, e) : slc_wait_step(w, &wait, e)) < 0)
            return -1;
    if (moved < 0)
        return -1;
    b->active = false;
    leave(b);
    return 0;
}
