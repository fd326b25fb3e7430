/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "base/clock.h"
#include "kernels/cpu/cpu.h"

#define MOST 2048
#define REPEAT 5

struct product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t p;
    dnnl_memory_t mem[3];
};

/* C = A B of n x n matrices in bf16, of fixed size: what the library does best. */
static dnnl_status_t product_create(struct product *x, int64_t n, bool trans_b, void *data[3])
{
    const dnnl_dims_t dims = {n, n}, plain = {n, 1}, swapped = {1, n};
    dnnl_memory_desc_t md[3];
    dnnl_matmul_desc_t d;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t rc;

    for (int i = 0; i < 3; i++)
        if ((rc = dnnl_memory_desc_init_by_strides(&md[i], 2, dims, dnnl_bf16,
                                                   i == 1 && trans_b ? swapped : plain)))
            return rc;
    if ((rc = dnnl_engine_create(&x->engine, dnnl_cpu, 0)) ||
        (rc = dnnl_stream_create(&x->stream, x->engine, dnnl_stream_default_flags)) ||
        (rc = dnnl_matmul_desc_init(&d, &md[0], &md[1], NULL, &md[2])) ||
        (rc = dnnl_primitive_desc_create(&pd, &d, NULL, x->engine, NULL)) ||
        (rc = dnnl_primitive_create(&x->p, pd)))
        goto out;
    for (int i = 0; rc == dnnl_success && i < 3; i++)
        rc = dnnl_memory_create(&x->mem[i], &md[i], x->engine, data[i]);
out:
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static void product_destroy(struct product *x)
{
    for (int i = 0; i < 3; i++)
        dnnl_memory_destroy(x->mem[i]);
    dnnl_primitive_destroy(x->p);
    dnnl_stream_destroy(x->stream);
    dnnl_engine_destroy(x->engine);
}

static dnnl_status_t product_run(struct product *x)
{
    const dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, x->mem[0]},
                                     {DNNL_ARG_WEIGHTS, x->mem[1]},
                                     {DNNL_ARG_DST, x->mem[2]}};
    dnnl_status_t rc = dnnl_primitive_execute(x->p, x->stream, 3, args);

    return rc ? rc : dnnl_stream_wait(x->stream);
}

/* Best rate of one size and layout. */
static dnnl_status_t best_of(enum slc_dtype t, int64_t n, bool trans_b, void *data[3],
                             double *rate)
{
    const bool low = t == SLC_BF16 && slc_cpu_has_bf16();
    struct product x = {0};
    dnnl_status_t rc = low ? product_create(&x, n, trans_b, data) : dnnl_success;

    for (int i = 0; rc == dnnl_success && i < REPEAT; i++) {
        const double start = slc_now();

        rc = low ? product_run(&x)
                 : dnnl_sgemm('N', trans_b ? 'T' : 'N', n, n, n, 1.0f, data[0], n, data[1],
                              n, 0.0f, data[2], n);
        if (rc == dnnl_success && i > 0)
            *rate = fmax(*rate, 2.0 * (double)n * (double)n * (double)n / (slc_now() - start));
    }
    product_destroy(&x);
    return rc;
}

int slc_cpu_peak(enum slc_dtype t, double *rate, struct slc_err *e)
{
    const size_t bytes = (size_t)MOST * MOST * sizeof(float);
    dnnl_status_t rc = dnnl_success;
    void *data[3] = {NULL};

    *rate = 0;
    for (int i = 0; i < 3; i++)
        if (posix_memalign(&data[i], 4096, bytes) != 0)
            goto out;
        else
            memset(data[i], 0x3c, bytes); /* 0.0115 in both types */
    for (int64_t n = 512; rc == dnnl_success && n <= MOST; n *= 2)
        for (int trans = 0; rc == dnnl_success && trans < 2; trans++)
            rc = best_of(t, n, trans, data, rate);
out:
    for (int i = 0; i < 3; i++)
        free(data[i]);
    return *rate > 0 && rc == dnnl_success
               ? 0
               : slc_errf(e, SLC_EXIT_SYSTEM,
                          "backend cpu: oneDNN's product could not be measured (status %d); "
                          "the node may be out of memory",
                          (int)rc);
}
