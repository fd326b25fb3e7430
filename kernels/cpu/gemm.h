/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_GEMM_H
#define SLC_KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu.h"

/*
 * A product is computed in tiles of C, each by one thread and over the whole K.
 * fp32: dnnl_sgemm. bf16: a oneDNN primitive whose sizes and strides are all given when
 * it runs, one for each layout; where oneDNN has none (below AVX-512), pieces of A and
 * B are converted to fp32 and multiplied there.
 */
#define SLC_TILE_MAX 512

struct slc_product {
    struct slc_queue *q;
    struct bf16_primitive *bf16; /* NULL: fp32, or by conversion */
    float *work;                 /* `each` floats for each thread */
    int64_t each;
};

/*
 * Before the parallel region: what tiles of this type and layout need. False: the queue
 * has the error.
 */
bool slc_product_begin(struct slc_product *p, struct slc_queue *q,
                       const struct slc_matmul_args *a);

/*
 * The tile of C that starts at (m, n) and has at most tm x tn elements (up to
 * SLC_TILE_MAX each); `a` has its strides filled in. K = 0 leaves zero (or C, with
 * acc).
 */
void slc_product_tile(const struct slc_product *p, const struct slc_matmul_args *a,
                      int64_t m, int64_t n, int64_t tm, int64_t tn);

/* Set-up and end of the process-wide primitives. */
int slc_product_prepare(const struct slc_matmul_args *a, struct slc_err *e);
void slc_product_release(void);

#endif
