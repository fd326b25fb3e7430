/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/arena.h"

/*
 * Backends "cpu" and "ref": an op runs before its call returns, so queues are always
 * drained and events always complete.
 */
struct host_event {
    struct slc_event base;
    struct slc_err error; /* of the queue when it was recorded */
};

static void destroy(struct slc_backend *b)
{
    if (!strcmp(b->name, "cpu"))
        slc_cpu_release();
    free(b);
}

/* Large regions lie on large pages: fewer faults at first touch, fewer misses later. Where
 * the kernel has none to give, ordinary ones do. */
#define LARGE_PAGE ((size_t)2 << 20)

static void *mem_alloc(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
                       struct slc_err *e)
{
    void *p;

    (void)kind;
    b->allocations++;
    if (posix_memalign(&p, bytes >= 2 * LARGE_PAGE ? LARGE_PAGE : SLC_ARENA_ALIGN,
                       bytes ? bytes : 1) == 0) {
        if (bytes >= 2 * LARGE_PAGE)
            madvise(p, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
        return p;
    }
    slc_errf(e, SLC_EXIT_SYSTEM,
             "backend %s: no memory for %zu bytes; use more ranks or a smaller "
             "micro-batch",
             b->name, bytes);
    return NULL;
}

static void mem_free(struct slc_backend *b, void *p, enum slc_mem_kind kind)
{
    (void)b;
    (void)kind;
    free(p);
}

static struct slc_queue *queue_create(struct slc_backend *b, struct slc_err *e)
{
    struct slc_queue *q = calloc(1, sizeof(*q));

    if (!q) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend %s: no memory for a queue", b->name);
        return NULL;
    }
    q->b = b;
    q->error.rank = -1;
    return q;
}

static void queue_destroy(struct slc_queue *q)
{
    free(q);
}

static int queue_sync(struct slc_queue *q, struct slc_err *e)
{
    return slc_err_pass(&q->error, e);
}

static struct slc_event *event_create(struct slc_backend *b, struct slc_err *e)
{
    struct host_event *ev = calloc(1, sizeof(*ev));

    if (!ev) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend %s: no memory for an event", b->name);
        return NULL;
    }
    ev->base.b = b;
    return &ev->base;
}

static void event_destroy(struct slc_event *ev)
{
    free(ev);
}

static void event_record(struct slc_event *ev, struct slc_queue *q)
{
    ((struct host_event *)ev)->error = q->error;
}

static void queue_wait(struct slc_queue *q, struct slc_event *ev)
{
    struct host_event *h = (struct host_event *)ev;

    if (h->error.code != SLC_EXIT_OK)
        slc_queue_fail(q, &h->error);
}

static int event_sync(struct slc_event *ev, struct slc_err *e)
{
    return slc_err_pass(&((struct host_event *)ev)->error, e);
}

static int event_test(struct slc_event *ev, struct slc_err *e)
{
    return event_sync(ev, e) != 0 ? -1 : 1;
}

static void upload(struct slc_queue *q, void *dst, const void *src, size_t bytes)
{
    (void)q;
    if (bytes)
        memcpy(dst, src, bytes);
}

static int fetch(struct slc_queue *q, void *dst, const void *src, size_t bytes,
                 struct slc_err *e)
{
    if (slc_err_pass(&q->error, e) != 0)
        return -1;
    if (bytes)
        memcpy(dst, src, bytes);
    return 0;
}

static int prepare(struct slc_backend *b, enum slc_op op, const void *args,
                   struct slc_err *e)
{
    return strcmp(b->name, "cpu") ? 0 : slc_cpu_prepare(op, args, e);
}

static void describe(struct slc_backend *b, char *text, size_t len)
{
    int n = omp_get_max_threads();

    if (strcmp(b->name, "cpu")) {
        snprintf(text, len, "reference kernels, 1 thread");
        return;
    }
    slc_cpu_describe(text, len);
    size_t used = strlen(text);
    snprintf(text + used, len - used, ", %d thread%s", n, n == 1 ? "" : "s");
}

static const struct slc_backend_calls host_calls = {
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
};

struct slc_backend *slc_backend_host_create(const char *name, struct slc_err *e)
{
    const bool cpu = !strcmp(name, "cpu");
    struct slc_backend *b = calloc(1, sizeof(*b));

    if (!b) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend %s: no memory for the backend", name);
        return NULL;
    }
    b->name = cpu ? "cpu" : "ref";
    b->calls = host_calls;
    b->row_align = 1;
    b->host_readable = true;
    b->own_in_place = true;
    b->immediate = true;
    if (cpu)
        slc_ops_cpu(&b->ops);
    else
        slc_ops_ref(&b->ops);
    b->bf16_fast = cpu && slc_cpu_bf16_fast();
    return b;
}
