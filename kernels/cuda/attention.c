/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#ifdef SLC_HAVE_CUDNN

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/sdpa.h"

/*
 * bf16 attention by cuDNN. A plan serves all packings of at most B sequences of at most S
 * tokens: the number of sequences is rounded up to a power of two and the
 * longest of them to one or 3/4 of one, lengths and offsets are read on the GPU. Rows that are whole sequences have a plan of
 * their own, without masks of padding. Plans are made at set-up, for packings down to
 * documents of SHORT tokens on average; one of still more documents makes its plan when it
 * comes. What cuDNN has no engine for runs on attention_plain.cu, and the first such shape
 * is named on stderr.
 */

/* The backward keeps dS: heads, then sequences, are split until it fits. */
#define WORKSPACE_BYTES (2ll << 30)
#define SHORT 16
#define LEAST_S 512

struct entry {
    struct slc_sdpa_shape shape;
    struct slc_sdpa_plan plan;
    bool usable;
};

struct slc_cuda_attention {
    cudnnHandle_t handle; /* NULL: cuDNN did not start */
    struct entry *entry;
    int n, room;
    bool said; /* that there are shapes that run on the plain kernel */
    int64_t whole; /* tokens of a row, of the largest prepared */
};

/* Arguments that forward and backward share, and how the work is cut. */
struct job {
    struct slc_sdpa_shape shape; /* of one call */
    int64_t n_seg, sequences;    /* sequences: B of all calls together */
    const struct slc_attention_backward_args *a;
};

static struct slc_cuda_attention *state(struct slc_cuda *c)
{
    if (c->attention)
        return c->attention;
    struct slc_cuda_attention *s = calloc(1, sizeof(*s));
    if (s && cudnnCreate(&s->handle) != CUDNN_STATUS_SUCCESS)
        s->handle = NULL; /* plan_of says so */
    return c->attention = s;
}

void slc_cuda_attention_destroy(struct slc_cuda_attention *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        slc_sdpa_plan_release(&s->entry[i].plan);
    free(s->entry);
    if (s->handle)
        cudnnDestroy(s->handle);
    free(s);
}

void slc_cuda_attention_describe(const struct slc_cuda *c, char *text, size_t len)
{
    const size_t v = cudnnGetVersion();

    (void)c;
    snprintf(text, len, "cuDNN %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

/* bf16 attention that runs many times slower than it could is not kept quiet. */
static void say_plain(struct slc_cuda *c, int64_t S, int64_t D, const char *why)
{
    if (c->attention && !c->attention->said)
        fprintf(stderr, "sluice: attention in bf16 of %lld tokens, heads of %lld, runs on the "
                        "plain kernel, which is slow: %s\n",
                (long long)S, (long long)D, why);
    if (c->attention)
        c->attention->said = true;
}

static struct entry *new_entry(struct slc_cuda_attention *s)
{
    if (s->n == s->room) {
        const int room = s->room ? 2 * s->room : 256;
        struct entry *more = realloc(s->entry, (size_t)room * sizeof(*more));

        if (!more)
            return NULL;
        s->entry = more;
        s->room = room;
    }
    return &s->entry[s->n++];
}

/* Valid until the next call. NULL: cuDNN cannot. */
static struct slc_sdpa_plan *plan_of(struct slc_cuda *c, const struct slc_sdpa_shape *shape)
{
    struct slc_cuda_attention *s = state(c);
    struct slc_err e = SLC_ERR_INIT;

    if (!s)
        return NULL;
    if (!s->handle) {
        say_plain(c, shape->S, shape->D, "cuDNN does not start");
        return NULL;
    }
    for (int i = 0; i < s->n; i++)
        if (!memcmp(&s->entry[i].shape, shape, sizeof(*shape)))
            return s->entry[i].usable ? &s->entry[i].plan : NULL;
    struct entry *x = new_entry(s);
    if (!x) {
        say_plain(c, shape->S, shape->D, "no memory for its plan");
        return NULL;
    }
    x->shape = *shape;
    x->usable = slc_sdpa_plan_make(&x->plan, shape, s->handle, NULL, &e) == 0;
    if (!x->usable)
        say_plain(c, shape->S, shape->D, e.text);
    return x->usable ? &x->plan : NULL;
}

static int64_t power_of_two(int64_t n)
{
    int64_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* Room for sequences of at most `longest` tokens, in rows of `whole` (0: not known). */
static int64_t room_for(int64_t longest, int64_t whole)
{
    int64_t s = power_of_two(longest < LEAST_S ? LEAST_S : longest);

    if (s > LEAST_S && s / 4 * 3 >= longest)
        s = s / 4 * 3;
    if (whole >= longest && s > whole)
        s = whole;
    return (s + 127) / 128 * 128;
}

/* The next smaller room. */
static int64_t room_below(int64_t s)
{
    return power_of_two(s) == s ? s / 4 * 3 : s / 3 * 2;
}

/* Whether cuDNN can be asked at all, and the cut of the work into calls. */
static bool job_of(struct job *j, const struct slc_cuda *c,
                   const struct slc_attention_backward_args *a, bool backward)
{
    struct slc_sdpa_shape *s = &j->shape;
    const int64_t row = c->attention ? c->attention->whole : 0;
    const bool whole = a->n_seg * a->max_len == a->T && a->max_len % 128 == 0 &&
                       (row == 0 || a->max_len == row);

    if (a->dtype != SLC_BF16 || a->D % 8 || a->D > 128 || c->prop.major < 9 ||
        a->max_len <= 0 || a->T * a->NQ * a->D >= 1ll << 31)
        return false;
    memset(j, 0, sizeof(*j)); /* shapes are compared as bytes */
    j->a = a;
    j->n_seg = a->n_seg;
    s->B = whole ? a->n_seg : power_of_two(a->n_seg);
    s->S = whole ? a->max_len : room_for(a->max_len, row);
    s->NQ = s->heads = a->NQ;
    s->NK = s->kv_heads = a->NK;
    s->D = a->D;
    s->window = a->window;
    s->backward = backward;
    s->ragged = !whole;
    j->sequences = s->B;
    while (backward && 2 * s->B * s->heads * s->S * s->S > WORKSPACE_BYTES) {
        if (s->kv_heads % 2 == 0) {
            s->kv_heads /= 2;
            s->heads /= 2;
        } else if (s->B % 2 == 0) {
            s->B /= 2;
        } else {
            break;
        }
    }
    return true;
}

/* Scratch of a job, one part after another. */
struct parts {
    size_t length, off_q, off_k, off_stats, sum, dk, dv, workspace, end;
};

static size_t part(size_t *at, size_t bytes)
{
    const size_t here = *at;

    *at = (here + bytes + 255) / 256 * 256;
    return here;
}

static struct parts parts_of(const struct job *j, const struct slc_sdpa_plan *p)
{
    const size_t list = (size_t)(j->sequences + 1) * sizeof(int32_t);
    const size_t rows = (size_t)(j->a->T * j->a->NQ), full = rows * (size_t)j->a->D * 2;
    const bool grouped = p->uses[SLC_SDPA_DK_FULL];
    struct parts x;
    size_t at = 0;

    x.length = part(&at, list);
    x.off_q = part(&at, list);
    x.off_k = part(&at, list);
    x.off_stats = part(&at, list);
    x.sum = part(&at, p->uses[SLC_SDPA_SUM] ? rows * sizeof(float) : 0);
    x.dk = part(&at, grouped ? full : 0);
    x.dv = part(&at, grouped ? full : 0);
    x.workspace = part(&at, (size_t)p->workspace);
    x.end = at;
    return x;
}

/* Pointers of the call for sequences from b0 and kv heads from h0. */
static void arrays_of(void *arrays[SLC_SDPA_ARRAYS], const struct job *j, char *scratch,
                      const struct parts *x, int64_t b0, int64_t h0)
{
    const struct slc_attention_backward_args *a = j->a;
    const struct slc_sdpa_shape *s = &j->shape;
    const int64_t group = s->NQ / s->NK, hq = h0 * group;
    /* without offsets, sequences are reached by pointer */
    const int64_t t0 = s->ragged ? 0 : b0 * s->S;
    const size_t q = (size_t)((t0 * s->NQ + hq) * s->D) * 2;
    const size_t k = (size_t)((t0 * s->NK + h0) * s->D) * 2;
    const size_t row = (size_t)(t0 * s->NQ + hq) * sizeof(float);
    const size_t b = (size_t)b0 * sizeof(int32_t);

#define AT(p, n) ((void *)((char *)(uintptr_t)(p) + (n)))
    arrays[SLC_SDPA_Q] = AT(a->q, q);
    arrays[SLC_SDPA_K] = AT(a->k, k);
    arrays[SLC_SDPA_V] = AT(a->v, k);
    arrays[SLC_SDPA_O] = AT(a->o, q);
    arrays[SLC_SDPA_STATS] = AT(a->lse, row);
    arrays[SLC_SDPA_D_O] = AT(a->d_o, q);
    arrays[SLC_SDPA_DQ] = AT(a->dq, q);
    arrays[SLC_SDPA_DK] = AT(a->dk, k);
    arrays[SLC_SDPA_DV] = AT(a->dv, k);
    arrays[SLC_SDPA_LENGTHS] = scratch + x->length + b;
    arrays[SLC_SDPA_OFFSETS_Q] = scratch + x->off_q + b;
    arrays[SLC_SDPA_OFFSETS_K] = scratch + x->off_k + b;
    arrays[SLC_SDPA_OFFSETS_STATS] = scratch + x->off_stats + b;
    arrays[SLC_SDPA_SUM] = scratch + x->sum + row;
    arrays[SLC_SDPA_DK_FULL] = scratch + x->dk + q;
    arrays[SLC_SDPA_DV_FULL] = scratch + x->dv + q;
#undef AT
}

/* true: done by cuDNN (or the queue has failed). */
static bool run(struct slc_queue *q, const struct slc_attention_backward_args *a,
                bool backward)
{
    struct slc_cuda *c = slc_cuda_queue_of(q)->cuda;
    float scale = a->scale, inf = -INFINITY, one = 1, window = (float)a->window;
    void *arrays[SLC_SDPA_ARRAYS] = {
        [SLC_SDPA_SCALE] = &scale,
        [SLC_SDPA_MINUS_INFINITY] = &inf,
        [SLC_SDPA_ONE] = &one,
        [SLC_SDPA_WINDOW] = &window,
    };
    struct job j;

    if (!job_of(&j, c, a, backward))
        return false;
    const struct slc_sdpa_plan *p = plan_of(c, &j.shape);
    if (!p)
        return false;
    const struct parts x = parts_of(&j, p);
    char *scratch = slc_cuda_scratch(q, x.end);
    if (!scratch)
        return true;
    if (j.shape.ragged)
        slc_cuda_sequences(q, (int32_t *)(scratch + x.length),
                           (int32_t *)(scratch + x.off_q), (int32_t *)(scratch + x.off_k),
                           (int32_t *)(scratch + x.off_stats), a->seg, a->n_seg,
                           j.sequences, a->NQ, a->NK, a->D);
    cudnnHandle_t handle = c->attention->handle;
    cudnnStatus_t s = cudnnSetStream(handle, slc_cuda_queue_of(q)->stream);
    for (int64_t b = 0; b < j.sequences; b += j.shape.B)
        for (int64_t h = 0; h < a->NK; h += j.shape.kv_heads) {
            if (j.shape.ragged && b >= a->n_seg)
                break;
            arrays_of(arrays, &j, scratch, &x, b, h);
            if (s == CUDNN_STATUS_SUCCESS)
                s = slc_sdpa_plan_run(p, handle, arrays, scratch + x.workspace);
        }
    if (s != CUDNN_STATUS_SUCCESS)
        slc_cuda_fail_text(q, SLC_EXIT_BUG, cudnnGetErrorString(s));
    return true;
}

/* Plans of both passes; the scratch of the larger. */
static size_t prepare_one(struct slc_cuda *c, const struct slc_attention_backward_args *a)
{
    size_t most = 0;

    for (int backward = 0; backward < 2; backward++) {
        struct job j;
        struct slc_sdpa_plan *p = NULL;

        if (job_of(&j, c, a, backward))
            p = plan_of(c, &j.shape);
        else
            say_plain(c, a->max_len, a->D,
                      "cuDNN's takes heads of at most 128 in steps of 8, on Hopper");
        if (p)
            most = (size_t)slc_most((int64_t)most, (int64_t)parts_of(&j, p).end);
    }
    return most;
}

size_t slc_cuda_attention_prepare(struct slc_cuda *c,
                                  const struct slc_attention_backward_args *a)
{
    struct slc_attention_backward_args one = *a;
    const int64_t rows = a->max_len > 0 ? a->T / a->max_len : 0;
    size_t most;

    if (a->dtype != SLC_BF16 || rows == 0 || rows * a->max_len != a->T || !state(c))
        return 0;
    if (a->max_len > c->attention->whole)
        c->attention->whole = a->max_len;
    one.n_seg = rows;
    most = prepare_one(c, &one);
    for (int64_t longest = room_for(a->max_len, 0);; longest = room_below(longest)) {
        one.max_len = slc_least(longest, a->max_len);
        for (one.n_seg = power_of_two(a->T / longest + 1); one.n_seg <= a->T / SHORT;
             one.n_seg *= 2)
            most = (size_t)slc_most((int64_t)most, (int64_t)prepare_one(c, &one));
        if (longest <= LEAST_S)
            return most;
    }
}

void slc_cuda_attention_forward(struct slc_queue *q,
                                const struct slc_attention_forward_args *f)
{
    const struct slc_attention_backward_args a = {
        .o = f->o, .lse = f->lse, .q = f->q, .k = f->k, .v = f->v, .seg = f->seg,
        .T = f->T, .NQ = f->NQ, .NK = f->NK, .D = f->D, .n_seg = f->n_seg,
        .max_len = f->max_len, .window = f->window, .scale = f->scale, .dtype = f->dtype};

    if (f->T > 0 && !run(q, &a, false))
        slc_cuda_attention_forward_plain(q, f);
}

void slc_cuda_attention_backward(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    if (a->T > 0 && !run(q, a, true))
        slc_cuda_attention_backward_plain(q, a);
}

#else

#include <stdio.h>

void slc_cuda_attention_destroy(struct slc_cuda_attention *s)
{
    (void)s;
}

void slc_cuda_attention_describe(const struct slc_cuda *c, char *text, size_t len)
{
    (void)c;
    snprintf(text, len, "no cuDNN");
}

size_t slc_cuda_attention_prepare(struct slc_cuda *c,
                                  const struct slc_attention_backward_args *a)
{
    (void)c;
    (void)a;
    return 0;
}

void slc_cuda_attention_forward(struct slc_queue *q,
                                const struct slc_attention_forward_args *a)
{
    slc_cuda_attention_forward_plain(q, a);
}

void slc_cuda_attention_backward(struct slc_queue *q,
                                 const struct slc_attention_backward_args *a)
{
    slc_cuda_attention_backward_plain(q, a);
}

#endif
