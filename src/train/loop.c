/* SPDX-License-Identifier: Apache-2.0 */
#include "train/loop.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fail.h"
#include "base/log.h"
#include "store/agree.h"
#include "train/metrics.h"
#include "train/signals.h"
#include "train/step.h"

/* State of one run of the loop. */
struct loop {
    struct slc_job *j;
    struct slc_metrics metrics;
    int64_t saved;   /* step of the newest checkpoint of this run, -1: none */
    int64_t bad;     /* steps skipped in a row */
    double slowest;  /* longest step and save so far, for the time limit */
    double save_s;
};

/* Time to leave for this rank: asked by a signal, or the limit is too near for another step
 * and a save. Shared with the others by the step. */
static bool wants_to_stop(const struct loop *l)
{
    double margin = 2 * l->slowest + 2 * l->save_s + 5.0;

    if (slc_signals_stop_wanted())
        return true;
    return l->j->max_time > 0 && slc_now() + margin > l->j->max_time;
}

static int save(struct loop *l, struct slc_err *e)
{
    struct slc_ckpt_report r = {0};

    if (l->saved == l->j->step)
        return 0;
    if (slc_job_save(l->j, &r, e) < 0)
        return -1;
    l->saved = l->j->step;
    l->save_s = fmax(l->save_s, r.seconds);
    slc_metrics_checkpoint(&l->metrics, &r);
    return 0;
}

/* A failed save is loud but not the end while training itself is sound: the older checkpoint
 * stands, the next save may succeed. A dead peer ends the job. */
static int save_or_warn(struct loop *l, struct slc_err *e)
{
    if (save(l, e) == 0)
        return 0;
    if (slc_fail_known() || e->code == SLC_EXIT_PEER || e->code == SLC_EXIT_BUSY)
        return -1;
    if (l->j->rank == 0)
        slc_warn("train", "checkpoint of step %lld failed, the older one stands: %s",
                 (long long)l->j->step, e->text);
    return 0;
}

static int validate(struct loop *l, struct slc_err *e)
{
    double loss, start = slc_now();
    int64_t targets;

    if (slc_validate_run(l->j, l->j->o->train.validate_rows, &loss, &targets, e) < 0)
        return -1;
    if (l->j->best_validation == 0 || loss < l->j->best_validation)
        l->j->best_validation = loss;
    slc_metrics_validation(&l->metrics, loss, targets, slc_now() - start);
    return 0;
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* One step and what follows it. 1: go on; 0: leave with *code; -1: error. */
static int advance(struct loop *l, int *code, struct slc_err *e)
{
    struct slc_job *j = l->j;
    const struct slc_options *o = j->o;
    struct slc_step_report r;

    if (slc_step_run(j, wants_to_stop(l), &r, e) < 0)
        return -1;
    l->slowest = fmax(l->slowest, r.seconds);
    l->bad = r.skipped ? l->bad + 1 : 0;
    if (slc_metrics_step(&l->metrics, &r, e) < 0)
        return -1;
    if (l->bad >= o->train.max_bad_steps) {
        *code = SLC_EXIT_NUMERIC;
        return slc_errf(e, SLC_EXIT_NUMERIC,
                        "%lld steps in a row had a loss or gradient that is not finite; "
                        "lower optim.lr or go back to an older checkpoint",
                        (long long)l->bad);
    }
    bool last = j->step >= o->train.steps;
    if (j->validation && (due(j->step, o->train.validate_every) || last) &&
        validate(l, e) < 0)
        return -1;
    if (r.stop && !last) {
        *code = SLC_EXIT_AGAIN;
        return save(l, e) < 0 ? -1 : 0;
    }
    if (due(j->step, o->checkpoint.every) && !last && save_or_warn(l, e) < 0)
        return -1;
    return 1;
}

int slc_loop_run(struct slc_job *j, int64_t resumed, struct slc_err *e)
{
    struct loop l = {.j = j, .saved = resumed};
    int code = SLC_EXIT_OK, rc = slc_metrics_open(&l.metrics, j, resumed, e);

    if (slc_agree(j->all, rc, e) < 0) {
        slc_metrics_close(&l.metrics);
        return -1;
    }
    slc_signals_install();
    rc = 1;
    while (rc == 1 && j->step < j->o->train.steps)
        rc = advance(&l, &code, e);
    /* A known failure outranks a request to stop: then nothing is saved. */
    if (rc == 1 && j->o->checkpoint.at_end)
        rc = save(&l, e);
    if (rc >= 0)
        slc_metrics_summary(&l.metrics);
    slc_metrics_close(&l.metrics);
    return rc < 0 ? -1 : code;
}
