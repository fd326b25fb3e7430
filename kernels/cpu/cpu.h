/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_CPU_H
#define SLC_KERNELS_CPU_CPU_H

#include "backend/backend.h"

/*
 * Ops on host memory with OpenMP and oneDNN. Every file with ops is compiled once for
 * each instruction set (SLC_CPU_ISA: base, avx2, avx512, avx512_bf16) and the set is
 * chosen when the table is filled, so one build runs on every machine of a cluster.
 *
 * Rules that keep the bits of a run the same for any number of threads:
 *  - work is cut into pieces by shape alone, and a piece is computed by one thread;
 *  - a sum over rows is kept per piece (struct slc_pieces) and added in order of
 * pieces. The instruction set does change bits: vector width is the number of partial
 * sums.
 */
#define SLC_CPU_NAME_(isa, op) slc_cpu_##isa##_##op
#define SLC_CPU_NAME(isa, op) SLC_CPU_NAME_(isa, op)
#ifdef SLC_CPU_ISA
#define SLC_CPU(op) SLC_CPU_NAME(SLC_CPU_ISA, op)
#define SLC_CPU_DECLARE(op)                                                            \
    void SLC_CPU(op)(struct slc_queue * q, const struct slc_##op##_args *a);
SLC_OPS(SLC_CPU_DECLARE)
#undef SLC_CPU_DECLARE
#endif

/* Fewer scalars than this are not worth waking other threads. */
#define SLC_CPU_GRAIN 16384
/* Rows are worked on in pieces that fit a stack buffer when they must be converted. */
#define SLC_CPU_CHUNK 1024
/* Widest attention head. */
#define SLC_CPU_HEAD 256
/* Experts of one rank. */
#define SLC_CPU_EXPERTS 4096

/* T rows cut into n pieces of `rows` rows: at most 64, so that sums per piece are
 * small. */
struct slc_pieces {
    int64_t n, rows;
};
static inline struct slc_pieces slc_pieces_of(int64_t T)
{
    struct slc_pieces p = {.rows = (T + 63) / 64};

    if (p.rows < 32)
        p.rows = 32;
    p.n = (T + p.rows - 1) / p.rows;
    return p;
}

/*
 * n floats of scratch, one block per process that only grows (all ops run on one
 * thread); valid until the next call. NULL: the queue has the error.
 */
float *slc_cpu_scratch(struct slc_queue *q, int64_t n);

/* The same at set-up. */
int slc_cpu_scratch_grow(int64_t n, struct slc_err *e);

/* What an op writes to the data of lists [R]. */
static inline int64_t slc_cpu_rows_bytes(const struct slc_rows *list, int64_t R)
{
    int64_t bytes = 0;

    for (int64_t r = 0; r < R; r++)
        bytes += list[r].data ? list[r].count * list[r].stride : 0;
    return bytes;
}

/* oneDNN has products in bf16 here (AVX-512); elsewhere they go through fp32. */
bool slc_cpu_has_bf16(void);

/* Note in the queue that the op cannot be computed as asked. */
void slc_cpu_refuse(struct slc_queue *q, const char *what);

#endif
