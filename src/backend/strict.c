/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/strict_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

/* The calls of the strict backend; how work is kept and run is in strict_queue.c. */
struct strict_event {
    struct slc_event base;
    struct strict_queue *of; /* NULL: never recorded, complete */
    uint64_t upto;
};

static struct slc_queue *queue_create(struct slc_backend *b, struct slc_err *e)
{
    struct strict *s = (struct strict *)b;
    struct strict_queue *q = calloc(1, sizeof(*q));

    if (!q) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no memory for a queue");
        return NULL;
    }
    q->base.b = b;
    q->base.error.rank = -1;
    q->last = &q->first;
    pthread_mutex_lock(&s->lock);
    q->next = s->queues;
    s->queues = q;
    pthread_mutex_unlock(&s->lock);
    return &q->base;
}

/* Other queues and events may still name it: it is only emptied. */
static void queue_destroy(struct slc_queue *q)
{
    slc_strict_demand(strict_of(q), (struct strict_queue *)q,
                      ((struct strict_queue *)q)->enqueued, true);
}

static int queue_sync(struct slc_queue *q, struct slc_err *e)
{
    queue_destroy(q);
    return slc_err_pass(&q->error, e);
}

static struct slc_event *event_create(struct slc_backend *b, struct slc_err *e)
{
    struct strict_event *ev = calloc(1, sizeof(*ev));

    if (!ev) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no memory for an event");
        return NULL;
    }
    ev->base.b = b;
    return &ev->base;
}

static void event_destroy(struct slc_event *ev)
{
    free(ev);
}

static void event_record(struct slc_event *event, struct slc_queue *q)
{
    struct strict_event *ev = (struct strict_event *)event;

    ev->of = (struct strict_queue *)q;
    ev->upto = ev->of->enqueued;
}

static void queue_wait(struct slc_queue *q, struct slc_event *event)
{
    struct strict_event *ev = (struct strict_event *)event;
    struct strict_item it = {.kind = STRICT_WAIT, .of = ev->of, .upto = ev->upto};

    if (ev->of && &ev->of->base != q)
        slc_strict_enqueue(q, &it);
}

static int event_sync(struct slc_event *event, struct slc_err *e)
{
    struct strict_event *ev = (struct strict_event *)event;

    if (!ev->of)
        return 0;
    slc_strict_demand((struct strict *)event->b, ev->of, ev->upto, true);
    return slc_err_pass(&ev->of->base.error, e);
}

/* The first look only asks for the work: code must not count on "done at once". */
static int event_test(struct slc_event *event, struct slc_err *e)
{
    struct strict_event *ev = (struct strict_event *)event;
    struct strict *s = (struct strict *)event->b;
    bool done;

    if (!ev->of)
        return 1;
    pthread_mutex_lock(&s->lock);
    done = ev->of->done >= ev->upto && !slc_strict_wanted(s);
    pthread_mutex_unlock(&s->lock);
    if (!done) {
        slc_strict_demand(s, ev->of, ev->upto, false);
        return 0;
    }
    return slc_err_pass(&ev->of->base.error, e) != 0 ? -1 : 1;
}

static void upload(struct slc_queue *q, void *dst, const void *src, size_t bytes)
{
    struct strict_item it = {.kind = STRICT_UPLOAD, .p = dst, .bytes = bytes};

    if (bytes == 0)
        return;
    it.data = malloc(bytes);
    if (!it.data)
        SLC_BUG("strict: no memory for an upload");
    memcpy(it.data, src, bytes);
    slc_strict_enqueue(q, &it);
}

static void hide(struct slc_queue *q, void *p, size_t bytes, bool hidden)
{
    struct strict_item it = {
        .kind = STRICT_HIDE, .p = p, .bytes = bytes, .hidden = hidden};

    if (bytes > 0)
        slc_strict_enqueue(q, &it);
}

static int fetch(struct slc_queue *q, void *dst, const void *src, size_t bytes,
                 struct slc_err *e)
{
    struct strict_memory *m = &strict_of(q)->memory;

    if (queue_sync(q, e) != 0)
        return -1;
    slc_strict_memory_open(m);
    if (bytes)
        memcpy(dst, src, bytes);
    slc_strict_memory_close(m);
    return 0;
}

static void *mem_alloc(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
                       struct slc_err *e)
{
    void *p;

    b->allocations++;
    if (kind == SLC_MEM_DEVICE)
        return slc_strict_memory_alloc(&((struct strict *)b)->memory, bytes, e);
    if (posix_memalign(&p, SLC_ARENA_ALIGN, bytes ? bytes : 1) == 0)
        return p;
    slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no memory for %zu bytes", bytes);
    return NULL;
}

/* As on a GPU, freeing waits for all work: it may use the memory. */
static void mem_free(struct slc_backend *b, void *p, enum slc_mem_kind kind)
{
    struct strict *s = (struct strict *)b;

    if (kind != SLC_MEM_DEVICE) {
        free(p);
        return;
    }
    for (struct strict_queue *q = s->queues; q; q = q->next)
        slc_strict_demand(s, q, q->enqueued, true);
    slc_strict_memory_free(&s->memory, p);
}

static int prepare(struct slc_backend *b, enum slc_op op, const void *args,
                   struct slc_err *e)
{
    (void)b;
    (void)op;
    (void)args;
    (void)e;
    return 0;
}

static void describe(struct slc_backend *b, char *text, size_t len)
{
    (void)b;
    snprintf(text, len, "reference kernels, run late on a worker thread");
}

static void destroy(struct slc_backend *b)
{
    struct strict *s = (struct strict *)b;

    for (struct strict_queue *q = s->queues; q; q = q->next)
        slc_strict_demand(s, q, q->enqueued, true);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->worker, NULL);
    while (s->queues) {
        struct strict_queue *q = s->queues;

        s->queues = q->next;
        free(q);
    }
    slc_strict_memory_release(&s->memory);
    pthread_cond_destroy(&s->progress);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct slc_backend_calls strict_calls = {
    .destroy = destroy,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_sync = queue_sync,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .queue_wait = queue_wait,
    .event_test = event_test,
    .event_sync = event_sync,
    .upload = upload,
    .fetch = fetch,
    .prepare = prepare,
    .describe = describe,
    .hide = hide,
};

struct slc_backend *slc_backend_strict_create(struct slc_err *e)
{
    struct strict *s = calloc(1, sizeof(*s));

    if (!s) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no memory for the backend");
        return NULL;
    }
    s->base.name = "strict";
    s->base.calls = strict_calls;
    s->base.row_align = 1;
    s->base.host_readable = true;
    s->base.own_in_place = true;
    slc_ops_ref(&s->ref);
    slc_strict_fill(&s->base.ops);
    slc_strict_memory_init(&s->memory);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->progress, NULL);
    if (pthread_create(&s->worker, NULL, slc_strict_worker, s) == 0)
        return &s->base;
    slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no thread can be started");
    pthread_cond_destroy(&s->progress);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    slc_strict_memory_release(&s->memory);
    free(s);
    return NULL;
}
