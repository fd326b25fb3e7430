/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into sluice: rank $KILL_RANK sends itself $KILL_SIGNAL (a number) as soon as it is in
 * phase $KILL_PHASE (what slc_fail_phase says) with $KILL_STEP optimizer steps finished, and
 * writes the time to $KILL_MARK. A thread watches, so nothing in the program is changed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef const char *phase_f(void);

static void mark(void)
{
    struct timespec t;
    char line[64];
    int fd = open(getenv("KILL_MARK"), O_WRONLY | O_CREAT | O_TRUNC, 0666);

    clock_gettime(CLOCK_REALTIME, &t);
    int n = snprintf(line, sizeof(line), "%lld.%03ld\n", (long long)t.tv_sec,
                     t.tv_nsec / 1000000);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(99);
    close(fd);
}

static void *watch(void *unused)
{
    phase_f *phase = (phase_f *)dlsym(RTLD_DEFAULT, "slc_fail_phase");
    volatile int64_t *steps = dlsym(RTLD_DEFAULT, "slc_steps_finished");
    int64_t at = atoll(getenv("KILL_STEP"));
    const char *want = getenv("KILL_PHASE");

    if (!phase || !steps)
        _exit(99); /* not the program this is for */
    while (*steps < at || strcmp(phase(), want) != 0)
        usleep(20);
    mark();
    kill(getpid(), atoi(getenv("KILL_SIGNAL")));
    return unused;
}

__attribute__((constructor)) static void start(void)
{
    const char *rank = getenv("KILL_RANK"), *me = getenv("PMIX_RANK");
    pthread_t t;

    /* srun and the shell before it are not the rank; neither is another rank. */
    if (!rank || !me || atoi(rank) != atoi(me) || !dlsym(RTLD_DEFAULT, "slc_fail_phase"))
        return;
    if (pthread_create(&t, NULL, watch, NULL) == 0)
        pthread_detach(t);
}
