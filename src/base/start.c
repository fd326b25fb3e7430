/* SPDX-License-Identifier: Apache-2.0 */
#include "base/start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct slc_start start;
static int recording;

static double clock_s(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds since the kernel made this process; an exec in between does not count anew. 0
 * where it cannot be known. */
static double age(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

    if (f)
        fclose(f);
    text[n] = '\0';
    /* the name in brackets may hold anything; fields are counted after it */
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 1,
                     " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                     "%*d %*d %*d %llu",
                     &ticks) != 1)
        return 0;
    double s = clock_s(CLOCK_BOOTTIME) - (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return s > 0 ? s : 0;
}

void slc_start_begin(void)
{
    const char *text = getenv("SLUICE_SRUN_AT");
    double now = clock_s(CLOCK_REALTIME), born = now - age();
    double from = text ? strtod(text, NULL) : 0;

    memset(&start, 0, sizeof(start));
    /* Set for another step long ago, or by a clock that runs ahead: of no use. */
    start.from_srun = from > born - 3600 && from <= born + 0.02;
    start.from = start.from_srun ? from : born;
    start.name[0] = "launch";
    start.at[0] = born > start.from ? born : start.from;
    start.name[1] = "load";
    start.at[1] = now;
    start.n = 2;
    recording = 1;
}

void slc_start_mark(const char *phase)
{
    if (!recording || start.n == SLC_START_PHASES)
        return;
    start.name[start.n] = phase;
    start.at[start.n++] = clock_s(CLOCK_REALTIME);
}

void slc_start_end(void)
{
    recording = 0;
}

const struct slc_start *slc_start_get(void)
{
    return &start;
}
