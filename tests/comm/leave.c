/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How ranks leave: leave HOW WHO WHERE FOLDER. Rank WHO does HOW (none, kill, stop,
 * refuse, exit, early) while the others wait WHERE (barrier, window, busy: a main
 * thread that polls nothing). FOLDER gets reason.json.
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "comm/check.h"
#include "comm/window.h"

static struct slc_err e = SLC_ERR_INIT;

static void act(const char *how, struct slc_world *w)
{
    usleep(300000); /* the others are waiting by now */
    if (strcmp(how, "none") != 0)
        fprintf(stderr, "leave: acts at %.3f\n", slc_now());
    if (strcmp(how, "kill") == 0)
        raise(SIGKILL);
    if (strcmp(how, "stop") == 0)
        raise(SIGSTOP);
    if (strcmp(how, "exit") == 0)
        _exit(3);
    if (strcmp(how, "refuse") == 0)
        slc_fail_raise(SLC_EXIT_INPUT, slc_world_rank(w),
                       slc_world_host(w, slc_world_rank(w)), slc_fail_phase(),
                       "the planted refusal");
}

static int wait_somewhere(const char *where, struct slc_world *w, struct slc_group *g,
                          struct slc_window *win)
{
    struct slc_wait wait = {0};

    if (strcmp(where, "busy") == 0)
        for (;;)
            pause();
    if (strcmp(where, "barrier") == 0)
        return slc_barrier(g, &e);
    while (slc_window_load(win, 0) == 0)
        if (slc_wait_step(w, &wait, &e) < 0)
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    struct slc_world_options o = {.allow_tcp = getenv("ALLOW_TCP") != NULL};
    struct slc_err early = SLC_ERR_INIT;
    struct slc_world *w;
    struct slc_group *g;
    struct slc_window *win;
    int all[64], who, rc = 0;

    CHECK(argc == 5);
    who = atoi(argv[2]);
    slc_fail_set_folder(argv[4]);
    if (strcmp(argv[1], "early") == 0 && atoi(getenv("PMIX_RANK")) == who) {
        fprintf(stderr, "leave: acts at %.3f\n", slc_now());
        slc_errf(&early, SLC_EXIT_CONFIG, "the planted early error");
        o.early = &early;
    }
    w = slc_world_create(&o, &e);
    if (!w)
        return e.code;
    for (int r = 0; r < slc_world_size(w); r++)
        all[r] = r;
    NEED(g = slc_group_create(w, all, slc_world_size(w), &e));
    NEED(win = slc_window_create(g, 1 << 20, &e));
    slc_fail_set_phase("exchange");
    usleep(1200000); /* beats carry the phase */
    if (slc_world_rank(w) == who)
        act(argv[1], w);
    if (slc_world_rank(w) == who && strcmp(argv[1], "refuse") == 0)
        rc = slc_fail_check(&e); /* who refuses takes no part any more */
    else if (strcmp(argv[1], "none") != 0)
        rc = wait_somewhere(argv[3], w, g, win);
    else
        OK(slc_barrier(g, &e));
    slc_window_destroy(win);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return rc < 0 ? e.code : 0;
}
