/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bar.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define WIDTH 30

void slc_bar_start(struct slc_bar *p, const char *what, const char *unit,
                        double total, double done)
{
    p->what = what;
    p->unit = unit;
    p->total = total;
    p->first = done;
    p->started = p->shown = slc_now();
    p->terminal = isatty(STDERR_FILENO) == 1;
}

static void time_left(const struct slc_bar *p, double done, double now, char text[32])
{
    double rate = now > p->started ? (done - p->first) / (now - p->started) : 0;

    if (rate <= 0) {
        snprintf(text, 32, "--:--");
        return;
    }
    long s = (long)((p->total - done) / rate + 0.5);
    if (s >= 3600)
        snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
}

static void show_bar(const struct slc_bar *p, double done, double share,
                     const char *left, const char *note)
{
    char bar[WIDTH + 1];
    int n = (int)(share * WIDTH);

    memset(bar, '#', (size_t)n);
    memset(bar + n, '.', (size_t)(WIDTH - n));
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %% %.*f/%.*f %s, %s left%s%s", p->what, bar,
            100 * share, p->total < 10, done, p->total < 10, p->total, p->unit, left,
            note ? ", " : "", note ? note : "");
    fflush(stderr);
}

void slc_bar_update(struct slc_bar *p, double done, const char *note)
{
    double now = slc_now();
    char left[32];

    if (now - p->shown < (p->terminal ? 0.1 : SLC_BAR_LINE_S))
        return;
    p->shown = now;
    double share = p->total > 0 ? done / p->total : 1;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    time_left(p, done, now, left);
    if (p->terminal)
        show_bar(p, done, share, left, note);
    else
        slc_info(p->what, "%.0f %%, %.1f of %.1f %s, %s left%s%s", 100 * share, done,
                 p->total, p->unit, left, note ? ", " : "", note ? note : "");
}

void slc_bar_finish(struct slc_bar *p)
{
    if (p->terminal) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}
