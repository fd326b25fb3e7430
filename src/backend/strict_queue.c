/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/strict_private.h"

#include <stdlib.h>
#include <string.h>

/*
 * Work is kept until something waits for it: a sync, a fetch or an event then runs that
 * queue up to the awaited place on the worker thread, and other queues only as far as
 * its waits on events ask. What nobody ordered has not happened yet.
 */
static void run_op(struct strict *s, struct slc_queue *q, struct strict_item *it)
{
    switch (it->op) {
#define CASE(name)                                                                     \
    case SLC_OP_##name:                                                                \
        s->ref.name(q, &it->args.name);                                                \
        break;
        SLC_OPS(CASE)
#undef CASE
    case SLC_OP_COUNT:
        SLC_BUG("strict: no such op");
    }
}

static void run_item(struct strict *s, struct strict_queue *q, struct strict_item *it)
{
    if (it->kind == STRICT_OP)
        run_op(s, &q->base, it);
    else if (it->kind == STRICT_UPLOAD)
        memcpy(it->p, it->data, it->bytes);
    else if (it->kind == STRICT_HIDE)
        slc_strict_memory_hide(&s->memory, it->p, it->bytes, it->hidden);
    else if (it->of->base.error.code != SLC_EXIT_OK)
        slc_queue_fail(&q->base, &it->of->base.error);
}

/* On the worker, with the lock, which is let go while an item runs. */
static void run_upto(struct strict *s, struct strict_queue *q, uint64_t upto)
{
    if (q->done >= upto)
        return;
    if (q->busy)
        SLC_BUG("strict: queues wait for each other in a circle");
    q->busy = true;
    while (q->done < upto) {
        struct strict_item *it = q->first;

        if (it->kind == STRICT_WAIT)
            run_upto(s, it->of, it->upto);
        q->first = it->next;
        if (!q->first)
            q->last = &q->first;
        pthread_mutex_unlock(&s->lock);
        run_item(s, q, it);
        free(it->data);
        free(it);
        pthread_mutex_lock(&s->lock);
        q->done++;
    }
    q->busy = false;
}

struct strict_queue *slc_strict_wanted(struct strict *s)
{
    struct strict_queue *q = s->queues;

    while (q && q->done >= q->wanted)
        q = q->next;
    return q;
}

void *slc_strict_worker(void *arg)
{
    struct strict *s = arg;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct strict_queue *q = slc_strict_wanted(s);

        if (!q && s->stop)
            break;
        if (!q) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        slc_strict_memory_open(&s->memory);
        run_upto(s, q, q->wanted);
        slc_strict_memory_close(&s->memory);
        pthread_cond_broadcast(&s->progress);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Ask for the first `upto` items of q; with `wait`, until they and the worker are done.
 */
void slc_strict_demand(struct strict *s, struct strict_queue *q, uint64_t upto,
                       bool wait)
{
    pthread_mutex_lock(&s->lock);
    if (q->wanted < upto)
        q->wanted = upto;
    pthread_cond_signal(&s->work);
    while (wait && (q->done < upto || slc_strict_wanted(s)))
        pthread_cond_wait(&s->progress, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void slc_strict_enqueue(struct slc_queue *queue, const struct strict_item *item)
{
    struct strict_queue *q = (struct strict_queue *)queue;
    struct strict_item *it = malloc(sizeof(*it));

    if (!it)
        SLC_BUG("strict: no memory for a work item");
    *it = *item;
    it->next = NULL;
    pthread_mutex_lock(&strict_of(queue)->lock);
    *q->last = it;
    q->last = &it->next;
    q->enqueued++;
    pthread_mutex_unlock(&strict_of(queue)->lock);
}

#define ENQUEUE(name)                                                                  \
    static void enqueue_##name(struct slc_queue *q, const struct slc_##name##_args *a) \
    {                                                                                  \
        struct strict_item it = {.kind = STRICT_OP, .op = SLC_OP_##name};              \
                                                                                       \
        it.args.name = *a;                                                             \
        slc_strict_enqueue(q, &it);                                                    \
    }
SLC_OPS(ENQUEUE)
#undef ENQUEUE

void slc_strict_fill(struct slc_ops *ops)
{
#define ENTRY(name) ops->name = enqueue_##name;
    SLC_OPS(ENTRY)
#undef ENTRY
}
