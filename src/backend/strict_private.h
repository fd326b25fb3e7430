/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BACKEND_STRICT_PRIVATE_H
#define SLC_BACKEND_STRICT_PRIVATE_H

#include <pthread.h>

#include "backend/backend.h"

/*
 * Memory of the strict backend: every allocation is its own mapping, PROT_NONE while
 * nothing of the backend looks at it, filled with NaN (all bits set) when new. Opened
 * counts nest; both threads take the lock.
 */
struct strict_memory {
    pthread_mutex_t lock;
    struct strict_region *regions;
    struct strict_hidden *hidden;
    int opened;
};

void slc_strict_memory_init(struct strict_memory *m);
void slc_strict_memory_release(struct strict_memory *m);
void *slc_strict_memory_alloc(struct strict_memory *m, size_t bytes, struct slc_err *e);
void slc_strict_memory_free(struct strict_memory *m, void *p);
void slc_strict_memory_open(struct strict_memory *m);
void slc_strict_memory_close(struct strict_memory *m);
/* Put p's bytes aside and NaN in their place, or back. */
void slc_strict_memory_hide(struct strict_memory *m, void *p, size_t bytes,
                            bool hidden);

/* One piece of work in a queue. */
union strict_args {
#define ARGS(op) struct slc_##op##_args op;
    SLC_OPS(ARGS)
#undef ARGS
};

enum strict_kind { STRICT_OP, STRICT_UPLOAD, STRICT_WAIT, STRICT_HIDE };

struct strict_item {
    struct strict_item *next;
    enum strict_kind kind;
    enum slc_op op;
    union strict_args args;
    void *p; /* UPLOAD, HIDE */
    char *data;
    size_t bytes;
    bool hidden;
    struct strict_queue *of; /* WAIT: until `of` has done `upto` items */
    uint64_t upto;
};

struct strict_queue {
    struct slc_queue base;
    struct strict_queue *next;
    struct strict_item *first, **last;
    uint64_t enqueued, done, wanted;
    bool busy; /* running: a wait that comes back here would be a bug */
};

struct strict {
    struct slc_backend base;
    struct slc_ops ref;
    struct strict_memory memory;
    pthread_t worker;
    pthread_mutex_t lock; /* queues and what follows */
    pthread_cond_t work, progress;
    struct strict_queue *queues; /* live until the backend is destroyed */
    bool stop;
};

static inline struct strict *strict_of(struct slc_queue *q)
{
    return (struct strict *)q->b;
}

/* Put a copy of item at the end of the queue. */
void slc_strict_enqueue(struct slc_queue *q, const struct strict_item *item);
/* Ask for the first `upto` items of q; with `wait`, until they and the worker are done.
 */
void slc_strict_demand(struct strict *s, struct strict_queue *q, uint64_t upto,
                       bool wait);
/* With the lock: a queue that has work to do now, or NULL. */
struct strict_queue *slc_strict_wanted(struct strict *s);
void *slc_strict_worker(void *arg);
void slc_strict_fill(struct slc_ops *ops);

#endif
