/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_CUDA_H
#define SLC_KERNELS_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/backend.h"
#include "backend/ops.h"
#include "base/err.h"

/*
 * What the files of the CUDA module share. A queue is a stream with a scratch buffer for
 * the partial sums of its ops and a workspace for the libraries: both belong to the ops
 * that run in that queue, one after another, so no two ops ever share them.
 */

#define SLC_CUDA_ROW_ALIGN 128           /* expert segments start at multiples of this */
#define SLC_CUDA_BLAS_BYTES (32u << 20)  /* workspace of cuBLASLt, each queue */
#define SLC_CUDA_STAGE_SLOTS 4           /* pinned staging of uploads, each queue */
#define SLC_CUDA_STAGE_BYTES (1u << 20)

struct slc_cuda_plans;
struct slc_cuda_attention; /* cuDNN's plans */

struct slc_cuda {
    struct slc_backend base;
    struct cudaDeviceProp prop;
    int device, sms;
    int arch;        /* 80, 90: whose kernels are taken */
    size_t smem_max; /* most dynamic shared memory of a block */
    int64_t attention_bytes; /* most that dS of attention's backward takes */
    cublasLtHandle_t lt;
    struct slc_cuda_plans *plans; /* dense products seen so far */
    struct slc_cuda_attention *attention;
    size_t scratch_need;          /* what prepare() asked for, bytes of each queue */
    struct slc_cuda_queue *queues;
    struct slc_coll *colls; /* groups of ranks (coll.c) */
};

struct slc_cuda_queue {
    struct slc_queue base;
    struct slc_cuda *cuda;
    cudaStream_t stream;
    void *scratch, *blas;
    unsigned *tickets; /* two counters of grouped products, zero between them */
    size_t scratch_size;
    char *stage; /* pinned, SLC_CUDA_STAGE_SLOTS x SLC_CUDA_STAGE_BYTES */
    cudaEvent_t staged[SLC_CUDA_STAGE_SLOTS];
    int next_slot;
    struct slc_cuda_queue *next;
};

static inline struct slc_cuda_queue *slc_cuda_queue_of(struct slc_queue *q)
{
    return (struct slc_cuda_queue *)q;
}

/* Fill e from a CUDA error; returns -1 (0 for cudaSuccess). */
int slc_cuda_error(struct slc_err *e, cudaError_t err, const char *what);
/* Make an error sticky in the queue; the first one stays. */
void slc_cuda_fail(struct slc_queue *q, cudaError_t err, const char *what);
void slc_cuda_fail_text(struct slc_queue *q, int code, const char *text);
/* After a kernel launch: 0, or -1 and the queue has failed. */
int slc_cuda_launched(struct slc_queue *q, const char *what);

/* backend.c; NULL with e. */
void *slc_cuda_mem_alloc(struct slc_backend *b, size_t bytes, enum slc_mem_kind kind,
                         struct slc_err *e);
/* queue.c: these calls of slc_backend, and more scratch of a queue, after its work. */
struct slc_queue *slc_cuda_queue_create(struct slc_backend *b, struct slc_err *e);
void slc_cuda_queue_destroy(struct slc_queue *q);
int slc_cuda_queue_sync(struct slc_queue *q, struct slc_err *e);
void slc_cuda_queue_wait(struct slc_queue *q, struct slc_event *event);
struct slc_event *slc_cuda_event_create(struct slc_backend *b, struct slc_err *e);
void slc_cuda_event_destroy(struct slc_event *event);
void slc_cuda_event_record(struct slc_event *event, struct slc_queue *q);
int slc_cuda_event_test(struct slc_event *event, struct slc_err *e);
int slc_cuda_event_sync(struct slc_event *event, struct slc_err *e);
int slc_cuda_scratch_grow(struct slc_cuda_queue *q, size_t bytes, struct slc_err *e);
/* transfer.c */
void slc_cuda_upload(struct slc_queue *q, void *dst, const void *src, size_t bytes);
int slc_cuda_fetch(struct slc_queue *q, void *dst, const void *src, size_t bytes,
                   struct slc_err *e);
/* coll.c; poll: -1 when a group has failed, which is then aborted. */
int slc_cuda_coll_id(struct slc_backend *b, unsigned char id[SLC_COLL_ID],
                     struct slc_err *e);
struct slc_coll *slc_cuda_coll_create(struct slc_backend *b,
                                      const unsigned char id[SLC_COLL_ID], int size,
                                      int index, struct slc_err *e);
void slc_cuda_coll_destroy(struct slc_coll *c);
void slc_cuda_coll_reduce_scatter(struct slc_queue *q, struct slc_coll *c, void *buf,
                                  const int64_t *off, enum slc_dtype dtype);
void slc_cuda_coll_allgatherv(struct slc_queue *q, struct slc_coll *c, void *buf,
                              const int64_t *off, enum slc_dtype dtype);
int slc_cuda_coll_poll(struct slc_cuda *c, struct slc_err *e);
void slc_cuda_coll_describe(char *text, size_t len);

/*
 * At least `bytes` of scratch, valid until the next call on the same queue. Grows (one
 * device allocation) if prepare() did not ask for so much. NULL: the queue has failed.
 */
void *slc_cuda_scratch(struct slc_queue *q, size_t bytes);
/* Bytes of scratch that an op with these arguments takes; args is its struct. */
size_t slc_cuda_scratch_of(struct slc_cuda *c, enum slc_op op, const void *args);

/* Allow a kernel this much dynamic shared memory; fails the queue if the card has less. */
int slc_cuda_allow_smem(struct slc_queue *q, const void *kernel, size_t bytes,
                        const char *what);

/* Dense products (matmul.c). */
struct slc_cuda_plans *slc_cuda_plans_create(void);
void slc_cuda_plans_destroy(struct slc_cuda_plans *p);
int slc_cuda_matmul_prepare(struct slc_cuda *c, const struct slc_matmul_args *a,
                            struct slc_err *e);
/* Plain tiled product of any strides (matmul_plain.cu): where cuBLASLt has no kernel. */
void slc_cuda_matmul_plain(struct slc_queue *q, const struct slc_matmul_args *a);

/* Grouped products on Hopper's own instructions (grouped_sm90.cu) and on the tensor cores of
 * Ampere and later (grouped_sm80.cu): 1 when taken, 0 when the shape, dtype or card is not
 * theirs. */
int slc_cuda_grouped_sm90(struct slc_queue *q, const struct slc_grouped_matmul_args *a);
int slc_cuda_wgrad_sm90(struct slc_queue *q, const struct slc_grouped_wgrad_args *a);
int slc_cuda_grouped_sm80(struct slc_queue *q, const struct slc_grouped_matmul_args *a);
int slc_cuda_wgrad_sm80(struct slc_queue *q, const struct slc_grouped_wgrad_args *a);

/* Attention on the ordinary units (attention_plain.cu), and by cuDNN (attention.c). */
void slc_cuda_attention_forward_plain(struct slc_queue *q,
                                      const struct slc_attention_forward_args *a);
void slc_cuda_attention_backward_plain(struct slc_queue *q,
                                       const struct slc_attention_backward_args *a);
/*
 * Lists of sequences by slot (sequences.cu): lengths, and offsets in elements of their
 * first tokens. Documents go to the slots of the packing by length, longest first, equal
 * ones in order; other slots are empty sequences at the end.
 */
struct slc_packing;
struct slc_cuda_sequences {
    int32_t *length, *off_q, *off_k, *off_stats;
};
void slc_cuda_sequences(struct slc_queue *q, const struct slc_cuda_sequences *to,
                        const struct slc_packing *p, const int32_t *seg, int64_t n_seg,
                        int64_t NQ, int64_t NK, int64_t D);
/*
 * Gradients of keys and values, bf16 [T, NK, D], from those of each query head, [T, NQ, D]
 * (attention_sum.cu): of the sequences in `slots` lists of at most `most` tokens, or of the
 * first `most` tokens where length is NULL. D is a multiple of 8.
 */
struct slc_cuda_groups {
    void *dk, *dv;
    const void *all_dk, *all_dv;
    const int32_t *length, *off_k;
    int64_t slots, most, NQ, NK, D;
};
void slc_cuda_sum_groups(struct slc_queue *q, const struct slc_cuda_groups *a);
/* -1 with e: rows of max_len tokens keep more of dS for one head than this backend may. */
int slc_cuda_attention_check(const struct slc_cuda *c,
                             const struct slc_attention_backward_args *a,
                             struct slc_err *e);
void slc_cuda_attention_destroy(struct slc_cuda_attention *a);
/* All plans of rows of max_len tokens, whole or packed, of one pass; their scratch. */
size_t slc_cuda_attention_prepare_forward(struct slc_cuda *c,
                                          const struct slc_attention_forward_args *a);
size_t slc_cuda_attention_prepare_backward(struct slc_cuda *c,
                                           const struct slc_attention_backward_args *a);
void slc_cuda_attention_describe(const struct slc_cuda *c, char *text, size_t len);

size_t slc_cuda_embedding_scratch(struct slc_cuda *c,
                                  const struct slc_embedding_backward_args *a);

#define SLC_CUDA_DECLARE(op)                                                           \
    void slc_cuda_##op(struct slc_queue *q, const struct slc_##op##_args *a);
SLC_OPS(SLC_CUDA_DECLARE)
#undef SLC_CUDA_DECLARE

static inline int64_t slc_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
static inline int64_t slc_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t slc_most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Sizes of grouped products that tensor cores take: widths in steps of 8, for accesses of 16
 * bytes, and none that an int does not hold. */
static inline bool slc_grouped_fits(int64_t El, int64_t N, int64_t K, int64_t rows)
{
    return El > 0 && N > 0 && K > 0 && rows > 0 && N % 8 == 0 && K % 8 == 0 && N < 1 << 30 &&
           K < 1 << 30 && rows < 1 << 30;
}

#ifdef __cplusplus
}
#endif

#endif
