/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <string.h>

/*
 * Uploads and fetches, through the pinned slots of the queue: a copy from pinned memory
 * would read src after the return, one from or to pageable memory may wait for the
 * stream and is several times slower. More than a slot travels slot by slot.
 */

static char *slot_of(struct slc_cuda_queue *q, int i)
{
    return q->stage + (size_t)i * SLC_CUDA_STAGE_BYTES;
}

void slc_cuda_upload(struct slc_queue *base, void *dst, const void *src, size_t bytes)
{
    struct slc_cuda_queue *q = slc_cuda_queue_of(base);

    for (size_t at = 0; at < bytes; at += SLC_CUDA_STAGE_BYTES) {
        const int i = q->next_slot;
        const size_t n = (size_t)slc_least((int64_t)(bytes - at), SLC_CUDA_STAGE_BYTES);

        slc_cuda_fail(base, cudaEventSynchronize(q->staged[i]), "upload");
        memcpy(slot_of(q, i), (const char *)src + at, n);
        slc_cuda_fail(base,
                      cudaMemcpyAsync((char *)dst + at, slot_of(q, i), n,
                                      cudaMemcpyHostToDevice, q->stream),
                      "upload");
        slc_cuda_fail(base, cudaEventRecord(q->staged[i], q->stream), "upload");
        q->next_slot = (i + 1) % SLC_CUDA_STAGE_SLOTS;
    }
}

/* Start the copy of piece k into its slot; its place in the ring follows the uploads. */
static void fetch_start(struct slc_queue *base, const char *src, size_t bytes, size_t k,
                        int first)
{
    struct slc_cuda_queue *q = slc_cuda_queue_of(base);
    const int i = (int)((k + (size_t)first) % SLC_CUDA_STAGE_SLOTS);
    const size_t at = k * SLC_CUDA_STAGE_BYTES;
    const size_t n = (size_t)slc_least((int64_t)(bytes - at), SLC_CUDA_STAGE_BYTES);

    slc_cuda_fail(base,
                  cudaMemcpyAsync(slot_of(q, i), src + at, n, cudaMemcpyDeviceToHost,
                                  q->stream),
                  "fetch");
    slc_cuda_fail(base, cudaEventRecord(q->staged[i], q->stream), "fetch");
}

int slc_cuda_fetch(struct slc_queue *base, void *dst, const void *src, size_t bytes,
                   struct slc_err *e)
{
    struct slc_cuda_queue *q = slc_cuda_queue_of(base);
    const size_t n = (bytes + SLC_CUDA_STAGE_BYTES - 1) / SLC_CUDA_STAGE_BYTES;
    const int first = q->next_slot;

    /* In stream order after the uploads that used the slots before. */
    for (size_t k = 0; k < n && k < SLC_CUDA_STAGE_SLOTS; k++)
        fetch_start(base, src, bytes, k, first);
    if (n <= 1 && slc_cuda_queue_sync(base, e) != 0)
        return -1;
    for (size_t k = 0; k < n && base->error.code == SLC_EXIT_OK; k++) {
        const int i = (int)((k + (size_t)first) % SLC_CUDA_STAGE_SLOTS);
        const size_t at = k * SLC_CUDA_STAGE_BYTES;

        slc_cuda_fail(base, cudaEventSynchronize(q->staged[i]), "fetch");
        memcpy((char *)dst + at, slot_of(q, i),
               (size_t)slc_least((int64_t)(bytes - at), SLC_CUDA_STAGE_BYTES));
        if (k + SLC_CUDA_STAGE_SLOTS < n)
            fetch_start(base, src, bytes, k + SLC_CUDA_STAGE_SLOTS, first);
    }
    return slc_cuda_queue_sync(base, e);
}
