/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_STORE_SAMPLE_H
#define SLC_TESTS_STORE_SAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "store/checkpoint.h"

/*
 * A state to save whose every element is a function of (seed, tensor, place), cut over
 * any number of ranks in three ways, some of them unkind: cuts inside pages and blocks.
 */
#define SAMPLE_TENSORS 12

enum sample_cut {
    SAMPLE_ROWS,  /* contiguous shares */
    SAMPLE_DEAL,  /* pieces of 3,001 elements dealt out in turn */
    SAMPLE_OWNER, /* tensor i on rank i mod n, whole */
    SAMPLE_CUTS,
};

struct sample {
    uint64_t seed;
    int scale; /* multiplies the large tensors */
    struct slc_ckpt_tensor t[SAMPLE_TENSORS];
    struct slc_ckpt_state state;
    int64_t moved;  /* elements seen by the callbacks */
    int64_t wrong;  /* elements that were loaded wrong */
    int fail_after; /* > 0: the read callback fails at this call */
    int calls;
};

static inline void sample_tensor(struct sample *s, int i, const char *name,
                                 enum slc_dtype dtype, int ndim, int64_t a, int64_t b,
                                 int64_t c)
{
    struct slc_ckpt_tensor *t = &s->t[i];

    memset(t, 0, sizeof(*t));
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->dtype = dtype;
    t->ndim = ndim;
    t->shape[0] = a;
    t->shape[1] = b;
    t->shape[2] = c;
}

static inline int64_t sample_count(const struct slc_ckpt_tensor *t)
{
    int64_t n = 1;

    for (int d = 0; d < t->ndim; d++)
        n *= t->shape[d];
    return n;
}

static inline void sample_cut(struct sample *s, enum sample_cut cut, int rank, int size)
{
    for (int i = 0; i < SAMPLE_TENSORS; i++) {
        struct slc_ckpt_tensor *t = &s->t[i];
        int64_t n = sample_count(t), step = 3001;
        int most = cut == SAMPLE_DEAL ? (int)(n / step / size + 2) : 1;
        struct slc_ckpt_extent *x = calloc((size_t)most, sizeof(*x));
        free((void *)t->extents);
        t->extents = x;
        t->n_extents = 0;
        if (cut == SAMPLE_OWNER) {
            if (i % size == rank)
                x[t->n_extents++] = (struct slc_ckpt_extent){0, n};
        } else if (cut == SAMPLE_ROWS) {
            int64_t from = n * rank / size, to = n * (rank + 1) / size;
            x[t->n_extents++] = (struct slc_ckpt_extent){from, to - from};
        } else {
            /* in falling order, which nothing may depend on */
            for (int64_t p = n / step; p >= 0; p--)
                if (p % size == rank && p * step < n)
                    x[t->n_extents++] = (struct slc_ckpt_extent){
                        p * step, n - p * step < step ? n - p * step : step};
        }
    }
}

static inline void sample_init(struct sample *s, uint64_t seed, int scale)
{
    memset(s, 0, sizeof(*s));
    s->seed = seed;
    s->scale = scale;
    sample_tensor(s, 0, "weights/embed", SLC_F32, 2, 300 * scale, 100, 0);
    sample_tensor(s, 1, "weights/layers.0.norm", SLC_F32, 1, 64, 0, 0);
    sample_tensor(s, 2, "weights/layers.0.experts.up", SLC_F32, 3, 7, 24 * scale, 100);
    sample_tensor(s, 3, "weights/layers.0.norm2", SLC_F32, 1, 65, 0, 0);
    sample_tensor(s, 4, "weights/half", SLC_BF16, 2, 1001, 3, 0);
    sample_tensor(s, 5, "weights/page", SLC_F32, 1, 1024, 0, 0);
    sample_tensor(s, 6, "adamw.m/embed", SLC_F32, 2, 300 * scale, 100, 0);
    sample_tensor(s, 7, "adamw.v/embed", SLC_F32, 2, 300 * scale, 100, 0);
    sample_tensor(s, 8, "odd/bytes", SLC_U8, 1, 5001, 0, 0);
    sample_tensor(s, 9, "odd/longs", SLC_I64, 1, 3, 0, 0);
    sample_tensor(s, 10, "odd/deep/one", SLC_F64, 1, 1, 0, 0);
    sample_tensor(s, 11, "odd/half", SLC_BF16, 1, 1, 0, 0);
    s->state =
        (struct slc_ckpt_state){.step = 10,
                                .updates = 9,
                                .samples = 640,
                                .tokens = 1LL << 40,
                                .skipped = 1,
                                .seed = 0xfedcba9876543210u,
                                .spec_digest = seed,
                                .corpus_digest = ~0ull,
                                .best_validation = 1.0 / 3,
                                .config = (char *)"{\"model_type\": \"x\"}",
                                .run_file = (char *)"train:\n  steps: 1 # \xc3\xa9\n",
                                .versions = (char *)"sluice 0"};
    sample_cut(s, SAMPLE_ROWS, 0, 1);
}

static inline void sample_release(struct sample *s)
{
    for (int i = 0; i < SAMPLE_TENSORS; i++)
        free((void *)s->t[i].extents);
}

static inline void sample_values(const struct sample *s, int i, int64_t start,
                                 int64_t count, void *out)
{
    size_t size = slc_dtype_size(s->t[i].dtype);
    unsigned char *to = out;

    for (int64_t k = start; k < start + count; k++, to += size) {
        uint64_t x = (s->seed * 31 + (uint64_t)i) * 0x9e3779b97f4a7c15u + (uint64_t)k;
        x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
        x ^= x >> 32;
        memcpy(to, &x, size);
    }
}

static inline int sample_read(void *ctx, int i, int64_t start, int64_t count, void *buf,
                              struct slc_err *e)
{
    struct sample *s = ctx;

    if (s->fail_after && ++s->calls == s->fail_after)
        return slc_errf(e, SLC_EXIT_SYSTEM, "planted failure");
    sample_values(s, i, start, count, buf);
    s->moved += count;
    return 0;
}

static inline int sample_write(void *ctx, int i, int64_t start, int64_t count,
                               void *buf, struct slc_err *e)
{
    struct sample *s = ctx;
    size_t bytes = (size_t)count * slc_dtype_size(s->t[i].dtype);
    void *want = malloc(bytes);

    (void)e;
    sample_values(s, i, start, count, want);
    s->wrong += memcmp(want, buf, bytes) != 0;
    s->moved += count;
    free(want);
    return 0;
}

static inline int64_t sample_elements(const struct sample *s)
{
    int64_t n = 0;

    for (int i = 0; i < SAMPLE_TENSORS; i++)
        for (int x = 0; x < s->t[i].n_extents; x++)
            n += s->t[i].extents[x].count;
    return n;
}

#endif
