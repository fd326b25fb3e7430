/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bulk FAR SEED: sums and gathers in the background, on arrays that lie in several pieces
 * and are cut into odd and empty shares. Results must have the bits of sums in member
 * order; memory between the pieces stays as it was.
 */
#include <stdint.h>
#include <string.h>

#include "base/fail.h"
#include "comm/bulk.h"
#include "comm/check.h"
#include "comm/group.h"

static struct slc_err e = SLC_ERR_INIT;
static struct slc_world *w;
static struct slc_group *g;
static int me, n;

/* The last run is several chunks long, its buckets are not multiples of one. */
enum { RUNS = 4, BUCKETS = 5, GAP = 9 };
static const int64_t flat[RUNS + 1] = {0, 1, 700, 5003, 205011};
static int64_t at[RUNS], room;
static int64_t cut[BUCKETS * 65];

static void lay_out(void)
{
    for (int r = RUNS - 1; r >= 0; r--) { /* in memory the other way round */
        at[r] = room + GAP;
        room = at[r] + flat[r + 1] - flat[r];
    }
    room += GAP;
    /* Buckets from the end, as backward completes them; one of a single element. */
    const int64_t edge[BUCKETS + 1] = {205011, 120007, 5000, 4999, 3, 0};
    for (int b = 0; b < BUCKETS; b++) {
        int64_t from = edge[b + 1], len = edge[b] - from;
        int64_t *c = cut + b * (n + 1);

        for (int i = 0; i <= n; i++)
            c[i] = from + (b % 2 ? len * (i == n) : len * i / n); /* odd: all for one */
    }
}

static float value(int member, int64_t j, int turn)
{
    return (float)(1.0 / (1.0 + member * 7 + (double)((j + turn) % 1013)) *
                   (j % 3 ? 1.0 : -1e4));
}

static int owner(int64_t j)
{
    for (int b = 0; b < BUCKETS; b++)
        for (int i = 0; i < n; i++)
            if (j >= cut[b * (n + 1) + i] && j < cut[b * (n + 1) + i + 1])
                return i;
    SLC_BUG("element without an owner");
}

static int64_t place(int64_t j)
{
    int r = 0;

    while (j >= flat[r + 1])
        r++;
    return at[r] + j - flat[r];
}

static void check_gaps(const float *buf)
{
    int64_t j = 0;

    for (int r = RUNS - 1; r >= 0; r--) {
        for (; j < at[r]; j++)
            CHECK(buf[j] == -77);
        j += flat[r + 1] - flat[r];
    }
    for (; j < room; j++)
        CHECK(buf[j] == -77);
}

static unsigned long long sent(void)
{
    return slc_world_traffic(w)->collective_bytes;
}

/* Other things go on meanwhile: a sum of its own on the same group, and waiting. */
static void something_else(int turn)
{
    double x = me + turn;

    OK(slc_allreduce(g, &x, 1, SLC_F64, &e));
    CHECK(x == (double)n * turn + n * (n - 1) / 2);
    for (int i = 0; i < 50; i++)
        OK(slc_world_progress(w, &e));
}

static void run(struct slc_bulk *bulk, float *buf, bool reduce, bool gather, int turn,
                bool at_once)
{
    struct slc_bulk_op op = {.reduce = reduce, .gather = gather, .unit = 4,
                             .dtype = SLC_F32, .base = (char *)buf, .n_runs = RUNS,
                             .flat = flat, .at = at, .n_buckets = BUCKETS, .cut = cut};
    unsigned long long before = sent();

    for (int64_t j = 0; j < room; j++)
        buf[j] = -77;
    slc_bulk_start(bulk, &op);
    something_else(turn);
    CHECK(slc_bulk_active(bulk));
    for (int b = 0; b < BUCKETS && !at_once; b++) {
        /* What is not said to be ready is not sent, nor written: it may still change. */
        for (int64_t j = cut[b * (n + 1)]; j < cut[b * (n + 1) + n]; j++)
            buf[place(j)] = -1;
        something_else(turn + b);
        for (int64_t j = cut[b * (n + 1)]; j < cut[b * (n + 1) + n]; j++) {
            CHECK(buf[place(j)] == -1);
            buf[place(j)] = value(me, j, turn);
        }
        slc_bulk_ready(bulk, b + 1);
        OK(slc_bulk_progress(bulk, &e));
    }
    if (!at_once && reduce && n > 1) /* in the background */
        CHECK(sent() - before > 100000);
    for (int64_t j = 0; j < flat[RUNS] && at_once; j++)
        buf[place(j)] = value(me, j, turn);
    OK(slc_bulk_finish(bulk, &e));
    CHECK(!slc_bulk_active(bulk));
    for (int64_t j = 0; j < flat[RUNS]; j++) {
        int who = owner(j);
        float expect = value(reduce ? 0 : who, j, turn);

        for (int i = 1; reduce && i < n; i++)
            expect += value(i, j, turn);
        if (gather || who == me)
            CHECK(buf[place(j)] == expect);
        else
            CHECK(buf[place(j)] == value(me, j, turn));
    }
    check_gaps(buf);
}

/* Bytes instead of floats, on the same bulk. */
static void run_bytes(struct slc_bulk *bulk)
{
    unsigned char *buf = calloc((size_t)room, 1);
    struct slc_bulk_op op = {.gather = true, .unit = 1, .dtype = SLC_U8,
                             .base = (char *)buf, .n_runs = RUNS, .flat = flat, .at = at,
                             .n_buckets = BUCKETS, .cut = cut};

    for (int64_t j = 0; j < flat[RUNS]; j++)
        if (owner(j) == me)
            buf[place(j)] = (unsigned char)(j * 31 + me);
    slc_bulk_start(bulk, &op);
    OK(slc_bulk_finish(bulk, &e));
    for (int64_t j = 0; j < flat[RUNS]; j++)
        CHECK(buf[place(j)] == (unsigned char)(j * 31 + owner(j)));
    free(buf);
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {.allow_tcp = getenv("ALLOW_TCP") != NULL,
                                  .force_far = argc > 1 && atoi(argv[1]),
                                  .test_seed = argc > 2 ? (unsigned)atoi(argv[2]) : 0};
    int all[64];

    w = slc_world_create(&o, &e);
    if (!w) {
        slc_fail_print();
        return e.code;
    }
    me = slc_world_rank(w);
    n = slc_world_size(w);
    CHECK(n > 1 && n <= 64);
    for (int r = 0; r < n; r++)
        all[r] = r;
    NEED(g = slc_group_create(w, all, n, &e));
    lay_out();
    float *buf = malloc(sizeof(float) * (size_t)room);
    struct slc_bulk *a = slc_bulk_create(g, &e), *b = slc_bulk_create(g, &e);
    NEED(a);
    NEED(b);
    for (int turn = 0; turn < 6; turn++) {
        run(turn % 2 ? b : a, buf, true, false, turn, turn == 4);
        run(a, buf, false, true, turn, turn == 3);
        run(a, buf, true, true, turn, turn == 2);
    }
    run_bytes(a);
    free(buf);
    slc_bulk_destroy(b);
    slc_bulk_destroy(a);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return 0;
}
