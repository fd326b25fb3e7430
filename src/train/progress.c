/* SPDX-License-Identifier: Apache-2.0 */
#include "train/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define BAR_WIDTH 24

static void format_time(double s, char *text, size_t len)
{
    long t = s > 0 ? (long)(s + 0.5) : 0;

    if (t >= 3600)
        snprintf(text, len, "%ld:%02ld:%02ld", t / 3600, t / 60 % 60, t % 60);
    else
        snprintf(text, len, "%ld:%02ld", t / 60, t % 60);
}

static void draw_bar(const struct slc_metrics *m, const char *line)
{
    char bar[BAR_WIDTH + 1];
    int64_t total = m->j->o->train.steps;
    int full = total > 0 ? (int)(BAR_WIDTH * m->j->step / total) : 0;

    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    printf("\r\033[K[%s] %s", bar, line);
}

void slc_progress_step(struct slc_metrics *m, const struct slc_step_report *r,
                       double load_max_mean)
{
    const struct slc_job *j = m->j;
    int64_t total = j->o->train.steps, every = j->o->train.log_every;
    double now = slc_now();
    bool tty = isatty(STDOUT_FILENO), last = j->step == total;
    char left[32], line[256];

    if (tty ? now - m->shown < 0.1 && !last
            : j->step % every != 0 && !last && !r->skipped && m->steps > 1)
        return;
    m->shown = now;
    format_time((now - m->started) / (double)m->steps * (double)(total - j->step), left,
                sizeof(left));
    snprintf(line, sizeof(line),
             "step %lld/%lld loss %.4f lr %.2e norm %.3f %.0f tok/s load %.2f left %s%s",
             (long long)j->step, (long long)total, r->loss, r->lr, r->grad_norm,
             (double)r->tokens / r->seconds, load_max_mean, left,
             r->skipped ? " SKIPPED: not finite" : "");
    if (tty)
        draw_bar(m, line);
    else
        printf("%s\n", line);
    if (tty && last)
        printf("\n");
    fflush(stdout);
}

void slc_progress_line(struct slc_metrics *m, const char *fmt, ...)
{
    va_list ap;

    (void)m;
    if (isatty(STDOUT_FILENO))
        printf("\r\033[K");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}
