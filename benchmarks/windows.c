/* SPDX-License-Identifier: Apache-2.0 */
/*
 * windows BYTES [oneway] [far]: rate of slc_window_put between two or more ranks. Every
 * round each rank (oneway: only rank 0) puts BYTES to each other one, signals, waits for
 * what comes to it and gives credit, as the token exchange does: two buffers, so that a
 * round is sent while the one before is read. Nothing is produced or read besides, like in
 * ucx_perftest. Rank 0 prints one JSON line; GB/s counts all bytes that arrived anywhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/group.h"
#include "comm/window.h"

#define SECONDS 0.6
#define REPEATS 5
#define OK(call) ((call) < 0 ? die(#call) : (void)0)

static struct slc_err e = SLC_ERR_INIT;
static struct slc_world *w;
static struct slc_group *g;
static struct slc_window *win;
static size_t bytes;
static bool oneway;
static int n, me;

static void die(const char *what)
{
    fprintf(stderr, "windows: %s: %s\n", what, e.text);
    exit(1);
}

static size_t data_at(int from, uint64_t round)
{
    return (size_t)n * 128 + ((size_t)(round % 2) * (size_t)n + (size_t)from) * bytes;
}

static void wait_for(size_t at, uint64_t value)
{
    struct slc_wait wait = {0};

    while (slc_window_load(win, at) < value)
        OK(slc_wait_step(w, &wait, &e));
}

/* Rounds first .. first + count - 1; numbers start at 1. */
static void rounds(const char *src, uint64_t first, uint64_t count)
{
    struct slc_wait wait = {0};

    for (uint64_t r = first; r < first + count; r++) {
        for (int step = 1; step < n && (!oneway || me == 0); step++) {
            int to = (me + step) % n;

            if (r > 2) /* round r - 2, in the same place, has been read */
                wait_for((size_t)(n + to) * 64, r - 2);
            OK(slc_window_put(win, to, data_at(me, r), src, bytes, &e));
            OK(slc_window_signal(win, to, (size_t)me * 64, r, &e));
        }
        for (int step = 1; step < n; step++) {
            int from = (me - step + n) % n;

            if (oneway && from != 0)
                continue;
            wait_for((size_t)from * 64, r);
            OK(slc_window_signal(win, from, (size_t)(n + me) * 64, r, &e));
        }
        if (bytes < 65536)
            continue;
        /* the source is ours again before the next round, as staging is */
        while (r % 2 == 0 && !slc_window_flushed(win))
            OK(slc_wait_step(w, &wait, &e));
    }
    while (!slc_window_flushed(win))
        OK(slc_wait_step(w, &wait, &e));
    OK(slc_barrier(g, &e));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {.allow_tcp = true};
    double rate[REPEATS], start;
    uint64_t at = 1;
    int64_t count = 8;
    int members[1024];

    if (argc < 2 || (bytes = (size_t)atoll(argv[1])) < 8)
        die("usage: windows BYTES [oneway] [far]");
    bytes &= ~(size_t)7;
    for (int i = 2; i < argc; i++) {
        oneway |= !strcmp(argv[i], "oneway");
        o.force_far |= !strcmp(argv[i], "far");
    }
    if (!(w = slc_world_create(&o, &e)))
        die("start");
    n = slc_world_size(w);
    me = slc_world_rank(w);
    for (int i = 0; i < n; i++)
        members[i] = i;
    if (!(g = slc_group_create(w, members, n, &e)) ||
        !(win = slc_window_create(g, data_at(n, 1), &e)))
        die("window");
    char *src = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
    memset(src, 1, bytes);
    /* as many rounds as fill SECONDS, by a first look */
    start = slc_now();
    rounds(src, at, (uint64_t)count);
    at += (uint64_t)count;
    count = (int64_t)((double)count * SECONDS / (slc_now() - start)) + 2;
    OK(slc_broadcast(g, &count, sizeof(count), 0, &e));
    for (int i = 0; i < REPEATS; i++) {
        start = slc_now();
        rounds(src, at, (uint64_t)count);
        rate[i] = (double)bytes * (double)count * (oneway ? n - 1 : n * (n - 1)) /
                  (slc_now() - start) / 1e9;
        at += (uint64_t)count;
    }
    qsort(rate, REPEATS, sizeof(*rate), by_value);
    if (me == 0)
        printf("{\"benchmark\": \"windows\", \"ranks\": %d, \"bytes\": %zu, \"way\": "
               "\"%s\", \"GB_s\": %.3f, \"low\": %.3f, \"high\": %.3f, \"transports\": "
               "\"%s\"}\n",
               n, bytes, oneway ? "one" : "both", rate[REPEATS / 2], rate[0],
               rate[REPEATS - 1], slc_world_transports(w));
    free(src);
    slc_window_destroy(win);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return 0;
}
