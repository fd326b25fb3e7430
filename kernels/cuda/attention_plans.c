/* SPDX-License-Identifier: Apache-2.0 */
#ifdef SLC_HAVE_CUDNN

#include "kernels/cuda/attention_plans.h"

#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct slc_sdpa_shape shape;
    struct slc_sdpa_plan plan;
    bool made, usable;
};

static bool start(struct slc_cuda_attention *s)
{
    return cudnnCreate(&s->handle[0]) == CUDNN_STATUS_SUCCESS &&
           cudaStreamCreateWithFlags(&s->side, cudaStreamNonBlocking) == cudaSuccess &&
           cudaEventCreateWithFlags(&s->fork, cudaEventDisableTiming) == cudaSuccess &&
           cudaEventCreateWithFlags(&s->join, cudaEventDisableTiming) == cudaSuccess;
}

struct slc_cuda_attention *slc_cuda_attention_state(struct slc_cuda *c)
{
    if (c->attention)
        return c->attention;
    struct slc_cuda_attention *s = calloc(1, sizeof(*s));
    if (s && !start(s)) {
        if (s->handle[0])
            cudnnDestroy(s->handle[0]);
        s->handle[0] = NULL; /* said where a plan is asked for */
    }
    return c->attention = s;
}

void slc_cuda_attention_destroy(struct slc_cuda_attention *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        slc_sdpa_plan_release(&s->entry[i].plan);
    free(s->entry);
    for (int i = 0; i < SLC_CUDA_MAKERS; i++)
        if (s->handle[i])
            cudnnDestroy(s->handle[i]);
    if (s->side)
        cudaStreamDestroy(s->side);
    if (s->fork)
        cudaEventDestroy(s->fork);
    if (s->join)
        cudaEventDestroy(s->join);
    free(s);
}

void slc_cuda_attention_describe(const struct slc_cuda *c, char *text, size_t len)
{
    const size_t v = cudnnGetVersion();

    (void)c;
    snprintf(text, len, "cuDNN %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

void slc_cuda_attention_say_plain(struct slc_cuda *c, int64_t S, int64_t D, const char *why)
{
    if (c->attention && !c->attention->said)
        fprintf(stderr, "sluice: attention in bf16 of %lld tokens, heads of %lld, runs on the "
                        "plain kernel, which is slow: %s\n",
                (long long)S, (long long)D, why);
    if (c->attention)
        c->attention->said = true;
}

/* NULL: no memory for one more. */
static struct entry *entry_of(struct slc_cuda_attention *s, const struct slc_sdpa_shape *shape)
{
    for (int i = 0; i < s->n; i++)
        if (!memcmp(&s->entry[i].shape, shape, sizeof(*shape)))
            return &s->entry[i];
    if (s->n == s->room) {
        const int room = s->room ? 2 * s->room : 256;
        struct entry *more = realloc(s->entry, (size_t)room * sizeof(*more));

        if (!more)
            return NULL;
        s->entry = more;
        s->room = room;
    }
    s->entry[s->n] = (struct entry){.shape = *shape};
    return &s->entry[s->n++];
}

void slc_cuda_attention_plan_want(struct slc_cuda *c, const struct slc_sdpa_shape *shape)
{
    struct slc_cuda_attention *s = slc_cuda_attention_state(c);

    if (s)
        entry_of(s, shape);
}

/* Handles of up to n threads; how many there are, at least the one that is there. */
static int makers(struct slc_cuda *c, int n)
{
    cudnnHandle_t *h = c->attention->handle;
    int there = 1;

    n = (int)slc_least(n, SLC_CUDA_MAKERS);
#pragma omp parallel for num_threads(n) if (!h[n - 1])
    for (int i = 1; i < n; i++)
        if (!h[i] && (cudaSetDevice(c->device) != cudaSuccess ||
                      cudnnCreate(&h[i]) != CUDNN_STATUS_SUCCESS))
            h[i] = NULL;
    while (there < n && h[there])
        there++;
    return there;
}

/* All plans that are wanted. The first that cuDNN cannot make is named on stderr. */
static void make_wanted(struct slc_cuda *c)
{
    struct slc_cuda_attention *s = c->attention;
    struct slc_err why = SLC_ERR_INIT;
    int wanted = 0, bad = INT_MAX;

    for (int i = 0; i < s->n; i++)
        wanted += !s->entry[i].made;
    const int threads = makers(c, (int)slc_least(omp_get_max_threads(), wanted));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < s->n; i++) {
        struct entry *x = &s->entry[i];
        struct slc_err e = SLC_ERR_INIT;

        if (x->made)
            continue;
        cudaSetDevice(c->device);
        x->usable = slc_sdpa_plan_make(&x->plan, &x->shape, s->handle[omp_get_thread_num()],
                                       NULL, &e) == 0;
        x->made = true;
#pragma omp critical
        if (!x->usable && i < bad) {
            bad = i;
            why = e;
        }
    }
    if (bad < s->n)
        slc_cuda_attention_say_plain(c, s->entry[bad].shape.S, s->entry[bad].shape.D,
                                     why.text);
}

struct slc_sdpa_plan *slc_cuda_attention_plan(struct slc_cuda *c,
                                              const struct slc_sdpa_shape *shape)
{
    struct slc_cuda_attention *s = slc_cuda_attention_state(c);

    if (!s)
        return NULL;
    if (!s->handle[0]) {
        slc_cuda_attention_say_plain(c, shape->S, shape->D, "cuDNN does not start");
        return NULL;
    }
    struct entry *x = entry_of(s, shape);
    if (!x) {
        slc_cuda_attention_say_plain(c, shape->S, shape->D, "no memory for its plan");
        return NULL;
    }
    if (!x->made)
        make_wanted(c);
    return x->usable ? &x->plan : NULL;
}

#else

#include <stdio.h>

#include "kernels/cuda/cuda.h"

void slc_cuda_attention_destroy(struct slc_cuda_attention *s)
{
    (void)s;
}

void slc_cuda_attention_describe(const struct slc_cuda *c, char *text, size_t len)
{
    (void)c;
    snprintf(text, len, "no cuDNN");
}

#endif
