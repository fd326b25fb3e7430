/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rates of the ops of kernels/cpu that a training step spends its time in, beside the
 * rate of one well-shaped oneDNN product on the same thread:
 *
 *     make benchmarks/ops && benchmarks/ops [threads] [fp32|bf16] [tokens]
 *
 * CSV: op, size, microseconds (best of 7), GFLOP/s, GB/s, share of the product's rate.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "backend/backend.h"
#include "base/clock.h"

static struct slc_backend *b;
static struct slc_queue *q;
static enum slc_dtype dtype = SLC_F32;
static double peak; /* flop/s of the product that others are measured by */

/* n elements of t: values between -0.5 and 0.5, or 0 for integers. */
static void *values(int64_t n, enum slc_dtype t)
{
    struct slc_err e = SLC_ERR_INIT;
    size_t bytes = (size_t)n * slc_dtype_size(t);
    char *p = slc_mem_alloc(b, bytes, SLC_MEM_DEVICE, &e);

    if (!p) {
        fprintf(stderr, "ops: %s\n", e.text);
        exit(1);
    }
    memset(p, 0, bytes);
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(i * 7919 % 1000) * 1e-3f - 0.5f;

        if (t == SLC_F32)
            ((float *)p)[i] = x;
        else if (t == SLC_BF16)
            ((uint16_t *)p)[i] = slc_f32_to_bf16(x);
    }
    return p;
}

#define BEST(best, call)                                                               \
    do {                                                                               \
        best = 1e9;                                                                    \
        for (int run = 0; run < 8; run++) {                                            \
            double start = slc_now();                                                  \
            call;                                                                      \
            double took = slc_now() - start;                                           \
            best = run > 0 && took < best ? took : best;                               \
        }                                                                              \
    } while (0)

static void report(const char *op, const char *size, double s, double flop,
                   double bytes)
{
    printf("%s,%s,%.1f,%.1f,%.1f,%.2f\n", op, size, s * 1e6, flop / s * 1e-9,
           bytes / s * 1e-9, flop > 0 ? flop / s / peak : 0);
}

static void best_product(int threads)
{
    float *A = values(256 * 256, SLC_F32), *B = values(512 * 256, SLC_F32);
    float *C = values(256 * 512, SLC_F32);
    double s;

    BEST(s, for (int i = 0; i < 20; i++)
                dnnl_sgemm('N', 'N', 256, 512, 256, 1, A, 256, B, 512, 0, C, 512));
    peak = 20 * 2.0 * 256 * 512 * 256 / s;
    printf("op,size,us,gflops,gbs,of_product\n");
    report("dnnl_sgemm", "256x512x256", s / 20, peak * s / 20, 0);
    if (threads > 1)
        printf("# of_product is by the rate of that one product on all threads\n");
}

static void products(int64_t T, int64_t H, int64_t N)
{
    void *x = values(T * H, dtype), *w = values(N * H, dtype),
         *y = values(T * N, dtype);
    float *dw = values(N * H, SLC_F32);
    double flop = 2.0 * (double)T * (double)H * (double)N, s;
    char size[64];

    snprintf(size, sizeof(size), "%dx%dx%d", (int)T, (int)N, (int)H);
    BEST(s, SLC_RUN(q, matmul, .c = y, .a = x, .b = w, .M = T, .N = N, .K = H,
                    .trans_b = true, .dtype = dtype, .c_dtype = dtype));
    report("matmul y = x W^T", size, s, flop, 0);
    BEST(s, SLC_RUN(q, matmul, .c = x, .a = y, .b = w, .M = T, .N = H, .K = N,
                    .dtype = dtype, .c_dtype = dtype));
    report("matmul dx = dy W", size, s, flop, 0);
    BEST(s, SLC_RUN(q, matmul, .c = dw, .a = y, .b = x, .M = N, .N = H, .K = T,
                    .trans_a = true, .acc = true, .dtype = dtype, .c_dtype = SLC_F32));
    report("matmul dW += dy^T x", size, s, flop, 0);
}

static void grouped(int64_t rows, int64_t El, int64_t H, int64_t N)
{
    void *x = values(rows * H, dtype), *w = values(El * N * H, dtype);
    void *y = values(rows * N, dtype);
    float *dw = values(El * N * H, SLC_F32);
    int32_t *off = values(El + 1, SLC_I32);
    double flop = 2.0 * (double)rows * (double)H * (double)N, s;
    char size[64];

    /* Uneven, as routing is: expert e has a share of e+1. */
    for (int64_t e = 1; e <= El; e++)
        off[e] = (int32_t)(rows * (e * (e + 1)) / (El * (El + 1)));
    snprintf(size, sizeof(size), "%d rows %d experts %dx%d", (int)rows, (int)El, (int)N,
             (int)H);
    BEST(s,
         SLC_RUN(q, grouped_matmul, .y = y, .x = x, .w = w, .off = off, .El = El,
                 .N = N, .Kd = H, .rows_cap = rows, .trans_w = true, .dtype = dtype));
    report("grouped_matmul", size, s, flop, 0);
    BEST(s, SLC_RUN(q, grouped_matmul, .y = x, .x = y, .w = w, .off = off, .El = El,
                    .N = H, .Kd = N, .rows_cap = rows, .dtype = dtype));
    report("grouped_matmul dx", size, s, flop, 0);
    BEST(s, SLC_RUN(q, grouped_wgrad, .dw = dw, .dy = y, .x = x, .off = off, .El = El,
                    .N = N, .Kd = H, .rows_cap = rows, .acc = true, .dtype = dtype,
                    .dw_dtype = SLC_F32));
    report("grouped_wgrad", size, s, flop, 0);
}

static void attention(int64_t T, int64_t len, int64_t NQ, int64_t NK, int64_t D)
{
    const int64_t n = (T + len - 1) / len;
    void *x[8];
    float *lse = values(T * NQ, SLC_F32);
    int32_t *seg = values(n + 1, SLC_I32);
    /* Half of the square of each document; two products forward, five backward. */
    double flop = 2.0 * (double)(T * len) * (double)(NQ * D), s;
    char size[64];

    for (int i = 0; i < 8; i++)
        x[i] = values(T * (i < 4 ? NQ : NK) * D, dtype);
    for (int64_t i = 0; i <= n; i++)
        seg[i] = (int32_t)(i * len < T ? i * len : T);
    snprintf(size, sizeof(size), "%d documents of %d heads %d/%d of %d", (int)n,
             (int)len, (int)NQ, (int)NK, (int)D);
    BEST(s, SLC_RUN(q, attention_forward, .o = x[1], .lse = lse, .q = x[0], .k = x[4],
                    .v = x[5], .seg = seg, .T = T, .NQ = NQ, .NK = NK, .D = D,
                    .n_seg = n, .max_len = len, .scale = 0.2f, .dtype = dtype));
    report("attention_forward", size, s, flop, 0);
    BEST(s, SLC_RUN(q, attention_backward, .dq = x[3], .dk = x[6], .dv = x[7],
                    .d_o = x[2], .q = x[0], .k = x[4], .v = x[5], .o = x[1], .lse = lse,
                    .seg = seg, .T = T, .NQ = NQ, .NK = NK, .D = D, .n_seg = n,
                    .max_len = len, .scale = 0.2f, .dtype = dtype));
    report("attention_backward", size, s, 2.5 * flop, 0);
}

static void rows(int64_t T, int64_t H, int64_t F)
{
    const double z = (double)slc_dtype_size(dtype), th = (double)(T * H) * z;
    const double tf = (double)(T * F) * z;
    void *x = values(T * H, dtype), *y = values(T * H, dtype), *w = values(H, dtype);
    void *h = values(T * 2 * F, dtype), *a = values(T * F, dtype);
    float *rstd = values(T, SLC_F32), *dw = values(H, SLC_F32);
    char size[64];
    double s;

    snprintf(size, sizeof(size), "%dx%d", (int)T, (int)H);
    BEST(s, SLC_RUN(q, rmsnorm_forward, .y = y, .rstd = rstd, .x = x, .w = w, .T = T,
                    .H = H, .eps = 1e-6f, .dtype = dtype));
    report("rmsnorm_forward", size, s, 0, 2 * th);
    BEST(s, SLC_RUN(q, rmsnorm_backward, .dx = y, .dw = dw, .dy = y, .x = x, .w = w,
                    .rstd = rstd, .T = T, .H = H, .dtype = dtype));
    report("rmsnorm_backward", size, s, 0, 3 * th);
    snprintf(size, sizeof(size), "%dx%d", (int)T, (int)F);
    BEST(s,
         SLC_RUN(q, swiglu_forward, .a = a, .h = h, .rows = T, .F = F, .dtype = dtype));
    report("swiglu_forward", size, s, 0, 3 * tf);
    BEST(s, SLC_RUN(q, swiglu_backward, .dh = h, .da0 = a, .h = h, .rows = T, .F = F,
                    .dtype = dtype));
    report("swiglu_backward", size, s, 0, 5 * tf);
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const int64_t T = argc > 3 ? atoll(argv[3]) : 2048;
    const struct slc_backend_options o = {.threads = threads};
    struct slc_err e = SLC_ERR_INIT;
    char text[128];

    if (argc > 2)
        dtype = strcmp(argv[2], "bf16") ? SLC_F32 : SLC_BF16;
    b = slc_backend_open("cpu", &o, &e);
    q = b ? slc_queue_create(b, &e) : NULL;
    if (!q) {
        fprintf(stderr, "ops: %s\n", e.text);
        return 1;
    }
    slc_backend_describe(b, text, sizeof(text));
    printf("# %s, %s\n", text, slc_dtype_name(dtype));
    best_product(threads);
    products(T, 256, 512);
    products(T, 1024, 1024);
    grouped(2 * T, 8, 256, 512);
    grouped(2 * T, 64, 256, 512);
    attention(T, 512, 8, 4, 32);
    attention(T, 2048, 8, 2, 128);
    attention(T, 30, 8, 4, 32);
    rows(T, 256, 256);
    rows(T, 2048, 768);
    return slc_queue_sync(q, &e) == 0 ? 0 : 1;
}
