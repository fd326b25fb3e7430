/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows on any number of ranks: window far SEED PATH. far 1 forces puts between ranks
 * of one node, SEED > 0 is the test transport, PATH (near, far or mixed) is what must
 * have been used. Every round each member sends each other one block of changing size
 * and a signal, and checks what it got: data before signal, nothing from another round.
 */
#include <stdint.h>
#include <string.h>

#include "comm/check.h"
#include "comm/window.h"

#define BLOCK (1300 * 1024 + 8)
#define ROUNDS 12

static struct slc_err e = SLC_ERR_INIT;

static size_t block_bytes(int from, int to, int round)
{
    static const size_t sizes[] = {1, 8, 100, 4096, 70001, 1300 * 1024};

    return sizes[(size_t)(from * 5 + to * 3 + round) % 6];
}

static unsigned char byte_of(int from, int to, int round, size_t j)
{
    return (unsigned char)(from * 17 + to * 29 + round * 53 + (int)(j % 251));
}

/* Layout: [size] signals of data, [size] credits, [size][BLOCK] data, by sender. */
static size_t data_at(int n, int from)
{
    return 4096 + (size_t)n * 16 + (size_t)from * BLOCK;
}

static void wait_for(struct slc_world *w, struct slc_window *win, size_t at,
                     uint64_t value)
{
    struct slc_wait wait = {0};

    while (slc_window_load(win, at) < value)
        OK(slc_wait_step(w, &wait, &e));
    CHECK(slc_window_load(win, at) == value);
}

static void wait_flush(struct slc_world *w, struct slc_window *win)
{
    struct slc_wait wait = {0};

    while (!slc_window_flushed(win))
        OK(slc_wait_step(w, &wait, &e));
}

static void one_round(struct slc_world *w, struct slc_group *g, struct slc_window *win,
                      unsigned char *src, int round)
{
    int n = slc_group_size(g), me = slc_group_index(g);

    for (int i = 0; i < n; i++) {
        size_t bytes = block_bytes(me, i, round);
        unsigned char *from = src + (size_t)i * BLOCK;

        /* the reader's credit: it has read the last round */
        wait_for(w, win, (size_t)(n + i) * 8, (uint64_t)round);
        for (size_t j = 0; j < bytes; j++)
            from[j] = byte_of(me, i, round, j);
        OK(slc_window_put(win, i, data_at(n, me), from, bytes, &e));
        OK(slc_window_signal(win, i, (size_t)me * 8, (uint64_t)round + 1, &e));
    }
    for (int i = 0; i < n; i++) {
        const unsigned char *got =
            (unsigned char *)slc_window_local(win) + data_at(n, i);
        size_t bytes = block_bytes(i, me, round);

        wait_for(w, win, (size_t)i * 8, (uint64_t)round + 1);
        for (size_t j = 0; j < bytes; j++)
            CHECK(got[j] == byte_of(i, me, round, j));
        OK(slc_window_signal(win, i, (size_t)(n + me) * 8, (uint64_t)round + 1, &e));
    }
    wait_flush(w, win);
    memset(src, 0xee, (size_t)n * BLOCK); /* sources are ours again */
}

/* Write through the pointer, signal through the window. */
static void test_near(struct slc_world *w, struct slc_group *g, struct slc_window *win)
{
    int n = slc_group_size(g), me = slc_group_index(g);
    uint64_t value = ROUNDS + 100;

    for (int i = 0; i < n; i++) {
        char *near = slc_window_near(win, i);

        if (near)
            memset(near + data_at(n, me), 7 + me, 5000);
        OK(slc_window_signal(win, i, (size_t)me * 8, value, &e));
    }
    for (int i = 0; i < n; i++) {
        wait_for(w, win, (size_t)i * 8, value);
        if (!slc_window_near(win, i))
            continue;
        for (int j = 0; j < 5000; j++)
            CHECK(((char *)slc_window_local(win))[data_at(n, i) + (size_t)j] == 7 + i);
    }
    wait_flush(w, win);
}

static void check_path(struct slc_world *w, struct slc_window *win, struct slc_group *g,
                       const char *path)
{
    int n_near = 0, n_far = 0;

    for (int i = 0; i < slc_group_size(g); i++)
        if (i != slc_group_index(g))
            *(slc_window_near(win, i) ? &n_near : &n_far) += 1;
    CHECK((n_near > 0) == (slc_world_traffic(w)->near_bytes > 0));
    CHECK((n_far > 0) == (slc_world_traffic(w)->far_bytes > 0));
    CHECK(strcmp(path, "near") != 0 || n_far == 0);
    CHECK(strcmp(path, "far") != 0 || n_near == 0);
    CHECK(strcmp(path, "mixed") != 0 || (n_near && n_far));
    CHECK(slc_window_near(win, slc_group_index(g)) == slc_window_local(win));
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {.allow_tcp = getenv("ALLOW_TCP") != NULL};
    struct slc_world *w;
    struct slc_group *g;
    struct slc_window *win[3];
    int all[64], n;

    CHECK(argc == 4);
    o.force_far = atoi(argv[1]);
    o.test_seed = (unsigned)atoi(argv[2]);
    NEED(w = slc_world_create(&o, &e));
    n = slc_world_size(w);
    for (int r = 0; r < n; r++)
        all[r] = r;
    NEED(g = slc_group_create(w, all, n, &e));
    unsigned char *src = malloc((size_t)n * BLOCK);
    for (int k = 0; k < 3; k++) { /* several at once; the middle one goes first */
        NEED(win[k] = slc_window_create(g, data_at(n, n), &e));
        CHECK(((uintptr_t)slc_window_local(win[k]) & 4095) == 0);
        CHECK(slc_window_bytes(win[k]) == data_at(n, n));
        for (size_t j = 0; j < data_at(n, n); j++)
            CHECK(((char *)slc_window_local(win[k]))[j] == 0);
    }
    slc_window_destroy(win[1]);
    for (int round = 0; round < ROUNDS; round++) {
        one_round(w, g, win[0], src, round);
        one_round(w, g, win[2], src, round);
    }
    check_path(w, win[0], g, argv[3]);
    test_near(w, g, win[0]);
    free(src);
    slc_window_destroy(win[0]);
    slc_window_destroy(win[2]);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return 0;
}
