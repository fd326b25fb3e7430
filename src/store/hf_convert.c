/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoint to Hugging Face folder and back, one piece of one tensor in memory. */
#include "store/hf.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/checkpoint.h"
#include "store/folder.h"
#include "store/hf_map.h"
#include "store/reader.h"
#include "store/run_lock.h"

#define PIECE (1 << 18) /* elements moved at a time */
#define SHARD_BYTES ((int64_t)5 << 30)

/* -- out ------------------------------------------------------------------------- */

struct export
{
    struct slc_reader r;
    struct slc_spec spec;
    struct slc_params ps;
    int *tensor; /* [ps.n] index in the checkpoint */
    float *buf;  /* [PIECE] */
};

/* The weights of the checkpoint, in the model's shapes. */
static int match(struct export *x, struct slc_err *e)
{
    char name[80];

    x->tensor = calloc((size_t)x->ps.n, sizeof(*x->tensor));
    x->buf = malloc(PIECE * sizeof(float));
    if (!x->tensor || !x->buf)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to export");
    for (int i = 0; i < x->ps.n; i++) {
        const struct slc_param *p = &x->ps.p[i];
        snprintf(name, sizeof(name), "weights/%s", p->name);
        int t = x->tensor[i] = slc_manifest_find(&x->r.m, name);
        if (t < 0 || x->r.m.t[t].entry.dtype != SLC_F32 ||
            x->r.m.t[t].entry.bytes != 4 * p->count)
            return slc_errf(e, SLC_EXIT_INPUT, "%s: %s is missing or has another size",
                            x->r.dir, name);
    }
    return 0;
}

static int64_t piece_count(const struct slc_hf_piece *pc)
{
    int64_t n = 1;

    for (int d = 0; d < pc->ndim; d++)
        n *= pc->shape[d];
    return n;
}

static int declare(const struct export *x, struct slc_st_writer *w,
                   enum slc_dtype dtype, struct slc_err *e)
{
    struct slc_hf_piece pc;

    for (int i = 0; i < x->ps.n; i++)
        for (int64_t k = 0; x->spec.family->piece(&x->spec, &x->ps.p[i], k, &pc); k++)
            if (slc_st_declare(w, pc.name, dtype, pc.ndim, pc.shape, e) < 0)
                return -1;
    return 0;
}

static int write_piece(struct export *x, int i, const struct slc_hf_piece *pc,
                       struct slc_st_writer *w, struct slc_err *e)
{
    int64_t count = piece_count(pc);

    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t n = count - at < PIECE ? count - at : PIECE;
        if (slc_reader_read(&x->r, x->tensor[i], pc->offset + at, n, x->buf, e) < 0 ||
            slc_st_write_f32(w, x->buf, n, e) < 0)
            return -1;
    }
    return 0;
}

static int write_weights(struct export *x, const char *dir, enum slc_dtype dtype,
                         struct slc_err *e)
{
    struct slc_st_writer *w = slc_st_create(dir, SHARD_BYTES, e);
    struct slc_hf_piece pc;

    if (!w)
        return -1;
    if (declare(x, w, dtype, e) < 0)
        goto err_abandon;
    for (int i = 0; i < x->ps.n; i++)
        for (int64_t k = 0; x->spec.family->piece(&x->spec, &x->ps.p[i], k, &pc); k++)
            if (write_piece(x, i, &pc, w, e) < 0)
                goto err_abandon;
    return slc_st_finish(w, e);

err_abandon:
    slc_st_abandon(w);
    return -1;
}

/* config.json, and the type the weights have in the file. */
static int write_config(const struct export *x, const char *dir, enum slc_dtype dtype,
                        struct slc_err *e)
{
    json_t *config = x->spec.family->write(&x->spec);
    const char *type = dtype == SLC_BF16 ? "bfloat16" : "float32";
    char path[PATH_MAX], *text = NULL;
    int rc = -1;

    /* both spellings: Transformers 4 and 5 */
    if (config && json_object_set_new(config, "dtype", json_string(type)) == 0 &&
        json_object_set_new(config, "torch_dtype", json_string(type)) == 0)
        text = json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(config);
    if (!text)
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for config.json");
    else if (snprintf(path, sizeof(path), "%s/config.json", dir) >= PATH_MAX)
        slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", dir);
    else
        rc = slc_file_replace(path, text, strlen(text), e);
    free(text);
    return rc;
}

/* Beside out_dir first, then its name at once: an export is there whole or not at all.
 */
static int write_folder(struct export *x, const char *out_dir, enum slc_dtype dtype,
                        struct slc_err *e)
{
    char tmp[PATH_MAX];
    size_t n = strlen(out_dir);

    while (n > 1 && out_dir[n - 1] == '/')
        n--;
    if (snprintf(tmp, sizeof(tmp), "%.*s.%ld.tmp", (int)n, out_dir, (long)getpid()) >=
        PATH_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", out_dir);
    if (slc_mkdirs(tmp, e) < 0)
        return -1;
    if (write_weights(x, tmp, dtype, e) < 0 || write_config(x, tmp, dtype, e) < 0)
        goto err_remove;
    if (rename(tmp, out_dir) < 0) {
        slc_errf(e, SLC_EXIT_CONFIG,
                 "cannot create %s: %s; name a folder that is not there", out_dir,
                 strerror(errno));
        goto err_remove;
    }
    return 0;

err_remove:
    slc_folder_remove(tmp, NULL);
    return -1;
}

int slc_hf_export(const char *ckpt, const char *out_dir, enum slc_dtype dtype,
                  struct slc_err *e)
{
    struct export x = {0};
    int rc = -1;

    SLC_ASSERT(dtype == SLC_F32 || dtype == SLC_BF16);
    if (rmdir(out_dir) < 0 && errno != ENOENT)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "%s exists and is not an empty folder; name another", out_dir);
    if (slc_reader_open(&x.r, NULL, ckpt, e) < 0)
        return -1;
    if (slc_spec_parse(&x.spec, x.r.m.state.config, ckpt, e) == 0 &&
        slc_params_list(&x.ps, &x.spec, 1, 0, e) == 0) {
        rc = match(&x, e) < 0 ? -1 : write_folder(&x, out_dir, dtype, e);
        slc_params_destroy(&x.ps);
    }
    free(x.tensor);
    free(x.buf);
    slc_reader_close(&x.r);
    return rc;
}

/* -- in -------------------------------------------------------------------------- */

static int read_source(void *ctx, int tensor, int64_t start, int64_t count, void *buf,
                       struct slc_err *e)
{
    return slc_hf_map_read(ctx, tensor, start, count, buf, e);
}

static int save_import(struct slc_hf_map *m, const struct slc_spec *spec,
                       const char *run_dir, struct slc_err *e)
{
    const struct slc_params *ps = m->ps;
    struct slc_ckpt_tensor *t = calloc((size_t)ps->n, sizeof(*t));
    struct slc_ckpt_extent *x = calloc((size_t)ps->n, sizeof(*x));
    struct slc_ckpt_state s = {.spec_digest = slc_spec_digest(spec)};
    int rc = -1;

    if (!t || !x)
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to import");
    else if ((s.config = slc_spec_text(spec, e))) {
        for (int i = 0; i < ps->n; i++) {
            x[i] = (struct slc_ckpt_extent){0, ps->p[i].count};
            t[i] = (struct slc_ckpt_tensor){.dtype = SLC_F32,
                                            .ndim = ps->p[i].ndim,
                                            .extents = &x[i],
                                            .n_extents = 1};
            snprintf(t[i].name, sizeof(t[i].name), "weights/%s", ps->p[i].name);
            memcpy(t[i].shape, ps->p[i].shape, sizeof(ps->p[i].shape));
        }
        rc = slc_ckpt_save(NULL, run_dir, 1, &s, t, ps->n, read_source, m, NULL, e);
    }
    slc_ckpt_state_release(&s);
    free(t);
    free(x);
    return rc;
}

/* Importing over a run would put step 0 beside its checkpoints, never to be found. */
static int check_empty(const char *run_dir, struct slc_err *e)
{
    int64_t *steps;
    int n;

    if (slc_folder_steps(run_dir, &steps, &n, e) < 0)
        return -1;
    free(steps);
    if (n)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "%s has checkpoints already; import into a folder of its own",
                        run_dir);
    return 0;
}

int slc_hf_import(const char *dir, const char *run_dir, struct slc_err *e)
{
    struct slc_spec spec;
    struct slc_params ps;
    struct slc_hf_map m;
    int rc = -1;

    if (slc_spec_load(&spec, dir, e) < 0 || slc_params_list(&ps, &spec, 1, 0, e) < 0)
        return -1;
    if (slc_hf_map_open(&m, dir, &spec, &ps, e) == 0) {
        if (slc_run_lock(NULL, run_dir, e) == 0) {
            rc = check_empty(run_dir, e) < 0 ? -1 : save_import(&m, &spec, run_dir, e);
            slc_run_unlock(NULL, run_dir);
        }
        slc_hf_map_close(&m);
    }
    slc_params_destroy(&ps);
    return rc;
}
