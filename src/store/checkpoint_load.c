/* SPDX-License-Identifier: Apache-2.0 */
#include "store/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/agree.h"
#include "store/plan.h"
#include "store/reader.h"

/* Where tensor t is in the file; the file must have it in this shape and type. */
static int match(const struct slc_reader *r, const struct slc_ckpt_tensor *t,
                 int *index, struct slc_err *e)
{
    int i = slc_manifest_find(&r->m, t->name);

    if (i < 0)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s has no tensor %s; is it of another model?", r->dir,
                        t->name);
    const struct slc_ckpt_entry *x = &r->m.t[i].entry;
    bool same = x->dtype == t->dtype && x->ndim == t->ndim;
    for (int d = 0; same && d < t->ndim; d++)
        same = x->shape[d] == t->shape[d];
    if (!same)
        return slc_errf(
            e, SLC_EXIT_INPUT,
            "%s: tensor %s has another shape or type than this model's; is it of "
            "another model?",
            r->dir, t->name);
    *index = i;
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const struct slc_ckpt_extent *x = a, *y = b;

    return (x->start > y->start) - (x->start < y->start);
}

/* Block by block through one extent of tensor i of the file, `to` of the list. */
static int load_extent(struct slc_reader *r, int i, int to,
                       const struct slc_ckpt_extent *x, slc_ckpt_move_f *write,
                       void *ctx, struct slc_err *e)
{
    int64_t size = (int64_t)slc_dtype_size(r->m.t[i].entry.dtype);
    int64_t at = x->start * size, end = at + x->count * size, bytes;

    while (at < end) {
        int64_t inside = at % SLC_CKPT_BLOCK;
        const unsigned char *b = slc_reader_block(r, i, at / SLC_CKPT_BLOCK, &bytes, e);
        if (!b)
            return -1;
        int64_t n = bytes - inside < end - at ? bytes - inside : end - at;
        if (write(ctx, to, at / size, n / size, (void *)(b + inside), e) < 0)
            return -1;
        at += n;
    }
    return 0;
}

static int load_tensor(struct slc_reader *r, const struct slc_ckpt_tensor *t, int to,
                       slc_ckpt_move_f *write, void *ctx, struct slc_err *e)
{
    int64_t count = slc_tensor_count(t), at = 0;
    struct slc_ckpt_extent *x;
    int i = 0, rc = match(r, t, &i, e);

    if (rc < 0 || t->n_extents == 0)
        return rc;
    x = malloc((size_t)t->n_extents * sizeof(*x));
    if (!x)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory to load %s", t->name);
    memcpy(x, t->extents, (size_t)t->n_extents * sizeof(*x));
    /* ascending, so that a block is read once, and every element is written once */
    qsort(x, (size_t)t->n_extents, sizeof(*x), by_start);
    for (int k = 0; k < t->n_extents && rc == 0; k++) {
        if (x[k].start < at || x[k].count < 0 || x[k].count > count - x[k].start)
            rc = slc_errf(
                e, SLC_EXIT_BUG,
                "checkpoint: tensor %s: extent %lld + %lld of %lld overlaps or "
                "passes the end",
                t->name, (long long)x[k].start, (long long)x[k].count,
                (long long)count);
        else
            rc = load_extent(r, i, to, &x[k], write, ctx, e);
        at = x[k].start + x[k].count;
    }
    free(x);
    return rc;
}

int slc_ckpt_load(struct slc_group *g, const char *path,
                  const struct slc_ckpt_tensor *t, int n, slc_ckpt_move_f *write,
                  void *ctx, struct slc_ckpt_report *report, struct slc_err *e)
{
    double started = slc_now();
    struct slc_reader r;
    int rc = 0;

    if (slc_reader_open(&r, g, path, e) < 0)
        return -1;
    for (int i = 0; i < n && rc == 0; i++)
        rc = load_tensor(&r, &t[i], i, write, ctx, e);
    int64_t bytes = r.bytes;
    slc_reader_close(&r);
    if (slc_agree(g, rc, e) < 0)
        return -1;
    if (slc_agree_size(g) > 1 && slc_allreduce(g, &bytes, 1, SLC_I64, e) < 0)
        return -1;
    if (report)
        *report = (struct slc_ckpt_report){slc_now() - started, bytes};
    return 0;
}

int slc_ckpt_read_state(struct slc_group *g, const char *path, struct slc_ckpt_state *s,
                        struct slc_err *e)
{
    struct slc_manifest m = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = 0;

    if (slc_agree_index(g) == 0)
        rc = slc_reader_load_manifest(path, &text, &len, &m, e);
    rc = slc_agree(g, rc, e) < 0 ? -1 : slc_agree_share(g, &text, &len, e);
    if (rc == 0) {
        if (slc_agree_index(g) != 0)
            rc = slc_manifest_parse(&m, text, len, "manifest.json of rank 0", e);
        if (rc == 0)
            rc = slc_ckpt_state_copy(s, &m.state, e);
        int own = rc;
        rc = slc_agree(g, own, e);
        if (rc < 0 && own == 0)
            slc_ckpt_state_release(s);
    }
    slc_manifest_release(&m);
    free(text);
    return rc;
}

int slc_ckpt_list(const char *path, struct slc_ckpt_entry **list, int *n,
                  struct slc_err *e)
{
    struct slc_manifest m;
    char *text;
    size_t len;

    if (slc_reader_load_manifest(path, &text, &len, &m, e) < 0)
        return -1;
    free(text);
    *list = malloc(((size_t)m.n + 1) * sizeof(**list));
    *n = m.n;
    for (int i = 0; *list && i < m.n; i++)
        (*list)[i] = m.t[i].entry;
    slc_manifest_release(&m);
    return *list ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory to list %s", path);
}
