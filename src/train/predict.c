/* SPDX-License-Identifier: Apache-2.0 */
#include "train/predict.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/sampler.h"
#include "model/model.h"
#include "store/checkpoint.h"
#include "store/hf.h"

struct slc_predict {
    struct slc_backend *backend;
    struct slc_queue *queue;
    struct slc_spec spec;
    struct slc_params params;
    struct slc_model *model;
    struct slc_batch batch;
    float *loss; /* [T] */
};

static bool has_file(const char *dir, const char *name)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* The checkpoint that `dir` means: itself, or the newest of a run folder; empty if neither. */
static int find_checkpoint(const char *dir, char path[4096], struct slc_err *e)
{
    path[0] = '\0';
    if (has_file(dir, "manifest.json")) {
        snprintf(path, 4096, "%s", dir);
        return 0;
    }
    return has_file(dir, "checkpoints") ? slc_ckpt_find(NULL, dir, path, e) : 0;
}

static int upload_elements(void *ctx, int i, int64_t start, int64_t count, void *buf,
                           struct slc_err *e)
{
    struct slc_predict *p = ctx;
    float *w = (float *)slc_param_acquire(&p->params, i, p->queue);

    (void)e;
    slc_upload(p->queue, w + start, buf, (size_t)count * sizeof(*w));
    slc_param_release(&p->params, i, p->queue);
    return 0;
}

static int load_checkpoint(struct slc_predict *p, const char *path, struct slc_err *e)
{
    int n = p->params.n;
    struct slc_ckpt_tensor *t = calloc((size_t)n, sizeof(*t));
    struct slc_ckpt_extent *x = calloc((size_t)n, sizeof(*x));
    struct slc_ckpt_report r;
    int rc;

    if (!t || !x) {
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the list of %d tensors", n);
        goto out;
    }
    for (int i = 0; i < n; i++) {
        const struct slc_param *q = &p->params.p[i];

        x[i] = (struct slc_ckpt_extent){0, q->count};
        t[i] = (struct slc_ckpt_tensor){
            .dtype = SLC_F32, .ndim = q->ndim, .extents = &x[i], .n_extents = 1};
        snprintf(t[i].name, sizeof(t[i].name), "weights/%s", q->name);
        memcpy(t[i].shape, q->shape, sizeof(q->shape));
    }
    rc = slc_ckpt_load(NULL, path, t, n, upload_elements, p, &r, e);
out:
    free(t);
    free(x);
    return rc;
}

static int read_spec(struct slc_predict *p, const char *dir, const char *ckpt,
                     struct slc_err *e)
{
    struct slc_ckpt_state s;

    if (!ckpt[0])
        return slc_spec_load(&p->spec, dir, e);
    if (slc_ckpt_read_state(NULL, ckpt, &s, e) < 0)
        return -1;
    int rc = slc_spec_parse(&p->spec, s.config, ckpt, e);
    slc_ckpt_state_release(&s);
    return rc;
}

static int create(struct slc_predict *p, int64_t T, struct slc_err *e)
{
    struct slc_model_options o = {
        .backend = p->backend, .rows = 1, .S = T, .dtype = SLC_F32, .window_factor = 1.25};

    if (T > p->spec.max_positions)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%lld tokens are more than the %lld positions of the model",
                        (long long)T, (long long)p->spec.max_positions);
    p->queue = slc_queue_create(p->backend, e);
    p->loss = calloc((size_t)T, sizeof(*p->loss));
    if (!p->queue || !p->loss)
        return p->loss ? -1 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld losses",
                                       (long long)T);
    if (slc_params_create(&p->params, &p->spec, 1, 0, p->backend, SLC_F32, false, e) < 0 ||
        slc_batch_init(&p->batch, 1, T, e) < 0)
        return -1;
    o.queue = p->queue;
    p->model = slc_model_create(&p->spec, &p->params, &o, e);
    return p->model ? 0 : -1;
}

struct slc_predict *slc_predict_open(const char *dir, const char *device, int threads,
                                     int64_t max_tokens, struct slc_err *e)
{
    struct slc_backend_options bo = {.threads = threads};
    struct slc_predict *p = calloc(1, sizeof(*p));
    char ckpt[4096];

    if (!p) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory");
        return NULL;
    }
    if (find_checkpoint(dir, ckpt, e) < 0)
        goto err;
    if (!ckpt[0] && !has_file(dir, "config.json")) {
        slc_errf(e, SLC_EXIT_INPUT,
                 "%s is neither a Hugging Face folder (config.json), a checkpoint "
                 "(manifest.json) nor a run folder with one",
                 dir);
        goto err;
    }
    if (read_spec(p, dir, ckpt, e) < 0)
        goto err;
    p->backend = slc_backend_open(device, &bo, e);
    if (!p->backend || create(p, max_tokens, e) < 0)
        goto err;
    if ((ckpt[0] ? load_checkpoint(p, ckpt, e)
                 : slc_hf_load(dir, &p->params, &p->spec, p->queue, e)) < 0)
        goto err;
    return p;

err:
    slc_predict_close(p);
    return NULL;
}

void slc_predict_close(struct slc_predict *p)
{
    if (!p)
        return;
    int saved = errno;
    slc_model_destroy(p->model);
    slc_batch_release(&p->batch);
    slc_params_destroy(&p->params);
    slc_queue_destroy(p->queue);
    slc_backend_close(p->backend);
    free(p->loss);
    free(p);
    errno = saved;
}

const struct slc_spec *slc_predict_spec(const struct slc_predict *p)
{
    return &p->spec;
}

static int forward(struct slc_predict *p, const int32_t *ids, int64_t n, struct slc_err *e)
{
    struct slc_loss_weights w = {1, 1, 1, 1};
    struct slc_model_result out;

    for (int64_t t = 0; t < n; t++)
        if (ids[t] < 0 || ids[t] >= p->spec.V)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "token id %d at position %lld is not in the vocabulary of %lld",
                            ids[t], (long long)t, (long long)p->spec.V);
    if (slc_batch_pack(&p->batch, ids, &n, 1, e) < 0)
        return -1;
    return slc_model_forward(p->model, &p->batch, &w, NULL, p->loss, &out, e);
}

int slc_predict_score(struct slc_predict *p, const int32_t *ids, int64_t n, float *loss,
                      struct slc_err *e)
{
    if (forward(p, ids, n, e) < 0)
        return -1;
    memcpy(loss, p->loss, (size_t)(n - 1) * sizeof(*loss));
    return 0;
}

int slc_predict_next(struct slc_predict *p, const int32_t *ids, int64_t n, float *logits,
                     struct slc_err *e)
{
    if (forward(p, ids, n, e) < 0)
        return -1;
    return slc_model_logits(p->model, n - 1, logits, e);
}
