/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BACKEND_BACKEND_H
#define SLC_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/err.h"

/*
 * A backend computes the ops of ops.h on its own memory. Work goes to a queue
 * and runs in queue order, perhaps later; order between queues is made only by
 * events. The host never dereferences backend memory: it uploads, runs ops and
 * fetches. On `cpu` and `ref` a queue runs at once; on `cuda` it is a stream;
 * `strict` runs kernels/ref as late as it may, on another thread, with memory
 * PROT_NONE in between, so that a direct read, a missing event or a missing
 * acquire fails in a test.
 *
 * Errors of an op are sticky in its queue and come back from the next
 * slc_queue_sync, slc_event_sync or slc_fetch.
 */

struct slc_backend;
struct slc_queue;
struct slc_event;

struct slc_backend_options {
    int threads;    /* OpenMP's in this process from now on; 0: as it is */
    int local_rank; /* among the ranks of this node: each takes the next GPU, in turn */
    /* On a GPU, the most memory that scores take which the deterministic backward of attention
     * keeps; 0: 2 GiB. What takes more for one head is refused. */
    int64_t attention_bytes;
};

/* What kind of memory; WINDOW-like host memory belongs to comm, not here. */
enum slc_mem_kind {
    SLC_MEM_DEVICE, /* ops read and write it; the host does not */
    SLC_MEM_HOST,   /* host memory that uploads and fetches are fast from */
};

/*
 * Collectives on backend memory among the ranks of a group, in queue order and without the
 * host: backends that have none (NULL below) are served by staging through host memory.
 */
struct slc_coll;
#define SLC_COLL_ID 128 /* bytes of the name of a group, made by one of its ranks */

/* Functions of a backend beside its ops. All may be called from one thread only. */
struct slc_backend_calls {
    void (*destroy)(struct slc_backend *b);
    void *(*mem_alloc)(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
                       struct slc_err *e);
    void (*mem_free)(struct slc_backend *b, void *p, enum slc_mem_kind kind);
    struct slc_queue *(*queue_create)(struct slc_backend *b, struct slc_err *e);
    void (*queue_destroy)(struct slc_queue *q);
    int (*queue_sync)(struct slc_queue *q, struct slc_err *e);
    struct slc_event *(*event_create)(struct slc_backend *b, struct slc_err *e);
    void (*event_destroy)(struct slc_event *ev);
    void (*event_record)(struct slc_event *ev, struct slc_queue *q);
    void (*queue_wait)(struct slc_queue *q, struct slc_event *ev);
    int (*event_test)(struct slc_event *ev, struct slc_err *e);
    int (*event_sync)(struct slc_event *ev, struct slc_err *e);
    void (*upload)(struct slc_queue *q, void *dst, const void *src, size_t bytes);
    int (*fetch)(struct slc_queue *q, void *dst, const void *src, size_t bytes,
                 struct slc_err *e);
    int (*prepare)(struct slc_backend *b, enum slc_op op, const void *args,
                   struct slc_err *e);
    /* Describe for the start banner: "oneDNN 2.6, avx512, 2 threads". */
    void (*describe)(struct slc_backend *b, char *text, size_t len);
    /* strict only; NULL elsewhere: see slc_mem_hide. */
    void (*hide)(struct slc_queue *q, void *p, size_t bytes, bool hidden);
    /* Make host memory that others allocated (a window of comm) usable by ops at the same
     * address. NULL where host_readable: it is already. */
    int (*host_map)(struct slc_backend *b, void *p, size_t bytes, struct slc_err *e);
    void (*host_unmap)(struct slc_backend *b, void *p);
    /* All NULL without collectives. buf and off as in slc_reduce_scatter and
     * slc_allgatherv, buf in backend memory; fp32 or bf16. Errors are the queue's. */
    int (*coll_id)(struct slc_backend *b, unsigned char id[SLC_COLL_ID],
                   struct slc_err *e);
    struct slc_coll *(*coll_create)(struct slc_backend *b,
                                    const unsigned char id[SLC_COLL_ID], int size,
                                    int index, struct slc_err *e);
    void (*coll_destroy)(struct slc_coll *c);
    void (*coll_reduce_scatter)(struct slc_queue *q, struct slc_coll *c, void *buf,
                                const int64_t *off, enum slc_dtype dtype);
    void (*coll_allgatherv)(struct slc_queue *q, struct slc_coll *c, void *buf,
                            const int64_t *off, enum slc_dtype dtype);
};

/* First member of every backend's own struct. */
struct slc_backend {
    const char *name;
    struct slc_backend_calls calls;
    struct slc_ops ops;
    int row_align;     /* expert segments start at multiples of this (cpu 1, cuda 128) */
    bool host_readable; /* window memory of comm is directly usable by ops */
    bool bf16_fast; /* products of bf16 have instructions of their own, quicker than fp32 */
    bool own_in_place; /* ops of the token exchange read a rank's own records where they are */
    bool immediate; /* an op has run when SLC_RUN returns, and its memory is the host's */
    uint64_t fetches;  /* slc_fetch calls so far */
    uint64_t allocations; /* of backend memory so far, those of ops for themselves too */
};

struct slc_queue {
    struct slc_backend *b;
    struct slc_err error; /* the first error of an op, sticky */
};
struct slc_event {
    struct slc_backend *b;
};

/*
 * Open "cpu", "ref", "strict" or "cuda". "cuda" loads the module
 * sluice-cuda.so and fails with what is missing (module, driver, GPU).
 */
struct slc_backend *slc_backend_open(const char *name,
                                     const struct slc_backend_options *opts,
                                     struct slc_err *e);
void slc_backend_close(struct slc_backend *b);

/*
 * Say at set-up that `op` will be run with these static fields (dtypes, widths,
 * flags) and row counts up to those given: the backend makes primitives, plans
 * and workspaces now. Running an op that was not prepared is correct but may
 * allocate the first time.
 */
#define SLC_PREPARE(b, op, e, ...)                                                     \
    ((b)->calls.prepare((b), SLC_OP_##op, &(struct slc_##op##_args){__VA_ARGS__}, (e)))

/*
 * Enqueue an op: SLC_RUN(q, rmsnorm_forward, .y = y, .x = x, ...). The argument
 * struct is copied; every pointer in it is backend memory unless its comment
 * says "host" (then it is read before the call returns).
 */
#define SLC_RUN(q, op, ...)                                                            \
    ((q)->b->ops.op((q), &(const struct slc_##op##_args){__VA_ARGS__}))

static inline void *slc_mem_alloc(struct slc_backend *b, size_t n, enum slc_mem_kind k,
                                  struct slc_err *e)
{
    return b->calls.mem_alloc(b, n, k, e);
}
static inline void slc_mem_free(struct slc_backend *b, void *p, enum slc_mem_kind k)
{
    b->calls.mem_free(b, p, k);
}
static inline struct slc_queue *slc_queue_create(struct slc_backend *b, struct slc_err *e)
{
    return b->calls.queue_create(b, e);
}
static inline void slc_queue_destroy(struct slc_queue *q)
{
    if (q)
        q->b->calls.queue_destroy(q);
}
/* Wait until all work enqueued so far is done; returns its first error. */
static inline int slc_queue_sync(struct slc_queue *q, struct slc_err *e)
{
    return q->b->calls.queue_sync(q, e);
}
static inline struct slc_event *slc_event_create(struct slc_backend *b, struct slc_err *e)
{
    return b->calls.event_create(b, e);
}
static inline void slc_event_destroy(struct slc_event *ev)
{
    if (ev)
        ev->b->calls.event_destroy(ev);
}
/* The event completes when the work enqueued on q so far has completed. */
static inline void slc_event_record(struct slc_event *ev, struct slc_queue *q)
{
    ev->b->calls.event_record(ev, q);
}
/* Work enqueued on q after this runs only once ev has completed. */
static inline void slc_queue_wait(struct slc_queue *q, struct slc_event *ev)
{
    q->b->calls.queue_wait(q, ev);
}
/* 1 when complete, 0 when not yet, -1 on error. Never blocks. */
static inline int slc_event_test(struct slc_event *ev, struct slc_err *e)
{
    return ev->b->calls.event_test(ev, e);
}
static inline int slc_event_sync(struct slc_event *ev, struct slc_err *e)
{
    return ev->b->calls.event_sync(ev, e);
}
/* Host to backend memory, in queue order; src is copied before return. */
static inline void slc_upload(struct slc_queue *q, void *dst, const void *src, size_t n)
{
    q->b->calls.upload(q, dst, src, n);
}
/* Backend memory to host: waits for the queue. The only way to read a result. */
static inline int slc_fetch(struct slc_queue *q, void *dst, const void *src, size_t n,
                            struct slc_err *e)
{
    q->b->fetches++;
    return q->b->calls.fetch(q, dst, src, n, e);
}
/*
 * strict only, in queue order: hidden memory reads as NaN until it is shown again with
 * the same p and n. Parameters hide weights outside acquire and release with it.
 */
static inline void slc_mem_hide(struct slc_queue *q, void *p, size_t n, bool hidden)
{
    if (q->b->calls.hide)
        q->b->calls.hide(q, p, n, hidden);
}
static inline void slc_backend_describe(struct slc_backend *b, char *text, size_t len)
{
    b->calls.describe(b, text, len);
}

/* For ops: note an error in the queue (the first one stays) and leave the op. */
static inline void slc_queue_fail(struct slc_queue *q, const struct slc_err *e)
{
    if (q->error.code == SLC_EXIT_OK)
        q->error = *e;
}

/* Constructors the loader knows; kernels/ref and kernels/cpu fill the op table. */
void slc_ops_ref(struct slc_ops *ops);
void slc_ops_cpu(struct slc_ops *ops);
/* kernels/cpu keeps its oneDNN primitives per process: made here (or on first use),
 * freed by slc_cpu_release. `text` gets library and instruction set. */
int slc_cpu_prepare(enum slc_op op, const void *args, struct slc_err *e);
void slc_cpu_release(void);
void slc_cpu_describe(char *text, size_t len);
/* There are instructions for products of bf16 (AMX, AVX512-BF16) and oneDNN uses them. */
bool slc_cpu_bf16_fast(void);
/* flop/s of oneDNN's own product with all threads, the best of several sizes: what the
 * products of a step are a share of. */
int slc_cpu_peak(enum slc_dtype dtype, double *rate, struct slc_err *e);
struct slc_backend *slc_backend_host_create(const char *name, struct slc_err *e);
struct slc_backend *slc_backend_strict_create(struct slc_err *e);

/* Entry point of the CUDA module, found by dlsym. */
#define SLC_CUDA_MODULE_SYMBOL "slc_backend_cuda_create"
/* Differs between builds whose tables differ: a module of another build is refused. */
#define SLC_BACKEND_ABI                                                                \
    ((int)(100 * (sizeof(struct slc_backend) + sizeof(struct slc_backend_options)) +   \
           SLC_OP_COUNT))
typedef struct slc_backend *slc_backend_cuda_create_f(int abi,
                                                      const struct slc_backend_options *opts,
                                                      struct slc_err *e);

#endif
