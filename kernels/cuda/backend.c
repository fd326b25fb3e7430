/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

/* The backend beside its ops and queues: memory, set-up, and its table of calls. */

/* -- memory --------------------------------------------------------------- */

void *slc_cuda_mem_alloc(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
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
    size_t need;

    if (op == SLC_OP_attention_backward && slc_cuda_attention_check(c, args, e) != 0)
        return -1;
    if (op == SLC_OP_matmul && slc_cuda_matmul_prepare(c, args, e) != 0)
        return -1;
    need = slc_cuda_scratch_of(c, op, args);
    if (need <= c->scratch_need)
        return 0;
    c->scratch_need = need;
    for (struct slc_cuda_queue *q = c->queues; q; q = q->next)
        if (slc_cuda_scratch_grow(q, need, e) != 0)
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
        slc_cuda_queue_destroy(&c->queues->base);
    slc_cuda_plans_destroy(c->plans);
    slc_cuda_attention_destroy(c->attention);
    if (c->lt)
        cublasLtDestroy(c->lt);
    free(c);
}

static const struct slc_backend_calls cuda_calls = {
    .destroy = destroy,
    .mem_alloc = slc_cuda_mem_alloc,
    .mem_free = mem_free,
    .queue_create = slc_cuda_queue_create,
    .queue_destroy = slc_cuda_queue_destroy,
    .queue_sync = slc_cuda_queue_sync,
    .event_create = slc_cuda_event_create,
    .event_destroy = slc_cuda_event_destroy,
    .event_record = slc_cuda_event_record,
    .queue_wait = slc_cuda_queue_wait,
    .event_test = slc_cuda_event_test,
    .event_sync = slc_cuda_event_sync,
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

/* 80 for 8.0; no more than SLUICE_GPU_ARCH (for tests) says. */
static int arch_of(const struct cudaDeviceProp *prop)
{
    const int own = 10 * prop->major + prop->minor;
    const char *text = getenv("SLUICE_GPU_ARCH");
    const int most = text ? atoi(text) : own;

    return most >= 80 && most < own ? most : own;
}

static int open_device(struct slc_cuda *c, int local_rank, struct slc_err *e)
{
    int count = 0, smem = 0;
    cudaError_t err = cudaGetDeviceCount(&count);

    if (err != cudaSuccess || count == 0)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                        "backend cuda: no GPU can be used: %s; install the NVIDIA driver "
                        "or ask Slurm for a GPU (--gpus-per-task), or use backend cpu",
                        err != cudaSuccess ? cudaGetErrorString(err) : "none is there");
    c->device = local_rank % count;
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
    c->attention_bytes = opts->attention_bytes > 0 ? opts->attention_bytes : 2ll << 30;
    if (open_device(c, opts->local_rank, e) != 0)
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
