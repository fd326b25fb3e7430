/* SPDX-License-Identifier: Apache-2.0 */
#include "train/step.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/fail.h"

volatile int64_t slc_steps_finished;

/* Sums of doubles over all ranks; alone they are already whole. */
static int sum_over_ranks(struct slc_job *j, double *v, int n, struct slc_err *e)
{
    return j->all ? slc_allreduce(j->all, v, n, SLC_F64, e) : 0;
}

/* First sample of this rank's part of micro-batch m of the step. */
static int64_t first_sample(const struct slc_job *j, int64_t m)
{
    return j->samples + (m * j->size + j->rank) * j->batch.rows;
}

enum { COUNT_TARGETS, COUNT_TOKENS, COUNT_DOCUMENTS, COUNTS };

/* Totals of the whole step, and routed tokens of each micro-batch, over all ranks. */
static int count_step(struct slc_job *j, double total[COUNTS], double *micro_tokens,
                      struct slc_err *e)
{
    memset(total, 0, COUNTS * sizeof(*total));
    for (int64_t m = 0; m < j->micro_batches; m++) {
        struct slc_sample_counts c;

        if (slc_sampler_count(j->sampler, first_sample(j, m), j->batch.rows, &c, e) < 0)
            return -1;
        total[COUNT_TARGETS] += (double)c.targets;
        total[COUNT_TOKENS] += (double)c.tokens;
        total[COUNT_DOCUMENTS] += (double)c.documents;
        micro_tokens[m] = (double)c.tokens;
    }
    if (sum_over_ranks(j, total, COUNTS, e) < 0)
        return -1;
    return sum_over_ranks(j, micro_tokens, (int)j->micro_batches, e);
}

/* Adds the time since *since to a phase; the next one begins. */
static void lap(struct slc_step_report *r, enum slc_phase phase, double *since)
{
    double now = slc_now();

    r->time.s[phase] += now - *since;
    *since = now;
}

/* Like lap for a pass of the model: what it exchanged meanwhile counts as exchange. */
static void lap_pass(struct slc_job *j, struct slc_step_report *r, enum slc_phase phase,
                     double *since)
{
    struct slc_model_counters now;
    double exchange, wait;

    slc_model_counters(j->model, &now, false);
    exchange = now.seconds_exchange - r->counters.seconds_exchange;
    wait = now.seconds_wait - r->counters.seconds_wait;
    r->counters = now;
    r->time.s[SLC_PHASE_EXCHANGE] += exchange - wait;
    r->time.s[SLC_PHASE_WAIT] += wait;
    r->time.s[phase] -= exchange;
    lap(r, phase, since);
}

static int run_micro_batch(struct slc_job *j, int64_t m, const struct slc_loss_weights *w,
                           double sums[3], struct slc_step_report *r, double *since,
                           struct slc_err *e)
{
    struct slc_model_result out;

    if (slc_sampler_fill(j->sampler, first_sample(j, m), &j->batch, e) < 0)
        return -1;
    lap(r, SLC_PHASE_INPUT, since);
    if (slc_model_forward(j->model, &j->batch, w, NULL, NULL, NULL, e) < 0)
        return -1;
    lap_pass(j, r, SLC_PHASE_FORWARD, since);
    if (m == j->micro_batches - 1)
        slc_optim_reduce_begin(j->optim);
    if (slc_model_backward(j->model, e) < 0)
        return -1;
    /* All results are read at once, where they can wait so long. */
    if (m + 1 == j->micro_batches || slc_model_results_full(j->model)) {
        if (slc_model_results(j->model, &out, e) < 0)
            return -1;
        sums[0] += out.loss_sum;
        sums[1] += out.aux;
        sums[2] += out.z;
    }
    lap_pass(j, r, SLC_PHASE_BACKWARD, since);
    return 0;
}

static int update(struct slc_job *j, struct slc_step_report *r, double *since,
                  struct slc_err *e)
{
    struct slc_optim_report opt;
    bool finite = isfinite(r->loss) && isfinite(r->aux) && isfinite(r->z);

    if (slc_optim_step(j->optim, slc_model_queue(j->model), r->lr, finite, &opt, e) < 0)
        return -1;
    r->grad_norm = opt.grad_norm;
    r->skipped = opt.skipped;
    r->time.s[SLC_PHASE_REDUCE] += opt.reduce_s;
    r->time.s[SLC_PHASE_GATHER] += opt.gather_s;
    r->time.s[SLC_PHASE_OPTIMIZER] -= opt.reduce_s + opt.gather_s;
    lap(r, SLC_PHASE_OPTIMIZER, since);
    return 0;
}

int slc_step_run(struct slc_job *j, bool want_stop, struct slc_step_report *r,
                 struct slc_err *e)
{
    double total[COUNTS], sums[4] = {0};
    double t0 = slc_now(), since = t0;

    const uint64_t fetches = j->backend->fetches, allocations = j->backend->allocations;

    memset(r, 0, sizeof(*r));
    slc_fail_set_phase("step");
    slc_model_counters(j->model, &r->counters, true);
    memset(&r->counters, 0, sizeof(r->counters));
    if (count_step(j, total, j->micro_tokens, e) < 0)
        return -1;
    slc_optim_zero_grad(j->optim, slc_model_queue(j->model));
    lap(r, SLC_PHASE_INPUT, &since);
    for (int64_t m = 0; m < j->micro_batches; m++) {
        struct slc_loss_weights w = {
            .targets = total[COUNT_TARGETS],
            .tokens = total[COUNT_TOKENS],
            .micro_tokens = j->micro_tokens[m],
            .sequences = total[COUNT_DOCUMENTS],
        };
        if (run_micro_batch(j, m, &w, sums, r, &since, e) < 0)
            return -1;
    }
    sums[3] = want_stop;
    if (sum_over_ranks(j, sums, 4, e) < 0)
        return -1;
    lap(r, SLC_PHASE_AGREE, &since);
    r->targets = (int64_t)total[COUNT_TARGETS];
    r->tokens = (int64_t)total[COUNT_TOKENS];
    r->loss = r->targets > 0 ? sums[0] / total[COUNT_TARGETS] : 0.0;
    r->aux = sums[1];
    r->z = sums[2];
    r->stop = sums[3] > 0;
    r->lr = slc_schedule_lr(&j->schedule, j->step);
    if (update(j, r, &since, e) < 0)
        return -1;
    j->step++;
    slc_steps_finished++;
    j->samples += j->micro_batches * j->size * j->batch.rows;
    j->tokens += r->tokens;
    j->skipped += r->skipped;
    r->seconds = slc_now() - t0;
    r->fetches = j->backend->fetches - fetches;
    r->allocations = j->backend->allocations - allocations;
    return 0;
}

/* Rows past the last one asked for count nothing: their targets are masked. */
static void mask_rows_from(struct slc_batch *b, int64_t row)
{
    for (int64_t t = (row > 0 ? row : 0) * b->S; t < b->T; t++)
        b->targets[t] = -1;
}

int slc_validate_run(struct slc_job *j, int64_t rows, double *loss, int64_t *targets,
                     struct slc_err *e)
{
    int64_t have = slc_sampler_rows(j->validation);
    int64_t n = rows > 0 && rows < have ? rows : have;
    int64_t mine = j->batch.rows, stride = mine * j->size;
    double sums[2] = {0};

    slc_fail_set_phase("validation");
    for (int64_t at = 0; at < n; at += stride) {
        int64_t first = at + j->rank * mine;
        struct slc_model_result out;

        if (slc_sampler_fill(j->validation, first, &j->batch, e) < 0)
            return -1;
        mask_rows_from(&j->batch, n - first);
        if (slc_model_forward(j->model, &j->batch, NULL, NULL, NULL, &out, e) < 0)
            return -1;
        for (int64_t t = 0; t < j->batch.T; t++)
            sums[1] += j->batch.targets[t] >= 0;
        sums[0] += out.loss_sum;
    }
    if (sum_over_ranks(j, sums, 2, e) < 0)
        return -1;
    *targets = (int64_t)sums[1];
    *loss = sums[1] > 0 ? sums[0] / sums[1] : 0.0;
    return 0;
}
