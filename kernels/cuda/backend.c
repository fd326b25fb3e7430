/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The backend beside its ops: memory, queues (streams), events, uploads and fetches. */

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

static void fail(struct slc_queue *q, const struct slc_err *e)
{
    if (q->error.code == SLC_EXIT_OK)
        q->error = *e;
}

static int sticky(const struct slc_queue *q, struct slc_err *e)
{
    if (q->error.code == SLC_EXIT_OK)
        return 0;
    if (e)
        *e = q->error;
    return -1;
}

void slc_cuda_fail(struct slc_queue *q, cudaError_t err, const char *what)
{
    struct slc_err e = SLC_ERR_INIT;

    if (slc_cuda_error(&e, err, what) != 0)
        fail(q, &e);
}

void slc_cuda_fail_text(struct slc_queue *q, int code, const char *text)
{
    struct slc_err e = SLC_ERR_INIT;

    slc_errf(&e, code, "backend cuda: %s", text);
    fail(q, &e);
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

/* -- memory --------------------------------------------------------------- */

static void *mem_alloc(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
                       struct slc_err *e)
{
    void *p = NULL;
    cudaError_t err;

    bytes = bytes ? bytes : 1;
    if (kind == SLC_MEM_HOST)
        err = cudaHostAlloc(&p, bytes, cudaHostAllocPortable);
    else
        err = cudaMalloc(&p, bytes);
    if (err != cudaSuccess) {
        (void)cudaGetLastError();
        slc_errf(e, SLC_EXIT_SYSTEM,
                 "backend cuda: no %s memory for %zu bytes (%s); use more ranks or a "
                 "smaller micro-batch",
                 kind == SLC_MEM_HOST ? "pinned host" : "GPU", bytes,
                 cudaGetErrorString(err));
        return NULL;
    }
    b->allocations++;
    return p;
}

static void mem_free(struct slc_backend *b, void *p, enum slc_mem_kind kind)
{
    (void)b;
    if (!p)
        return;
    if (kind == SLC_MEM_HOST)
        cudaFreeHost(p);
    else
        cudaFree(p);
}

static int scratch_grow(struct slc_cuda_queue *q, size_t bytes, struct slc_err *e)
{
    if (bytes <= q->scratch_size)
        return 0;
    cudaFree(q->scratch); /* waits for the work that may still use it */
    q->scratch = NULL;
    q->scratch_size = 0;
    bytes = (bytes + (1u << 20) - 1) >> 20 << 20;
    q->scratch = mem_alloc(&q->cuda->base, bytes, SLC_MEM_DEVICE, e);
    if (!q->scratch)
        return -1;
    q->scratch_size = bytes;
    return 0;
}

void *slc_cuda_scratch(struct slc_queue *q, size_t bytes)
{
    struct slc_err e = SLC_ERR_INIT;

    if (scratch_grow(slc_cuda_queue_of(q), bytes, &e) != 0) {
        fail(q, &e);
        return NULL;
    }
    return slc_cuda_queue_of(q)->scratch;
}

/* -- queues --------------------------------------------------------------- */

static void queue_destroy(struct slc_queue *base)
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

    if (slc_cuda_error(e, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking),
                       "creating a stream") != 0)
        return -1;
    for (int i = 0; i < SLC_CUDA_STAGE_SLOTS; i++)
        if (slc_cuda_error(
                e, cudaEventCreateWithFlags(&q->staged[i], cudaEventDisableTiming),
                "creating an event") != 0)
            return -1;
    q->stage = mem_alloc(&q->cuda->base, stage, SLC_MEM_HOST, e);
    q->blas = q->stage ? mem_alloc(&q->cuda->base, SLC_CUDA_BLAS_BYTES, SLC_MEM_DEVICE, e)
                       : NULL;
    q->tickets = q->blas ? mem_alloc(&q->cuda->base, 2 * sizeof(*q->tickets),
                                     SLC_MEM_DEVICE, e)
                         : NULL;
    if (!q->tickets ||
        slc_cuda_error(
            e, cudaMemsetAsync(q->tickets, 0, 2 * sizeof(*q->tickets), q->stream),
            "clearing counters") != 0)
        return -1;
    return scratch_grow(q, slc_most((int64_t)q->cuda->scratch_need, 1 << 20), e);
}

static struct slc_queue *queue_create(struct slc_backend *b, struct slc_err *e)
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
        queue_destroy(&q->base);
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
            fail(q, &e);
        nanosleep(&pause, NULL);
    }
    return err;
}

int slc_cuda_queue_sync(struct slc_queue *q, struct slc_err *e)
{
    cudaError_t err = stream_sync(q);

    if (err != cudaSuccess)
        slc_cuda_fail(q, err, "running the queue");
    return sticky(q, e);
}

/* -- events --------------------------------------------------------------- */

static struct slc_event *event_create(struct slc_backend *b, struct slc_err *e)
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

static void event_destroy(struct slc_event *base)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    cudaEventDestroy(ev->event);
    free(ev);
}

static void event_record(struct slc_event *base, struct slc_queue *q)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    slc_cuda_fail(q, cudaEventRecord(ev->event, slc_cuda_queue_of(q)->stream), "recording an event");
    ev->error = q->error;
}

static void queue_wait(struct slc_queue *q, struct slc_event *base)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    if (ev->error.code != SLC_EXIT_OK)
        fail(q, &ev->error);
    slc_cuda_fail(q, cudaStreamWaitEvent(slc_cuda_queue_of(q)->stream, ev->event, 0),
                  "waiting for an event");
}

static int event_done(struct cuda_event *ev, cudaError_t err, struct slc_err *e)
{
    if (err != cudaSuccess && ev->error.code == SLC_EXIT_OK)
        slc_cuda_error(&ev->error, err, "running the queue");
    if (ev->error.code == SLC_EXIT_OK)
        return 0;
    if (e)
        *e = ev->error;
    return -1;
}

static int event_sync(struct slc_event *base, struct slc_err *e)
{
    struct cuda_event *ev = (struct cuda_event *)base;

    return event_done(ev, cudaEventSynchronize(ev->event), e);
}

static int event_test(struct slc_event *base, struct slc_err *e)
{
    struct cuda_event *ev = (struct cuda_event *)base;
    cudaError_t err = cudaEventQuery(ev->event);

    if (err == cudaErrorNotReady)
        return 0;
    return event_done(ev, err, e) != 0 ? -1 : 1;
}

/* -- host memory of others -------------------------------------------------- */

static int host_map(struct slc_backend *b, void *p, size_t bytes, struct slc_err *e)
{
    struct slc_cuda *c = (struct slc_cuda *)b;
    int same = 0;

    if (slc_cuda_error(e,
                       cudaDeviceGetAttribute(
                           &same, cudaDevAttrCanUseHostPointerForRegisteredMem, c->device),
                       "asking the GPU") != 0)
        return -1;
    if (!same)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                        "backend cuda: not supported: this GPU cannot use host memory at "
                        "the host's address; run with ep = 1");
    return slc_cuda_error(
        e, cudaHostRegister(p, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped),
        "pinning a window of host memory");
}

static void host_unmap(struct slc_backend *b, void *p)
{
    (void)b;
    if (cudaHostUnregister(p) != cudaSuccess)
        (void)cudaGetLastError();
}

/* -- set-up ---------------------------------------------------------------- */

static int prepare(struct slc_backend *b, enum slc_op op, const void *args,
                   struct slc_err *e)
{
    struct slc_cuda *c = (struct slc_cuda *)b;
    const size_t need = slc_cuda_scratch_of(c, op, args);

    if (op == SLC_OP_matmul && slc_cuda_matmul_prepare(c, args, e) != 0)
        return -1;
    if (need <= c->scratch_need)
        return 0;
    c->scratch_need = need;
    for (struct slc_cuda_queue *q = c->queues; q; q = q->next)
        if (scratch_grow(q, need, e) != 0)
            return -1;
    return 0;
}

static void describe(struct slc_backend *b, char *text, size_t len)
{
    const struct slc_cuda *c = (struct slc_cuda *)b;
    const size_t lt = cublasLtGetVersion();
    char attention[64], coll[64];

    slc_cuda_attention_describe(c, attention, sizeof(attention));
    slc_cuda_coll_describe(coll, sizeof(coll));
    snprintf(text, len, "GPU %d %s, %.0f GiB, cuBLASLt %zu.%zu.%zu, %s%s", c->device,
             c->prop.name, (double)c->prop.totalGlobalMem / (1u << 30), lt / 10000,
             lt / 100 % 100, lt % 100, attention, coll);
}

static void destroy(struct slc_backend *b)
{
    struct slc_cuda *c = (struct slc_cuda *)b;

    while (c->queues)
        queue_destroy(&c->queues->base);
    slc_cuda_plans_destroy(c->plans);
    slc_cuda_attention_destroy(c->attention);
    if (c->lt)
        cublasLtDestroy(c->lt);
    free(c);
}

static const struct slc_backend_calls cuda_calls = {
    .destroy = destroy,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_sync = slc_cuda_queue_sync,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .queue_wait = queue_wait,
    .event_test = event_test,
    .event_sync = event_sync,
    .upload = slc_cuda_upload,
    .fetch = slc_cuda_fetch,
    .prepare = prepare,
    .describe = describe,
    .host_map = host_map,
    .host_unmap = host_unmap,
    .coll_id = slc_cuda_coll_id,
    .coll_create = slc_cuda_coll_create,
    .coll_destroy = slc_cuda_coll_destroy,
    .coll_reduce_scatter = slc_cuda_coll_reduce_scatter,
    .coll_allgatherv = slc_cuda_coll_allgatherv,
};

/* Which GPU: the one asked for, or by the rank's place on its node. */
static int choose_device(int asked, int count)
{
    const char *local = getenv("SLURM_LOCALID");

    if (asked >= 0)
        return asked;
    return local ? atoi(local) % count : 0;
}

/* 80 for 8.0; no more than SLUICE_GPU_ARCH (for tests) says. */
static int arch_of(const struct cudaDeviceProp *prop)
{
    const int own = 10 * prop->major + prop->minor;
    const char *text = getenv("SLUICE_GPU_ARCH");
    const int most = text ? atoi(text) : own;

    return most >= 80 && most < own ? most : own;
}

static int open_device(struct slc_cuda *c, int asked, struct slc_err *e)
{
    int count = 0, smem = 0;
    cudaError_t err = cudaGetDeviceCount(&count);

    if (err != cudaSuccess || count == 0)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                        "backend cuda: no GPU can be used: %s; install the NVIDIA driver "
                        "or ask Slurm for a GPU (--gpus-per-task), or use backend cpu",
                        err != cudaSuccess ? cudaGetErrorString(err) : "none is there");
    c->device = choose_device(asked, count);
    if (c->device >= count)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "backend cuda: GPU %d was asked for, but only %d can be seen",
                        c->device, count);
    if (slc_cuda_error(e, cudaSetDevice(c->device), "choosing the GPU") != 0 ||
        slc_cuda_error(e, cudaGetDeviceProperties(&c->prop, c->device),
                       "asking the GPU") != 0 ||
        slc_cuda_error(e,
                       cudaDeviceGetAttribute(
                           &smem, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->device),
                       "asking the GPU") != 0)
        return -1;
    c->sms = c->prop.multiProcessorCount;
    c->smem_max = (size_t)smem;
    if (c->prop.major < 8)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                        "backend cuda: not supported: %s has compute capability %d.%d; "
                        "use a GPU of 8.0 (A100) or later, or backend cpu",
                        c->prop.name, c->prop.major, c->prop.minor);
    c->arch = arch_of(&c->prop);
    return 0;
}

slc_backend_cuda_create_f slc_backend_cuda_create;
const int slc_cuda_abi = SLC_BACKEND_ABI; /* for benchmarks/gpu/module.py */

struct slc_backend *slc_backend_cuda_create(int abi,
                                            const struct slc_backend_options *opts,
                                            struct slc_err *e)
{
    struct slc_cuda *c;

    if (abi != SLC_BACKEND_ABI) {
        slc_errf(e, SLC_EXIT_UNSUPPORTED,
                 "backend cuda: the module speaks version %d of the interface, sluice %d; "
                 "install them together",
                 SLC_BACKEND_ABI, abi);
        return NULL;
    }
    c = calloc(1, sizeof(*c));
    if (!c) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: no memory for the backend");
        return NULL;
    }
    c->base.name = "cuda";
    c->base.calls = cuda_calls;
    c->base.row_align = SLC_CUDA_ROW_ALIGN;
    c->base.bf16_fast = true; /* from sm_80 on */
    if (open_device(c, opts->device, e) != 0)
        goto err_free;
    c->plans = slc_cuda_plans_create();
    if (!c->plans || cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: cuBLASLt does not start");
        goto err_free;
    }
#define SLC_CUDA_ENTRY(op) c->base.ops.op = slc_cuda_##op;
    SLC_OPS(SLC_CUDA_ENTRY)
#undef SLC_CUDA_ENTRY
    return &c->base;

err_free:
    slc_cuda_plans_destroy(c->plans);
    free(c);
    return NULL;
}
