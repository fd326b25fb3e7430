/* SPDX-License-Identifier: Apache-2.0 */
/* Is a process of this machine still there? By pid and start time, within one
 * namespace. */
#include "comm/comm_private.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* State letter and start time from /proc/PID/stat; false: no such process. */
static bool read_stat(int pid, char *state, uint64_t *start)
{
    char path[32], text[1024];
    unsigned long long when;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    /* the name in brackets may hold anything; fields are counted after it */
    const char *p = strrchr(text, ')');
    if (!p ||
        sscanf(p + 1,
               " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
               "%*d %*d %llu",
               state, &when) != 2)
        return false;
    *start = when;
    return true;
}

void slc_process_self(struct slc_process *p)
{
    struct stat st;
    char state;

    memset(p, 0, sizeof(*p));
    p->pid = (int32_t)getpid();
    if (stat("/proc/self/ns/pid", &st) == 0)
        p->space = (uint64_t)st.st_ino;
    if (!read_stat(p->pid, &state, &p->start))
        p->space = 0;
}

/* Same pid namespace as ours: else its pid means nothing here. */
static bool comparable(const struct slc_process *p)
{
    static uint64_t own;
    struct stat st;

    if (!own && stat("/proc/self/ns/pid", &st) == 0)
        own = (uint64_t)st.st_ino;
    return p->space && p->space == own;
}

bool slc_process_gone(const struct slc_process *p)
{
    char state;
    uint64_t start;

    if (!comparable(p))
        return false;
    if (!read_stat(p->pid, &state, &start))
        return true;
    return start != p->start || state == 'Z' || state == 'X';
}

void slc_process_kill(const struct slc_process *p)
{
    if (comparable(p) && !slc_process_gone(p))
        kill(p->pid, SIGKILL);
}
