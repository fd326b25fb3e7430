/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What waiting costs: waiting CASE SLOW [TRANSPORT]. Rank 0 is slow for a while in the
 * middle of something that the others wait for; the CPU time of these meanwhile, by
 * getrusage, may be a tenth of the wall time at most. Then everything must go on.
 *
 *   CASE   barrier, allreduce, receive, exchange (before rank 0 posts), combine (before it
 *          computes its experts)
 *   SLOW   sleep: its main thread sleeps; stop: all of it stands still, heartbeat included
 */
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/check.h"
#include "comm/group.h"
#include "moe/shape.h"
#include "tests/moe/moe_case.h"

#define SLOW_S 1.5
#define SHARE 0.10

extern char **environ;

static struct slc_err e = SLC_ERR_INIT;
static struct slc_world *w;
static struct slc_group *g;
static int R, me;
static bool stops;
static double cpu_before, wall_before;

static double cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Rank 0 stands still here; the others start their clocks. */
static void be_slow(void)
{
    if (me == 0 && stops) {
        char command[64];
        char *argv[] = {"sh", "-c", command, NULL};
        pid_t pid;

        snprintf(command, sizeof(command), "sleep %g; kill -CONT %d", SLOW_S, getpid());
        CHECK(posix_spawnp(&pid, "sh", NULL, NULL, argv, environ) == 0);
        raise(SIGSTOP);
        CHECK(waitpid(pid, NULL, 0) == pid);
    } else if (me == 0) {
        usleep((useconds_t)(SLOW_S * 1e6));
    }
    cpu_before = cpu();
    wall_before = slc_now();
}

/* What the others waited for has happened. */
static void judge(const char *what)
{
    double used = cpu() - cpu_before, wall = slc_now() - wall_before;

    if (me == 0)
        return;
    fprintf(stderr, "rank %d: %s: %.1f %% of the CPU in %.2f s\n", me, what,
            100 * used / wall, wall);
    CHECK(wall > 0.8 * SLOW_S);
    CHECK(used < SHARE * wall);
}

/* An exchange forward; slow_at 0: before rank 0 posts, 1: before its experts. */
static void exchange(int slow_at)
{
    struct moe_case c = {
        .T = 64, .H = 32, .E = 8, .K = 2, .F = 16, .pools = 1, .renorm = true, .seed = 1};
    struct slc_backend_options b = {.threads = 1};
    struct slc_moe_options o = {.group = g, .T = c.T, .H = c.H, .E = c.E, .K = c.K,
                                .F = c.F, .pools = 1, .renorm = true, .dtype = SLC_F32,
                                .training = true, .slots = 1, .window_factor = 1.25};
    struct moe_data data;
    struct moe_layer layer;
    struct slc_queue *q;
    struct slc_moe *m;

    NEED(o.backend = slc_backend_open("cpu", &b, &e));
    NEED(q = slc_queue_create(o.backend, &e));
    NEED(m = slc_moe_create(&o, &e));
    moe_data_init(&data, &c, 0, me * c.T, c.T, c.T * R, slc_expert_first(c.E, R, me),
                  slc_expert_first(c.E, R, me + 1));
    OK(moe_layer_init(&layer, &c, &data, m, o.backend, q, &e));
    for (int round = 0; round < 3; round++) { /* the second one is the slow one */
        struct slc_moe_call call = moe_layer_forward(&layer);

        OK(slc_barrier(g, &e));
        if (round == 1 && slow_at == 0)
            be_slow();
        OK(slc_moe_dispatch_post(m, 0, &call, &e));
        OK(slc_moe_dispatch_finish(m, 0, &e));
        if (round == 1 && slow_at == 0)
            judge("exchange");
        if (round == 1 && slow_at == 1)
            be_slow();
        OK(slc_moe_experts(m, 0, &e));
        OK(slc_moe_combine_post(m, 0, &e));
        OK(slc_moe_combine_finish(m, 0, &e));
        if (round == 1 && slow_at == 1)
            judge("combine");
    }
    moe_layer_release(&layer);
    moe_data_release(&data);
    slc_moe_destroy(m);
    slc_queue_destroy(q);
    slc_backend_close(o.backend);
}

static void allreduce(void)
{
    const int64_t n = 3 << 20;
    float *x = malloc((size_t)n * sizeof(*x));

    NEED(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(me + 1);
    OK(slc_barrier(g, &e));
    be_slow();
    OK(slc_allreduce(g, x, n, SLC_F32, &e));
    judge("allreduce");
    for (int64_t i = 0; i < n; i += 1000)
        CHECK(x[i] == (float)(R * (R + 1) / 2));
    free(x);
}

static void receive(void)
{
    char word = 0;

    OK(slc_barrier(g, &e));
    be_slow();
    for (int r = 1; me == 0 && r < R; r++)
        OK(slc_send(g, r, 5, &word, 1, &e));
    if (me != 0)
        OK(slc_recv(g, 0, 5, &word, 1, &e));
    judge("receive");
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {.allow_tcp = getenv("ALLOW_TCP") != NULL};
    int members[64];

    CHECK(argc == 3);
    stops = strcmp(argv[2], "stop") == 0;
    NEED(w = slc_world_create(&o, &e));
    R = slc_world_size(w);
    me = slc_world_rank(w);
    slc_log_init(me, R);
    for (int r = 0; r < R; r++)
        members[r] = r;
    NEED(g = slc_group_create(w, members, R, &e));
    if (!strcmp(argv[1], "barrier")) {
        OK(slc_barrier(g, &e));
        be_slow();
        OK(slc_barrier(g, &e));
        judge("barrier");
    } else if (!strcmp(argv[1], "allreduce")) {
        allreduce();
    } else if (!strcmp(argv[1], "receive")) {
        receive();
    } else {
        CHECK(!strcmp(argv[1], "exchange") || !strcmp(argv[1], "combine"));
        exchange(!strcmp(argv[1], "combine"));
    }
    slc_group_destroy(g);
    slc_world_destroy(w);
    return 0;
}
