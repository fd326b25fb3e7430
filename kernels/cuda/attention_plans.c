/* SPDX-License-Identifier: Apache-2.0 */
#ifdef SLC_HAVE_CUDNN

#include "kernels/cuda/attention_plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct slc_sdpa_shape shape;
    struct slc_sdpa_plan plan;
    bool usable;
};

static bool start(struct slc_cuda_attention *s)
{
    return cudnnCreate(&s->handle) == CUDNN_STATUS_SUCCESS &&
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
        if (s->handle)
            cudnnDestroy(s->handle);
        s->handle = NULL; /* said where a plan is asked for */
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
    if (s->handle)
        cudnnDestroy(s->handle);
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

struct slc_sdpa_plan *slc_cuda_attention_plan(struct slc_cuda *c,
                                              const struct slc_sdpa_shape *shape)
{
    struct slc_cuda_attention *s = slc_cuda_attention_state(c);
    struct slc_err e = SLC_ERR_INIT;

    if (!s)
        return NULL;
    if (!s->handle) {
        slc_cuda_attention_say_plain(c, shape->S, shape->D, "cuDNN does not start");
        return NULL;
    }
    for (int i = 0; i < s->n; i++)
        if (!memcmp(&s->entry[i].shape, shape, sizeof(*shape)))
            return s->entry[i].usable ? &s->entry[i].plan : NULL;
    struct entry *x = new_entry(s);
    if (!x) {
        slc_cuda_attention_say_plain(c, shape->S, shape->D, "no memory for its plan");
        return NULL;
    }
    x->shape = *shape;
    x->usable = slc_sdpa_plan_make(&x->plan, shape, s->handle, NULL, &e) == 0;
    if (!x->usable)
        slc_cuda_attention_say_plain(c, shape->S, shape->D, e.text);
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
