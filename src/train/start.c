/* SPDX-License-Identifier: Apache-2.0 */
/* How a job says where the time of its start went. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/start.h"
#include "train/metrics.h"
#include "train/progress.h"

/* What one rank knows of its start. */
struct slc_start_card {
    double from, cpu_s;
    double at[SLC_START_PHASES];
};

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

int slc_metrics_start_open(struct slc_metrics *m, struct slc_err *e)
{
    if (slc_start_get()->n == 0)
        return 0;
    m->start = calloc((size_t)m->j->size, sizeof(*m->start));
    return m->start ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", m->j->size);
}

/* The earliest beginning, the sum of the CPU times, and when the last rank ended each phase:
 * the differences of these add up to the whole. */
static struct slc_start_card over_ranks(const struct slc_start_card *c, int ranks, int n)
{
    struct slc_start_card all = c[0];

    for (int r = 1; r < ranks; r++) {
        all.from = c[r].from < all.from ? c[r].from : all.from;
        all.cpu_s += c[r].cpu_s;
        for (int i = 0; i < n; i++)
            all.at[i] = c[r].at[i] > all.at[i] ? c[r].at[i] : all.at[i];
    }
    return all;
}

static void say(struct slc_metrics *m, const struct slc_start *s,
                const struct slc_start_card *all)
{
    double total = all->at[s->n - 1] - all->from, before = all->from;
    char line[512];
    int at = 0;

    fprintf(m->file,
            "{\"step\": %lld, \"start_s\": %.6f, \"start_from\": \"%s\", \"start_cpu_s\": %.6f, "
            "\"start\": {",
            (long long)m->j->step, total, s->from_srun ? "srun" : "process", all->cpu_s);
    for (int i = 0; i < s->n; i++) {
        double d = all->at[i] - before;

        fprintf(m->file, "%s\"%s\": %.6f", i ? ", " : "", s->name[i], d);
        if (d >= 0.0005 && at < (int)sizeof(line))
            at += snprintf(line + at, sizeof(line) - (size_t)at, "%s%s %.3f", at ? ", " : "",
                           s->name[i], d);
        before = all->at[i];
    }
    fprintf(m->file, "}}\n");
    fflush(m->file);
    slc_progress_line(m, "first step done %.2f s after %s: %s", total,
                      s->from_srun ? "srun" : "the first process began", at ? line : "");
}

int slc_metrics_start(struct slc_metrics *m, struct slc_err *e)
{
    const struct slc_start *s = slc_start_get();
    struct slc_job *j = m->j;
    int rc = 0;

    if (!m->start)
        return 0;
    slc_start_mark("first step");
    slc_start_end();
    struct slc_start_card *own = &m->start[j->rank];
    own->from = s->from;
    own->cpu_s = cpu_seconds();
    for (int i = 0; i < s->n; i++)
        own->at[i] = s->at[i];
    if (j->all)
        rc = slc_allgather(j->all, own, m->start, sizeof(*own), e);
    if (rc == 0 && m->file) {
        struct slc_start_card all = over_ranks(m->start, j->size, s->n);
        say(m, s, &all);
    }
    free(m->start);
    m->start = NULL;
    return rc;
}
