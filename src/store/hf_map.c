/* SPDX-License-Identifier: Apache-2.0 */
#include "store/hf_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

typedef bool piece_f(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                     struct slc_hf_piece *out);

static void shape_text(int ndim, const int64_t *shape, char text[128])
{
    int at = snprintf(text, 128, "[");

    for (int i = 0; i < ndim && at < 100; i++)
        at += snprintf(text + at, 128 - (size_t)at, "%s%lld", i ? ", " : "",
                       (long long)shape[i]);
    snprintf(text + at, 128 - (size_t)at, "]");
}

static int check_tensor(const struct slc_st *st, int i, const struct slc_hf_piece *pc,
                        struct slc_err *e)
{
    const struct slc_st_tensor *t = slc_st_get(st, i);
    bool same = t->ndim == pc->ndim;
    char have[128], want[128];

    for (int d = 0; same && d < t->ndim; d++)
        same = t->shape[d] == pc->shape[d];
    if (!same) {
        shape_text(t->ndim, t->shape, have);
        shape_text(pc->ndim, pc->shape, want);
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: tensor %s has shape %s, config.json asks for %s",
                        slc_st_path(st, i), t->name, have, want);
    }
    if (!t->readable)
        return slc_errf(
            e, SLC_EXIT_UNSUPPORTED,
            "not supported: tensor %s of %s has type %s; convert it to F32 or "
            "BF16",
            t->name, slc_st_path(st, i), t->type);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct slc_hf_source *x = a, *y = b;

    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* A hole or an overlap here is an error of the family's table, not of the file. */
static void check_cover(const struct slc_hf_param *of, const struct slc_param *p)
{
    int64_t at = 0;

    for (int i = 0; i < of->n; at += of->s[i++].count)
        if (of->s[i].offset != at)
            SLC_BUG("pieces of %s leave element %lld uncovered", p->name,
                    (long long)at);
    if (at != p->count)
        SLC_BUG("pieces of %s end at element %lld", p->name, (long long)at);
}

/* Released layout if its first piece is there, else fused. */
static piece_f *choose_layout(const struct slc_st *st, const struct slc_spec *s,
                              const struct slc_param *p)
{
    struct slc_hf_piece pc;

    if (s->family->fused_piece && s->family->piece(s, p, 0, &pc) &&
        slc_st_find(st, pc.name) < 0 && s->family->fused_piece(s, p, 0, &pc) &&
        slc_st_find(st, pc.name) >= 0)
        return s->family->fused_piece;
    return s->family->piece;
}

static int map_param(struct slc_hf_map *m, int i, const char *dir,
                     const struct slc_spec *s, bool *used, struct slc_err *e)
{
    const struct slc_param *p = &m->ps->p[i];
    struct slc_hf_param *of = &m->of[i];
    piece_f *piece = choose_layout(m->st, s, p);
    struct slc_hf_piece pc;
    int64_t n = 0;

    while (piece(s, p, n, &pc))
        n++;
    of->s = calloc((size_t)n + 1, sizeof(*of->s));
    if (!of->s)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s", dir);
    for (of->n = 0; of->n < n; of->n++) {
        piece(s, p, of->n, &pc);
        int t = slc_st_find(m->st, pc.name);
        if (t < 0)
            return slc_errf(e, SLC_EXIT_INPUT, "%s: tensor %s is missing (for %s)", dir,
                            pc.name, p->name);
        if (check_tensor(m->st, t, &pc, e) < 0)
            return -1;
        used[t] = true;
        of->s[of->n] =
            (struct slc_hf_source){pc.offset, slc_st_get(m->st, t)->count, t};
    }
    qsort(of->s, (size_t)of->n, sizeof(*of->s), by_offset);
    check_cover(of, p);
    return 0;
}

static void warn_unused(const struct slc_hf_map *m, const char *dir, const bool *used)
{
    char names[256] = "";
    int n = 0;
    size_t at = 0;

    for (int i = 0; i < slc_st_count(m->st); i++) {
        if (used[i])
            continue;
        if (n++ < 3 && at < sizeof(names) - 1)
            at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s",
                                   n > 1 ? ", " : "", slc_st_get(m->st, i)->name);
    }
    if (n)
        slc_warn("store",
                 "%d tensors of %s belong to no parameter and are left out: %s%s", n,
                 dir, names, n > 3 ? ", ..." : "");
}

int slc_hf_map_open(struct slc_hf_map *m, const char *dir, const struct slc_spec *s,
                    const struct slc_params *ps, struct slc_err *e)
{
    bool *used = NULL;

    memset(m, 0, sizeof(*m));
    m->ps = ps;
    m->st = slc_st_open(dir, e);
    if (!m->st)
        return -1;
    m->of = calloc((size_t)ps->n, sizeof(*m->of));
    used = calloc((size_t)slc_st_count(m->st) + 1, sizeof(*used));
    if (!m->of || !used) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the tensor list of %s", dir);
        goto err_close;
    }
    for (int i = 0; i < ps->n; i++)
        if (map_param(m, i, dir, s, used, e) < 0)
            goto err_close;
    warn_unused(m, dir, used);
    free(used);
    return 0;

err_close:
    free(used);
    slc_hf_map_close(m);
    return -1;
}

void slc_hf_map_close(struct slc_hf_map *m)
{
    for (int i = 0; m->of && i < m->ps->n; i++)
        free(m->of[i].s);
    free(m->of);
    slc_st_close(m->st);
    memset(m, 0, sizeof(*m));
}

/* The last source that begins at or before `start`. */
static int source_of(const struct slc_hf_param *of, int64_t start)
{
    int lo = 0, hi = of->n - 1;

    while (lo < hi) {
        int mid = lo + (hi - lo + 1) / 2;
        if (of->s[mid].offset <= start)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

int slc_hf_map_read(struct slc_hf_map *m, int i, int64_t start, int64_t count,
                    float *out, struct slc_err *e)
{
    const struct slc_hf_param *of = &m->of[i];

    SLC_ASSERT(start >= 0 && count >= 0 && start <= m->ps->p[i].count - count);
    for (int k = source_of(of, start); count > 0; k++) {
        int64_t inside = start - of->s[k].offset;
        int64_t part = of->s[k].count - inside;
        if (part > count)
            part = count;
        if (slc_st_read_f32(m->st, of->s[k].tensor, inside, part, out, e) < 0)
            return -1;
        out += part;
        start += part;
        count -= part;
    }
    return 0;
}
