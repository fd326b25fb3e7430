/* SPDX-License-Identifier: Apache-2.0 */
/* The glue between a job's state and a checkpoint: which tensors, which extents, which
 * counters; how elements get between them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "store/hf.h"
#include "store/agree.h"
#include "train/job.h"

static const char *const kinds[] = {"weights", "adamw.m", "adamw.v"};
enum { KINDS = 3 };

/* The tensor list of a checkpoint and, beside each parameter, where its extents begin. */
struct tensors {
    struct slc_job *j;
    struct slc_ckpt_tensor *t;
    struct slc_ckpt_extent *extents; /* this rank's, grouped by parameter */
    int64_t *at;                     /* where each one's state begins */
    int *first;                      /* [n params + 1] into extents and at */
    int n;
};

static void tensors_release(struct tensors *x)
{
    free(x->t);
    free(x->extents);
    free(x->at);
    free(x->first);
}

/* The optimizer lists its extents by replica group; a checkpoint wants them by parameter. */
static void group_extents(struct tensors *x, const struct slc_optim_extent *own, int n)
{
    int at = 0;

    for (int i = 0; i < x->j->params.n; i++) {
        x->first[i] = at;
        for (int k = 0; k < n; k++) {
            if (own[k].param != i)
                continue;
            x->extents[at] = (struct slc_ckpt_extent){own[k].start, own[k].count};
            x->at[at++] = own[k].at;
        }
    }
    x->first[x->j->params.n] = at;
    SLC_ASSERT(at == n);
}

/* kinds_wanted: 1 (weights alone) or KINDS. */
static int tensors_init(struct tensors *x, struct slc_job *j, int kinds_wanted,
                        struct slc_err *e)
{
    const struct slc_params *ps = &j->params;
    int n_own;
    const struct slc_optim_extent *own = slc_optim_extents(j->optim, &n_own);

    memset(x, 0, sizeof(*x));
    x->j = j;
    x->n = ps->n * kinds_wanted;
    x->t = calloc((size_t)x->n, sizeof(*x->t));
    x->extents = calloc((size_t)n_own + 1, sizeof(*x->extents));
    x->at = calloc((size_t)n_own + 1, sizeof(*x->at));
    x->first = calloc((size_t)ps->n + 1, sizeof(*x->first));
    if (!x->t || !x->extents || !x->at || !x->first) {
        tensors_release(x);
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the list of %d tensors", x->n);
    }
    group_extents(x, own, n_own);
    for (int i = 0; i < x->n; i++) {
        const struct slc_param *p = &ps->p[i % ps->n];
        struct slc_ckpt_tensor *t = &x->t[i];

        snprintf(t->name, sizeof(t->name), "%s/%s", kinds[i / ps->n], p->name);
        t->dtype = SLC_F32;
        t->ndim = p->ndim;
        memcpy(t->shape, p->shape, sizeof(p->shape));
        t->extents = x->extents + x->first[i % ps->n];
        t->n_extents = x->first[i % ps->n + 1] - x->first[i % ps->n];
    }
    return 0;
}

/* Address of element `start` of tensor i in this rank's optimizer state. */
static void *element(struct tensors *x, int i, int64_t start, int64_t count)
{
    int n = x->j->params.n, p = i % n;

    for (int k = x->first[p]; k < x->first[p + 1]; k++) {
        const struct slc_ckpt_extent *s = &x->extents[k];
        if (start >= s->start && start + count <= s->start + s->count)
            return slc_optim_kept(x->j->optim, i / n, p, start,
                                  x->at[k] + (start - s->start));
    }
    SLC_BUG("elements [%lld, +%lld) of tensor %d are not of this rank", (long long)start,
            (long long)count, i);
}

/* A checkpoint holds fp32 whatever the state is kept in: bf16 is widened, without loss. */
static int read_elements(void *ctx, int i, int64_t start, int64_t count, void *buf,
                         struct slc_err *e)
{
    struct tensors *x = ctx;
    const enum slc_dtype dtype = slc_optim_dtype(x->j->optim);
    const size_t width = slc_dtype_size(dtype);
    /* into the end of buf, from where it is widened towards the front */
    char *to = (char *)buf + (size_t)count * (sizeof(float) - width);

    if (slc_fetch(x->j->queue, to, element(x, i, start, count), (size_t)count * width, e) < 0)
        return -1;
    for (int64_t k = 0; dtype == SLC_BF16 && k < count; k++) {
        uint16_t low;
        float f;

        memcpy(&low, to + 2 * k, 2);
        f = slc_bf16_to_f32(low);
        memcpy((char *)buf + 4 * k, &f, 4);
    }
    return 0;
}

static int write_elements(void *ctx, int i, int64_t start, int64_t count, void *buf,
                          struct slc_err *e)
{
    struct tensors *x = ctx;
    uint16_t low[4096];

    (void)e;
    if (slc_optim_dtype(x->j->optim) == SLC_F32) {
        slc_upload(x->j->queue, element(x, i, start, count), buf,
                   (size_t)count * sizeof(float));
        return 0;
    }
    for (int64_t at = 0, n; at < count; at += n) {
        n = count - at < 4096 ? count - at : 4096;
        for (int64_t k = 0; k < n; k++)
            low[k] = slc_f32_to_bf16(((const float *)buf)[at + k]);
        slc_upload(x->j->queue, element(x, i, start + at, n), low, (size_t)n * 2);
    }
    return 0;
}

int slc_job_save(struct slc_job *j, struct slc_ckpt_report *r, struct slc_err *e)
{
    struct slc_ckpt_state s = {
        .step = j->step,
        .updates = slc_optim_updates(j->optim),
        .samples = j->samples,
        .tokens = j->tokens,
        .skipped = j->skipped,
        .seed = (uint64_t)j->o->data.seed,
        .spec_digest = slc_spec_digest(&j->spec),
        .corpus_digest = slc_corpus_digest(j->corpus),
        .best_validation = j->best_validation,
    };
    struct tensors x;
    char versions[256];
    int rc;

    slc_fail_set_phase("save");
    slc_job_versions(j, versions, sizeof(versions));
    s.versions = strdup(versions);
    s.config = slc_spec_text(&j->spec, e);
    s.run_file = slc_options_text(j->o);
    rc = s.versions && s.config && s.run_file ? tensors_init(&x, j, KINDS, e) : -1;
    if (slc_agree(j->all, rc, e) < 0) {
        if (rc == 0)
            tensors_release(&x);
        slc_ckpt_state_release(&s);
        return -1;
    }
    rc = slc_ckpt_save(j->all, j->o->run.dir, (int)j->o->checkpoint.keep, &s, x.t, x.n,
                       read_elements, &x, r, e);
    tensors_release(&x);
    slc_ckpt_state_release(&s);
    return rc;
}

/* What must agree between a checkpoint and this job. */
static int check_state(const struct slc_job *j, const struct slc_ckpt_state *s,
                       const char *path, struct slc_err *e)
{
    if (s->spec_digest != slc_spec_digest(&j->spec))
        return slc_errf(e, SLC_EXIT_CHECKPOINT,
                        "%s is of another model than %s; use another run.dir", path,
                        j->o->model.config);
    if (s->samples > 0 && s->corpus_digest != slc_corpus_digest(j->corpus))
        slc_warn("train",
                 "%s was trained on other data than %s; its data position is kept", path,
                 j->o->data.corpus);
    return 0;
}

/* *damaged: the data could not be proven, an older checkpoint may do. */
static int resume(struct slc_job *j, const char *path, bool *damaged, struct slc_err *e)
{
    struct slc_ckpt_state s;
    struct slc_ckpt_report r;
    struct tensors x;

    *damaged = false;
    if (slc_ckpt_read_state(j->all, path, &s, e) < 0)
        return -1;
    if (s.updates == 0) /* what a damaged one left there before it was found out */
        slc_optim_zero_moments(j->optim, j->queue);
    int rc = check_state(j, &s, path, e);
    if (rc == 0) /* before the first update both moments are zero and not stored */
        rc = tensors_init(&x, j, s.updates > 0 ? KINDS : 1, e);
    if (slc_agree(j->all, rc, e) < 0) {
        if (rc == 0)
            tensors_release(&x);
        slc_ckpt_state_release(&s);
        return -1;
    }
    rc = slc_ckpt_load(j->all, path, x.t, x.n, write_elements, &x, &r, e);
    *damaged = rc < 0 && e->code == SLC_EXIT_CHECKPOINT;
    tensors_release(&x);
    if (rc == 0) {
        slc_optim_set_updates(j->optim, s.updates);
        j->step = s.step;
        j->samples = s.samples;
        j->tokens = s.tokens;
        j->skipped = s.skipped;
        j->best_validation = s.best_validation;
        rc = slc_optim_publish_weights(j->optim, j->queue, e);
    }
    slc_ckpt_state_release(&s);
    if (rc == 0 && j->rank == 0)
        slc_info("train", "resumed %s, %.1f MB in %.2f s", path, (double)r.bytes / 1e6,
                 r.seconds);
    return rc;
}

/* The newest checkpoint of the run whose every byte proves itself; path empty when the run
 * has none. */
static int resume_newest(struct slc_job *j, char path[4096], struct slc_err *e)
{
    bool damaged = false;

    if (slc_ckpt_find(j->all, j->o->run.dir, path, e) < 0)
        return -1;
    while (path[0]) {
        struct slc_err bad = SLC_ERR_INIT;
        if (resume(j, path, &damaged, &bad) == 0)
            return 0;
        *e = bad;
        if (!damaged)
            return -1;
        if (j->rank == 0)
            slc_warn("train", "passing over a checkpoint: %s", bad.text);
        if (slc_ckpt_find_older(j->all, j->o->run.dir, path, path, e) < 0)
            return -1;
        if (!path[0]) {
            *e = bad;
            return -1;
        }
    }
    return 0;
}

/* Weights of a new run, from model.weights or random, and the master weights from them. */
static int start_weights(struct slc_job *j, struct slc_err *e)
{
    const struct slc_options *o = j->o;
    struct slc_params ps = j->params;
    const bool narrow = ps.dtype != slc_optim_dtype(j->optim);
    int rc;

    if (narrow) { /* the masters are not to be rounded: whole weights, where gradients go */
        ps.w = ps.g;
        ps.dtype = SLC_F32;
        ps.users = NULL;
    }
    if (o->model.weights[0])
        rc = slc_hf_load(o->model.weights, &ps, &j->spec, j->queue, e);
    else
        rc = slc_params_init(&ps, (uint64_t)o->model.seed, j->queue, e);
    if (rc == 0 && narrow)
        rc = slc_optim_adopt_gradients(j->optim, j->queue, e);
    else if (rc == 0)
        rc = slc_optim_adopt_weights(j->optim, j->queue, e);
    if (slc_agree(j->all, rc, e) < 0)
        return -1;
    return narrow ? slc_optim_publish_weights(j->optim, j->queue, e) : 0;
}

int slc_job_load(struct slc_job *j, int64_t *resumed, struct slc_err *e)
{
    char path[4096];
    bool damaged;

    slc_fail_set_phase("load");
    *resumed = -1;
    if (resume_newest(j, path, e) < 0)
        return -1;
    if (path[0]) {
        *resumed = j->step;
        return 0;
    }
    if (j->o->checkpoint.from[0])
        return resume(j, j->o->checkpoint.from, &damaged, e);
    return start_weights(j, e);
}
