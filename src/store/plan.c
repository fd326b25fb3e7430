/* SPDX-License-Identifier: Apache-2.0 */
#include "store/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "store/agree.h"
#include "store/manifest.h"

struct row {
    int64_t tensor, start, count, rank;
};

int64_t slc_tensor_count(const struct slc_ckpt_tensor *t)
{
    int64_t count = 1;

    for (int i = 0; i < t->ndim; i++)
        count *= t->shape[i];
    return count;
}

int64_t slc_tensor_bytes(const struct slc_ckpt_tensor *t)
{
    return slc_tensor_count(t) * (int64_t)slc_dtype_size(t->dtype);
}

/* A digest of what must be the same on all ranks. */
static uint64_t list_digest(const struct slc_ckpt_tensor *t, int n)
{
    uint64_t h = (uint64_t)n;

    for (int i = 0; i < n; i++) {
        uint64_t part[8] = {h, slc_hash64(t[i].name, strlen(t[i].name)), t[i].dtype,
                            (uint64_t)t[i].ndim};
        memcpy(part + 4, t[i].shape, sizeof(int64_t) * (size_t)t[i].ndim);
        h = slc_hash64(part, sizeof(part));
    }
    return h;
}

static int check_lists(struct slc_group *g, const struct slc_ckpt_tensor *t, int n,
                       struct slc_err *e)
{
    int size = slc_agree_size(g);
    uint64_t own = list_digest(t, n);
    uint64_t *all = size > 1 ? malloc((size_t)size * sizeof(own)) : NULL;
    int rc = 0;

    if (size == 1)
        return 0;
    rc = all ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a checkpoint plan");
    if (slc_agree(g, rc, e) < 0 || slc_allgather(g, &own, all, sizeof(own), e) < 0)
        rc = -1;
    for (int r = 1; r < size && rc == 0; r++)
        if (all[r] != all[0])
            rc = slc_errf(e, SLC_EXIT_BUG,
                          "the tensor lists of ranks 0 and %d differ in a checkpoint",
                          r);
    free(all);
    return rc;
}

static int64_t own_rows(const struct slc_ckpt_tensor *t, int n, int me, struct row *out)
{
    int64_t k = 0;

    for (int i = 0; i < n; i++)
        for (int x = 0; x < t[i].n_extents; x++) {
            if (t[i].extents[x].count == 0)
                continue;
            if (out)
                out[k] =
                    (struct row){i, t[i].extents[x].start, t[i].extents[x].count, me};
            k++;
        }
    return k;
}

/* All ranks' rows, malloc'ed. */
static struct row *gather(struct slc_group *g, const struct slc_ckpt_tensor *t, int n,
                          int64_t *total, struct slc_err *e)
{
    int size = slc_agree_size(g), me = slc_agree_index(g), rc = 0;
    int64_t *off = calloc((size_t)size + 1, sizeof(*off));
    struct row *rows = NULL;

    if (!off)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a checkpoint plan");
    if (slc_agree(g, rc, e) < 0)
        goto out;
    off[me + 1] = own_rows(t, n, me, NULL);
    if (size > 1 && slc_allgather(g, &off[me + 1], off + 1, sizeof(*off), e) < 0)
        goto out;
    for (int r = 0; r < size; r++)
        off[r + 1] += off[r];
    *total = off[size];
    rows = malloc((size_t)(*total + 1) * sizeof(*rows));
    if (!rows)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a checkpoint plan");
    else
        own_rows(t, n, me, rows + off[me]);
    if (slc_agree(g, rc, e) < 0)
        goto err_rows;
    for (int r = 0; r <= size; r++)
        off[r] *= (int64_t)(sizeof(*rows) / sizeof(int64_t));
    if (size > 1 && slc_allgatherv(g, rows, off, SLC_I64, e) < 0)
        goto err_rows;
out:
    free(off);
    return rows;

err_rows:
    free(rows);
    rows = NULL;
    goto out;
}

static int by_place(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    if (x->tensor != y->tensor)
        return x->tensor < y->tensor ? -1 : 1;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Rows, sorted, to spans; every tensor is covered exactly once or it is an error. */
static int fill(struct slc_plan *p, const struct row *rows, int64_t total,
                struct slc_err *e)
{
    int64_t k = 0;

    for (int i = 0; i < p->n; i++) {
        int64_t at = 0, count = slc_tensor_count(&p->t[i]);
        p->first[i] = k;
        for (; k < total && rows[k].tensor == i; k++) {
            if (rows[k].start != at || rows[k].count < 0 || rows[k].count > count - at)
                return slc_errf(
                    e, SLC_EXIT_BUG,
                    "checkpoint: tensor %s: element %lld is %s (rank %lld has "
                    "%lld + %lld of %lld)",
                    p->t[i].name, (long long)at,
                    rows[k].start > at ? "on no rank" : "on two ranks",
                    (long long)rows[k].rank, (long long)rows[k].start,
                    (long long)rows[k].count, (long long)count);
            p->spans[k] =
                (struct slc_span){rows[k].start, rows[k].count, (int)rows[k].rank};
            at += rows[k].count;
        }
        if (at != count)
            return slc_errf(
                e, SLC_EXIT_BUG,
                "checkpoint: tensor %s: elements from %lld on are on no rank",
                p->t[i].name, (long long)at);
    }
    p->first[p->n] = k;
    return 0;
}

int slc_plan_create(struct slc_plan *p, struct slc_group *g,
                    const struct slc_ckpt_tensor *t, int n, struct slc_err *e)
{
    int64_t total = 0;
    int rc = 0;

    *p = (struct slc_plan){.t = t, .n = n};
    if (check_lists(g, t, n, e) < 0)
        return -1;
    struct row *rows = gather(g, t, n, &total, e);
    if (!rows)
        return -1;
    p->spans = malloc((size_t)(total + 1) * sizeof(*p->spans));
    p->first = malloc((size_t)(n + 1) * sizeof(*p->first));
    if (!p->spans || !p->first) {
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a checkpoint plan");
    } else {
        qsort(rows, (size_t)total, sizeof(*rows), by_place);
        rc = fill(p, rows, total, e);
    }
    free(rows);
    rc = slc_agree(g, rc, e);
    if (rc < 0)
        slc_plan_release(p);
    return rc;
}

void slc_plan_release(struct slc_plan *p)
{
    free(p->spans);
    free(p->first);
    p->spans = NULL;
    p->first = NULL;
}

int slc_plan_fragment(const struct slc_plan *p, int i, int64_t k, int64_t *begin,
                      int64_t *end)
{
    int64_t size = (int64_t)slc_dtype_size(p->t[i].dtype);
    const struct slc_span *s = &p->spans[k];
    int64_t a = s->start * size, b = a + s->count * size;
    int64_t page = a / SLC_CKPT_PAGE * SLC_CKPT_PAGE;
    int owner = 0;

    *begin = *end = a;
    if (slc_tensor_bytes(&p->t[i]) < SLC_CKPT_PAGE) {
        *end = b;
    } else {
        while (p->spans[k].start * size > page)
            k--;
        owner = p->spans[k].rank;
        *end = b < page + SLC_CKPT_PAGE ? b : page + SLC_CKPT_PAGE;
    }
    if (owner == s->rank)
        *end = a;
    return owner;
}

int64_t slc_plan_pieces(const struct slc_plan *p, int i, int64_t k)
{
    int64_t size = (int64_t)slc_dtype_size(p->t[i].dtype);
    const struct slc_span *s = &p->spans[k];

    return ((s->start + s->count) * size - 1) / SLC_CKPT_BLOCK -
           s->start * size / SLC_CKPT_BLOCK + 1; /* spans are never empty */
}

void slc_plan_piece(const struct slc_plan *p, int i, int64_t k, int64_t j,
                    int64_t *begin, int64_t *end)
{
    int64_t size = (int64_t)slc_dtype_size(p->t[i].dtype);
    const struct slc_span *s = &p->spans[k];
    int64_t a = s->start * size, b = a + s->count * size;
    int64_t block = (a / SLC_CKPT_BLOCK + j) * SLC_CKPT_BLOCK;

    *begin = a > block ? a : block;
    *end = b < block + SLC_CKPT_BLOCK ? b : block + SLC_CKPT_BLOCK;
}
