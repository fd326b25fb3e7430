/* SPDX-License-Identifier: Apache-2.0 */
#include "train/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "train/progress.h"

#define METRICS_MAX ((size_t)1 << 32)

/* Keep the lines of steps up to `last`: the run goes on from there and writes its own. */
static int drop_after(const char *path, int64_t last, struct slc_err *e)
{
    char *text, *out;
    size_t len, kept = 0;

    if (access(path, F_OK) < 0)
        return 0;
    if (slc_file_read(path, METRICS_MAX, &text, &len, e) < 0)
        return -1;
    out = text;
    for (char *line = text, *end; line < text + len; line = end) {
        char *nl = strchr(line, '\n');
        long long step;

        end = nl ? nl + 1 : text + len;
        /* A torn last line has no newline and is dropped. */
        if (!nl || sscanf(line, "{\"step\": %lld", &step) != 1 || step > last)
            continue;
        memmove(out + kept, line, (size_t)(end - line));
        kept += (size_t)(end - line);
    }
    int rc = slc_file_replace(path, text, kept, e);
    free(text);
    return rc;
}

static int open_file(struct slc_metrics *m, int64_t resumed, struct slc_err *e)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/metrics.jsonl", m->j->o->run.dir);
    if (drop_after(path, resumed < 0 ? -1 : resumed, e) < 0)
        return -1;
    m->file = fopen(path, "ae");
    if (!m->file)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", path, strerror(errno));
    return 0;
}

int slc_metrics_open(struct slc_metrics *m, struct slc_job *j, int64_t resumed,
                     struct slc_err *e)
{
    memset(m, 0, sizeof(*m));
    m->j = j;
    m->started = m->shown = slc_now();
    m->first_step = j->step;
    m->first_tokens = j->tokens;
    slc_model_load(j->model, &m->layers);
    size_t n = (size_t)(m->layers * j->spec.E);
    m->load = calloc(n + 1, sizeof(*m->load));
    m->seen = calloc(n + 1, sizeof(*m->seen));
    if (!m->load || !m->seen)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the expert load of %d layers",
                        m->layers);
    if (slc_metrics_start_open(m, e) < 0)
        return -1;
    return j->rank == 0 ? open_file(m, resumed, e) : 0;
}

void slc_metrics_close(struct slc_metrics *m)
{
    if (m->file)
        fclose(m->file);
    free(m->start);
    free(m->load);
    free(m->seen);
    memset(m, 0, sizeof(*m));
}

/* This step's load over all ranks, and the traffic of this step. */
static int gather(struct slc_metrics *m, const struct slc_model_counters *c,
                  struct slc_err *e)
{
    struct slc_job *j = m->j;
    int n = m->layers * (int)j->spec.E;
    const int64_t *now = slc_model_load(j->model, &m->layers);

    for (int i = 0; i < n; i++) {
        m->load[i] = now[i] - m->seen[i];
        m->seen[i] = now[i];
    }
    int64_t sums[4] = {(int64_t)c->rounds, (int64_t)c->near_bytes,
                       (int64_t)c->far_bytes, (int64_t)c->dropped};
    struct slc_traffic *t = slc_world_traffic(j->world);
    m->traffic = *t;
    memset(t, 0, sizeof(*t));
    if (j->all && slc_allreduce(j->all, sums, 4, SLC_I64, e) < 0)
        return -1;
    if (j->all && n > 0 && slc_allreduce(j->all, m->load, n, SLC_I64, e) < 0)
        return -1;
    for (int i = 0; i < 4; i++)
        m->totals[i] = (unsigned long long)sums[i];
    return 0;
}

static double load_max_mean(const struct slc_metrics *m, int layer)
{
    int64_t E = m->j->spec.E, max = 0, sum = 0;
    const int64_t *l = m->load + layer * E;

    for (int64_t i = 0; i < E; i++) {
        sum += l[i];
        max = l[i] > max ? l[i] : max;
    }
    return sum > 0 ? (double)max * (double)E / (double)sum : 0.0;
}

static void write_time(const struct slc_metrics *m, const struct slc_step_report *r)
{
    const struct slc_model_counters *c = &r->counters;

    fputs(", \"time\": ", m->file);
    slc_phases_write(m->file, &r->time);
    fprintf(m->file,
            ", \"parts\": {\"attention\": %.6f, \"dense\": %.6f, \"router\": %.6f, "
            "\"experts\": %.6f, \"head\": %.6f}",
            c->seconds_attention, c->seconds_dense, c->seconds_router,
            c->seconds_experts, c->seconds_head);
}

static void write_load(const struct slc_metrics *m)
{
    int64_t E = m->j->spec.E;

    fprintf(m->file, ", \"load_max_mean\": [");
    for (int i = 0; i < m->layers; i++)
        fprintf(m->file, "%s%.4f", i ? ", " : "", load_max_mean(m, i));
    fprintf(m->file, "], \"load\": [");
    for (int i = 0; i < m->layers; i++) {
        fprintf(m->file, "%s[", i ? ", " : "");
        for (int64_t k = 0; k < E; k++)
            fprintf(m->file, "%s%lld", k ? ", " : "", (long long)m->load[i * E + k]);
        fprintf(m->file, "]");
    }
    fprintf(m->file, "]");
}

/* JSON has no NaN or infinity. */
static void write_real(FILE *f, const char *key, double x)
{
    if (x - x == 0.0)
        fprintf(f, ", \"%s\": %.9g", key, x);
    else
        fprintf(f, ", \"%s\": null", key);
}

/* When the step was finished, on the clock that dates files and logs. */
static double unix_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void write_step(const struct slc_metrics *m, const struct slc_step_report *r)
{
    FILE *f = m->file;

    fprintf(f, "{\"step\": %lld, \"tokens\": %lld", (long long)m->j->step,
            (long long)m->j->tokens);
    write_real(f, "loss", r->loss);
    write_real(f, "aux_loss", r->aux);
    write_real(f, "z_loss", r->z);
    write_real(f, "lr", r->lr);
    write_real(f, "grad_norm", r->grad_norm);
    fprintf(f,
            ", \"skipped\": %s, \"tokens_per_s\": %.1f, \"step_s\": %.6f, "
            "\"at\": %.3f",
            r->skipped ? "true" : "false", (double)r->tokens / r->seconds, r->seconds,
            unix_time());
    write_time(m, r);
    write_load(m);
    fprintf(f,
            ", \"rounds\": %llu, \"near_bytes\": %llu, \"far_bytes\": %llu, "
            "\"collective_bytes\": %llu, \"dropped\": %llu, \"fetches\": %llu, "
            "\"allocations\": %llu}\n",
            m->totals[0], m->totals[1], m->totals[2], m->traffic.collective_bytes,
            m->totals[3], (unsigned long long)r->fetches,
            (unsigned long long)r->allocations);
    fflush(f);
}

int slc_metrics_step(struct slc_metrics *m, const struct slc_step_report *r,
                     struct slc_err *e)
{
    double start = slc_now();

    if (slc_metrics_start(m, e) < 0 || gather(m, &r->counters, e) < 0)
        return -1;
    if (m->steps++ == 0)
        m->first_loss = r->loss;
    if (!r->skipped)
        m->last_loss = r->loss;
    m->train_s += r->seconds;
    slc_phases_add(&m->time, &r->time);
    m->exchange_bytes += (double)(m->totals[1] + m->totals[2]);
    if (m->file) {
        write_step(m, r);
        double worst = 0;
        for (int i = 0; i < m->layers; i++)
            worst = load_max_mean(m, i) > worst ? load_max_mean(m, i) : worst;
        slc_progress_step(m, r, worst);
    }
    m->time.s[SLC_PHASE_METRICS] += slc_now() - start;
    return 0;
}

void slc_metrics_validation(struct slc_metrics *m, double loss, int64_t targets,
                            double seconds)
{
    m->last_val_loss = loss;
    m->time.s[SLC_PHASE_VALIDATE] += seconds;
    if (!m->file)
        return;
    fprintf(m->file, "{\"step\": %lld", (long long)m->j->step);
    write_real(m->file, "val_loss", loss);
    fprintf(m->file, ", \"val_targets\": %lld, \"val_s\": %.6f}\n", (long long)targets,
            seconds);
    fflush(m->file);
    slc_progress_line(m, "step %lld: validation loss %.4f over %lld targets",
                      (long long)m->j->step, loss, (long long)targets);
}

void slc_metrics_checkpoint(struct slc_metrics *m, const struct slc_ckpt_report *r)
{
    m->save_bytes += (double)r->bytes;
    m->save_s += r->seconds;
    m->time.s[SLC_PHASE_SAVE] += r->seconds;
    if (!m->file)
        return;
    fprintf(m->file,
            "{\"step\": %lld, \"checkpoint_s\": %.6f, \"checkpoint_bytes\": %lld}\n",
            (long long)m->j->step, r->seconds, (long long)r->bytes);
    fflush(m->file);
    slc_progress_line(m, "step %lld: checkpoint %.1f MB in %.2f s (%.2f GB/s)",
                      (long long)m->j->step, (double)r->bytes / 1e6, r->seconds,
                      (double)r->bytes / 1e9 / (r->seconds > 0 ? r->seconds : 1));
}

void slc_metrics_summary(const struct slc_metrics *m)
{
    const struct slc_job *j = m->j;

    if (j->rank != 0 || m->steps == 0)
        return;
    printf("%-22s %lld to %lld of %lld\n", "steps", (long long)m->first_step,
           (long long)j->step, (long long)j->o->train.steps);
    printf("%-22s %.4f -> %.4f\n", "loss (nats a target)", m->first_loss, m->last_loss);
    if (m->last_val_loss > 0)
        printf("%-22s %.4f\n", "validation loss", m->last_val_loss);
    printf("%-22s %.0f\n", "tokens/s",
           (double)(j->tokens - m->first_tokens) / (m->train_s > 0 ? m->train_s : 1));
    double exchange_s = m->time.s[SLC_PHASE_EXCHANGE] + m->time.s[SLC_PHASE_WAIT];
    if (m->exchange_bytes > 0 && exchange_s > 0)
        printf("%-22s %.2f GB/s over all ranks, waits included\n", "exchange",
               m->exchange_bytes / 1e9 / exchange_s);
    if (m->save_bytes > 0)
        printf("%-22s %.2f GB/s\n", "checkpoint",
               m->save_bytes / 1e9 / (m->save_s > 0 ? m->save_s : 1));
    printf("%-22s %lld\n", "steps skipped", (long long)j->skipped);
    printf("%-22s %s\n", "run folder", j->o->run.dir);
    slc_phases_print(stdout, &m->time, slc_now() - m->started);
    fflush(stdout);
}
