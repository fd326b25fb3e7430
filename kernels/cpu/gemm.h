/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CPU_GEMM_H
#define SLC_KERNELS_CPU_GEMM_H

#include "kernels/cpu/cpu.h"

/*
 * The tile of C that starts at (m, n) and has at most tm x tn elements, on the calling
 * thread; `a` has its strides filled in. K = 0 leaves zero (or C, with acc).
 */
void slc_cpu_tile(struct slc_queue *q, const struct slc_matmul_args *a, int64_t m,
                  int64_t n, int64_t tm, int64_t tn);

#endif
