/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum slc_log_level slc_log_max = SLC_LOG_INFO;

static int log_rank, log_size = 1;
static atomic_int log_errors;

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

void slc_log_init(int rank, int size)
{
    const char *want = getenv("SLUICE_LOG");

    log_rank = rank;
    log_size = size;
    slc_log_max = rank == 0 ? SLC_LOG_INFO : SLC_LOG_WARN;
    for (int i = SLC_LOG_ERROR; want && i <= SLC_LOG_TRACE; i++)
        if (strcmp(want, level_names[i]) == 0)
            slc_log_max = (enum slc_log_level)i;
}

int slc_log_errors(void)
{
    return atomic_load(&log_errors);
}

void slc_log_write(enum slc_log_level level, const char *component, const char *fmt, ...)
{
    char line[1024];
    int n = 0;
    va_list ap;

    if (level == SLC_LOG_ERROR)
        atomic_fetch_add(&log_errors, 1);
    if (log_size > 1)
        n = snprintf(line, sizeof(line), "sluice[%d]: ", log_rank);
    else
        n = snprintf(line, sizeof(line), "sluice: ");
    if (level <= SLC_LOG_WARN)
        n += snprintf(line + n, sizeof(line) - n, "%s: ", level_names[level]);
    n += snprintf(line + n, sizeof(line) - n, "%s: ", component);
    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof(line) - n, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    /* One write per line keeps the lines of several ranks whole. */
    if (write(STDERR_FILENO, line, n) < 0)
        return;
}
