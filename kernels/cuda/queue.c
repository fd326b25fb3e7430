/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Queues (streams) with their errors and scratch, and events. */

struct cuda_event {
    struct slc_event base;
    cudaEvent_t event;
    struct slc_err error; /* of the queue when it was recorded */
};

int slc_cuda_error(struct slc_err *e, cudaError_t err, const char *what)
{
    if (err == cudaSuccess)
        return 0;
    return slc_errf(e, err == cudaErrorMemoryAllocation ? SLC_EXIT_SYSTEM : SLC_EXIT_BUG,
                    "backend cuda: %s: %s", what, cudaGetErrorString(err));
}

void slc_cuda_fail(struct slc_queue *q, cudaError_t err, const char *what)
{
    struct slc_err e = SLC_ERR_INIT;

    if (slc_cuda_error(&e, err, what) != 0)
        slc_queue_fail(q, &e);
}

void slc_cuda_fail_text(struct slc_queue *q, int code, const char *text)
{
    struct slc_err e = SLC_ERR_INIT;

    slc_errf(&e, code, "backend cuda: %s", text);
    slc_queue_fail(q, &e);
}

int slc_cuda_launched(struct slc_queue *q, const char *what)
{
    cudaError_t err = cudaGetLastError();

    if (err == cudaSuccess)
        return 0;
    slc_cuda_fail(q, err, what);
    return -1;
}

int slc_cuda_allow_smem(struct slc_queue *q, const void *kernel, size_t bytes,
                        const char *what)
{
    char text[160];

    if (bytes <= 48u << 10)
        return 0;
    if (bytes > slc_cuda_queue_of(q)->cuda->smem_max) {
        snprintf(text, sizeof(text),
                 "%s: not supported: this width takes %zu bytes of shared memory, the "
                 "card has %zu",
                 what, bytes, slc_cuda_queue_of(q)->cuda->smem_max);
        slc_cuda_fail_text(q, SLC_EXIT_UNSUPPORTED, text);
        return -1;
    }
    cudaError_t err = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (err == cudaSuccess)
        return 0;
    slc_cuda_fail(q, err, what);
    return -1;
}

/* -- scratch --------------------------------------------------------------- */

int slc_cuda_scratch_grow(struct slc_cuda_queue *q, size_t bytes, struct slc_err *e)
{
    if (bytes <= q->scratch_size)
        return 0;
    cudaFree(q->scratch); /* waits for the work that may still use it */
    q->scratch = NULL;
    q->scratch_size = 0;
    bytes = (bytes + (1u << 20) - 1) >> 20 << 20;
    q->scratch = slc_cuda_mem_alloc(&q->cuda->base, bytes, SLC_MEM_DEVICE, e);
    if (!q->scratch)
        return -1;
    q->scratch_size = bytes;
    return 0;
}

void *slc_cuda_scratch(struct slc_queue *q, size_t bytes)
{
    struct slc_err e = SLC_ERR_INIT;

    if (slc_cuda_scratch_grow(slc_cuda_queue_of(q), bytes, &e) != 0) {
        slc_queue_fail(q, &e);
        return NULL;
    }
    return slc_cuda_queue_of(q)->scratch;
}

/* -- queues --------------------------------------------------------------- */

void slc_cuda_queue_destroy(struct slc_queue *base)
{
    struct slc_cuda_queue *q = slc_cuda_queue_of(base);
    struct slc_cuda_queue **at = &q->cuda->queues;

    if (q->stream)
        cudaStreamSynchronize(q->stream);
    while (*at && *at != q)
        at = &(*at)->next;
    if (*at)
        *at = q->next;
    for (int i = 0; i < SLC_CUDA_STAGE_SLOTS; i++)
        if (q->staged[i])
            cudaEventDestroy(q->staged[i]);
    cudaFreeHost(q->stage);
    cudaFree(q->scratch);
    cudaFree(q->blas);
    cudaFree(q->tickets);
    if (q->stream)
        cudaStreamDestroy(q->stream);
    free(q);
}

static int queue_init(struct slc_cuda_queue *q, struct slc_err *e)
{
    const size_t stage = (size_t)SLC_CUDA_STAGE_SLOTS * SLC_CUDA_STAGE_BYTES;
    const size_t tickets = 2 * sizeof(*q->tickets);
    struct slc_backend *b = &q->cuda->base;

    if (slc_cuda_error(e, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking),
                       "creating a stream") != 0)
        return -1;
    for (int i = 0; i < SLC_CUDA_STAGE_SLOTS; i++)
        if (slc_cuda_error(
                e, cudaEventCreateWithFlags(&q->staged[i], cudaEventDisableTiming),
                "creating an event") != 0)
            return -1;
    q->stage = slc_cuda_mem_alloc(b, stage, SLC_MEM_HOST, e);
    q->blas = q->stage ? slc_cuda_mem_alloc(b, SLC_CUDA_BLAS_BYTES, SLC_MEM_DEVICE, e) : NULL;
    q->tickets = q->blas ? slc_cuda_mem_alloc(b, tickets, SLC_MEM_DEVICE, e) : NULL;
    if (!q->tickets ||
        slc_cuda_error(e, cudaMemsetAsync(q->tickets, 0, tickets, q->stream),
                       "clearing counters") != 0)
        return -1;
    return slc_cuda_scratch_grow(q, slc_most((int64_t)q->cuda->scratch_need, 1 << 20), e);
}

struct slc_queue *slc_cuda_queue_create(struct slc_backend *b, struct slc_err *e)
{
    struct slc_cuda_queue *q = calloc(1, sizeof(*q));

    if (!q) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: no memory for a queue");
        return NULL;
    }
    q->base.b = b;
    q->base.error.rank = -1;
    q->cuda = (struct slc_cuda *)b;
    q->next = q->cuda->queues;
    q->cuda->queues = q;
    if (queue_init(q, e) != 0) {
        slc_cuda_queue_destroy(&q->base);
        return NULL;
    }
    return &q->base;
}

/* A collective waits for peers: while one may, its errors are looked for. */
static cudaError_t stream_sync(struct slc_queue *q)
{
    struct slc_cuda_queue *cq = slc_cuda_queue_of(q);
    const struct timespec pause = {.tv_nsec = 20000};
    cudaError_t err;

    if (!cq->cuda->colls)
        return cudaStreamSynchronize(cq->stream);
    while ((err = cudaStreamQuery(cq->stream)) == cudaErrorNotReady) {
        struct slc_err e = SLC_ERR_INIT;

        if (slc_cuda_coll_poll(cq->cuda, &e) != 0)
            slc_queue_fail(q, &e);
        nanosleep(&pause, NULL);
    }
    return err;
}

int slc_cuda_queue_sync(struct slc_queue *q, struct slc_err *e)
{
    cudaError_t err = stream_sync(q);

    if (err != cudaSuccess)
        slc_cuda_fail(q, err, "running the queue");
    return slc_err_pass(&q->error, e);
}

/* -- events --------------------------------------------------------------- */

struct slc_event *slc_cuda_event_create(struct slc_backend *b, struct slc_err *e)
{
    struct cuda_event *ev = calloc(1, sizeof(*ev));

    if (!ev) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: no memory for an event");
        return NULL;
    }
    ev->base.b = b;
    if (slc_cuda_error(e, cudaEventCreateWithFlags(&ev->event, cudaEventDisableTiming),
                       "creating an event") != 0) {
        free(ev);
        return NULL;
    }
    return &ev->base;
}

void slc_cuda_event_destroy(struct slc_event *base)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    cudaEventDestroy(ev->event);
    free(ev);
}

void slc_cuda_event_record(struct slc_event *base, struct slc_queue *q)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    slc_cuda_fail(q, cudaEventRecord(ev->event, slc_cuda_queue_of(q)->stream),
                  "recording an event");
    ev->error = q->error;
}

void slc_cuda_queue_wait(struct slc_queue *q, struct slc_event *base)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    if (ev->error.code != SLC_EXIT_OK)
        slc_queue_fail(q, &ev->error);
    slc_cuda_fail(q, cudaStreamWaitEvent(slc_cuda_queue_of(q)->stream, ev->event, 0),
                  "waiting for an event");
}

static int event_done(struct cuda_event *ev, cudaError_t err, struct slc_err *e)
{
    if (err != cudaSuccess && ev->error.code == SLC_EXIT_OK)
        slc_cuda_error(&ev->error, err, "running the queue");
    return slc_err_pass(&ev->error, e);
}

int slc_cuda_event_sync(struct slc_event *base, struct slc_err *e)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    return event_done(ev, cudaEventSynchronize(ev->event), e);
}

int slc_cuda_event_test(struct slc_event *base, struct slc_err *e)
{
    struct cuda_event *ev = (struct cuda_event *)base;
    cudaError_t err = cudaEventQuery(ev->event);

    if (err == cudaErrorNotReady)
        return 0;
    return event_done(ev, err, e) != 0 ? -1 : 1;
}
