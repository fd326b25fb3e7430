/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice bench gemm and attention: rates of the heavy ops on this device, beside its dense
 * product and copy rates in the same run. One JSON line a figure.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"

static const char usage[] =
    "sluice bench gemm|attention [--device D] [--dtype T] [--tokens N] ...";

#define REPEAT 15
#define WARM 3

struct bench {
    struct slc_backend *b;
    struct slc_queue *q;
    enum slc_dtype dtype;
    long long tokens, row, heads, kv_heads, width, experts, in, out, dense;
    void *mem[16];
    int n;
    double copy_gbs, dense_tflops;
};

/* Backend memory of n normal numbers: a block of a million, again and again. */
static void *numbers(struct bench *x, int64_t n, enum slc_dtype t, struct slc_err *e)
{
    const int64_t block = 1 << 20, size = (int64_t)slc_dtype_size(t);
    void *p = slc_mem_alloc(x->b, (size_t)(n * size), SLC_MEM_DEVICE, e);
    char *host = malloc((size_t)(block * size));

    if (p)
        x->mem[x->n++] = p;
    if (!p || !host) {
        free(host);
        return NULL;
    }
    for (int64_t i = 0; i < block; i++) {
        const float v = (float)slc_rng_normal(1, SLC_RNG_TEST, (uint64_t)x->n, (uint64_t)i);

        if (t == SLC_F32)
            ((float *)host)[i] = v;
        else
            ((uint16_t *)host)[i] = slc_f32_to_bf16(v);
    }
    for (int64_t at = 0; at < n; at += block)
        slc_upload(x->q, (char *)p + at * size, host,
                   (size_t)((n - at < block ? n - at : block) * size));
    free(host);
    return p;
}

static void drop(struct bench *x)
{
    while (x->n > 0)
        slc_mem_free(x->b, x->mem[--x->n], SLC_MEM_DEVICE);
}

typedef void work(struct bench *x, const void *args);

/* Median seconds of one run, launches of several runs together where they are short. */
static int seconds(struct bench *x, work *f, const void *args, double *out,
                   struct slc_err *e)
{
    double t[REPEAT];
    int each = 1;

    for (int i = -WARM; i < REPEAT; i++) {
        const double t0 = slc_now();

        for (int j = 0; j < each; j++)
            f(x, args);
        if (slc_queue_sync(x->q, e) < 0)
            return -1;
        const double s = (slc_now() - t0) / each;
        if (i == -1 && s < 2e-3)
            each = (int)(2e-3 / s) + 1;
        if (i >= 0)
            t[i] = s;
    }
    *out = slc_bench_median(t, REPEAT);
    return 0;
}

static int say(struct bench *x, const char *what, work *f, const void *args, double flop,
               struct slc_err *e)
{
    double s;

    if (seconds(x, f, args, &s, e) < 0)
        return -1;
    printf("{\"op\": \"%s\", \"ms\": %.4f, \"tflops\": %.4g, \"of_dense\": %.3f}\n", what,
           1e3 * s, flop / s / 1e12, flop / s / 1e12 / x->dense_tflops);
    fflush(stdout);
    return 0;
}

static void run_copy(struct bench *x, const void *args)
{
    const struct slc_copy_args *a = args;

    x->b->ops.copy(x->q, a);
}
static void run_matmul(struct bench *x, const void *args)
{
    x->b->ops.matmul(x->q, args);
}
static void run_grouped(struct bench *x, const void *args)
{
    x->b->ops.grouped_matmul(x->q, args);
}
static void run_wgrad(struct bench *x, const void *args)
{
    x->b->ops.grouped_wgrad(x->q, args);
}
static void run_forward(struct bench *x, const void *args)
{
    x->b->ops.attention_forward(x->q, args);
}
static void run_backward(struct bench *x, const void *args)
{
    x->b->ops.attention_backward(x->q, args);
}

/* What the others are a share of. */
static int ceilings(struct bench *x, struct slc_err *e)
{
    const int64_t n = x->dense;
    const size_t z = slc_dtype_size(x->dtype);
    void *a = numbers(x, n * n, x->dtype, e), *b = numbers(x, n * n, x->dtype, e);
    void *c = slc_mem_alloc(x->b, (size_t)(n * n) * z, SLC_MEM_DEVICE, e);
    char text[200];
    double s;

    if (c)
        x->mem[x->n++] = c;
    if (!a || !b || !c)
        return -1;
    const struct slc_copy_args copy = {.dst = c, .src = a, .bytes = n * n * (int64_t)z};
    const struct slc_matmul_args dense = {.c = c, .a = a, .b = b, .M = n, .N = n, .K = n,
                                          .trans_b = true, .dtype = x->dtype,
                                          .c_dtype = x->dtype};
    if (seconds(x, run_copy, &copy, &s, e) < 0)
        return -1;
    x->copy_gbs = 2e-9 * (double)copy.bytes / s;
    if (seconds(x, run_matmul, &dense, &s, e) < 0)
        return -1;
    x->dense_tflops = 2e-12 * (double)n * (double)n * (double)n / s;
    slc_backend_describe(x->b, text, sizeof(text));
    printf("{\"device\": \"%s\", \"dtype\": \"%s\", \"dense\": %lld, \"dense_tflops\": %.4g, "
           "\"copy_gb_per_s\": %.0f}\n",
           text, slc_dtype_name(x->dtype), x->dense, x->dense_tflops, x->copy_gbs);
    drop(x);
    return 0;
}

/* Rows of each expert: uneven (a factor of e^normal/2), padded as the backend asks. */
static int64_t segments(const struct bench *x, int32_t *off)
{
    double share[1024], sum = 0;
    int64_t real = 0;

    for (int64_t i = 0; i < x->experts; i++) {
        share[i] = exp(0.5 * slc_rng_normal(2, SLC_RNG_TEST, 0, (uint64_t)i));
        sum += share[i];
    }
    off[0] = 0;
    for (int64_t i = 0; i < x->experts; i++) {
        const int64_t n = (int64_t)((double)x->tokens * share[i] / sum);
        const int64_t align = x->b->row_align;

        real += n;
        off[i + 1] = off[i] + (int32_t)((n + align - 1) / align * align);
    }
    return real;
}

static int gemm(struct bench *x, struct slc_err *e)
{
    const int64_t E = x->experts, N = x->out, K = x->in;
    int32_t host[1025];
    const int64_t real = segments(x, host), cap = host[E];
    void *a = numbers(x, cap * K, x->dtype, e), *y = numbers(x, cap * N, x->dtype, e);
    void *w = numbers(x, E * N * K, x->dtype, e);
    float *dw = numbers(x, E * N * K, SLC_F32, e);
    int32_t *off = slc_mem_alloc(x->b, (size_t)(E + 1) * 4, SLC_MEM_DEVICE, e);
    const double flop = 2.0 * (double)real * (double)N * (double)K;

    if (off)
        x->mem[x->n++] = off;
    if (!a || !y || !w || !dw || !off)
        return -1;
    slc_upload(x->q, off, host, (size_t)(E + 1) * 4);
    const struct slc_grouped_matmul_args forward = {
        .y = y, .x = a, .w = w, .off = off, .El = E, .N = N, .Kd = K, .rows_cap = cap,
        .trans_w = true, .dtype = x->dtype};
    const struct slc_grouped_matmul_args dgrad = {
        .y = a, .x = y, .w = w, .off = off, .El = E, .N = K, .Kd = N, .rows_cap = cap,
        .dtype = x->dtype};
    const struct slc_grouped_wgrad_args wgrad = {
        .dw = dw, .dy = y, .x = a, .off = off, .El = E, .N = N, .Kd = K, .rows_cap = cap,
        .acc = true, .dtype = x->dtype, .dw_dtype = SLC_F32};
    struct slc_grouped_wgrad_args low = wgrad;
    low.dw = w;
    low.acc = false;
    low.dw_dtype = x->dtype;
    if (say(x, "grouped forward", run_grouped, &forward, flop, e) < 0 ||
        say(x, "grouped dgrad", run_grouped, &dgrad, flop, e) < 0 ||
        say(x, "grouped wgrad, added to fp32", run_wgrad, &wgrad, flop, e) < 0)
        return -1;
    return say(x, "grouped wgrad", run_wgrad, &low, flop, e);
}

static int attention(struct bench *x, struct slc_err *e)
{
    const int64_t T = x->tokens, D = x->width, nq = T * x->heads * D;
    const int64_t nk = T * x->kv_heads * D, n = (T + x->row - 1) / x->row;
    const enum slc_dtype t = x->dtype;
    void *q = numbers(x, nq, t, e), *k = numbers(x, nk, t, e), *v = numbers(x, nk, t, e);
    void *o = numbers(x, nq, t, e), *d_o = numbers(x, nq, t, e);
    void *dq = numbers(x, nq, t, e), *dk = numbers(x, nk, t, e), *dv = numbers(x, nk, t, e);
    float *lse = numbers(x, T * x->heads, SLC_F32, e);
    int32_t *seg = slc_mem_alloc(x->b, (size_t)(n + 1) * 4, SLC_MEM_DEVICE, e);
    int32_t *host = calloc((size_t)n + 1, sizeof(*host));
    double pairs = 0;
    int rc = -1;

    if (seg)
        x->mem[x->n++] = seg;
    if (!q || !k || !v || !o || !d_o || !dq || !dk || !dv || !lse || !seg || !host)
        goto out;
    for (int64_t i = 0; i < n; i++) {
        const int64_t end = (i + 1) * x->row < T ? (i + 1) * x->row : T;
        const double len = (double)(end - host[i]);

        host[i + 1] = (int32_t)end;
        pairs += len * (len + 1) / 2;
    }
    slc_upload(x->q, seg, host, (size_t)(n + 1) * 4);
    const struct slc_attention_forward_args f = {
        .o = o, .lse = lse, .q = q, .k = k, .v = v, .seg = seg, .seg_host = host, .T = T,
        .NQ = x->heads, .NK = x->kv_heads, .D = D, .n_seg = n, .max_len = x->row,
        .scale = 1 / sqrtf((float)D), .dtype = t};
    const struct slc_attention_backward_args b = {
        .dq = dq, .dk = dk, .dv = dv, .d_o = d_o, .q = q, .k = k, .v = v, .o = o,
        .lse = lse, .seg = seg, .seg_host = host, .T = T, .NQ = x->heads,
        .NK = x->kv_heads, .D = D, .n_seg = n, .max_len = x->row,
        .scale = f.scale, .dtype = t};
    const double flop = 4 * pairs * (double)(x->heads * D);
    rc = say(x, "attention forward", run_forward, &f, flop, e);
    if (rc == 0)
        rc = say(x, "attention backward", run_backward, &b, 2.5 * flop, e);
out:
    free(host);
    return rc;
}

static int run(struct bench *x, const char *what, const char *device, struct slc_err *e)
{
    int rc = -1;

    x->b = slc_backend_open(device, NULL, e);
    x->q = x->b ? slc_queue_create(x->b, e) : NULL;
    if (x->q)
        rc = ceilings(x, e);
    if (rc == 0)
        rc = !strcmp(what, "gemm") ? gemm(x, e) : attention(x, e);
    drop(x);
    slc_queue_destroy(x->q);
    slc_backend_close(x->b);
    return rc;
}

int slc_bench_ops(int argc, char **argv)
{
    struct bench x = {.n = 0};
    const char *device = "cuda", *dtype = NULL;
    const char *text[9] = {NULL};
    struct slc_err e = SLC_ERR_INIT;
    int n;
    const struct slc_flag flags[] = {
        {"--device", "D", "cuda (default) or cpu", &device, NULL},
        {"--dtype", "T", "bf16 (default on cuda) or fp32", &dtype, NULL},
        {"--tokens", "N", "rows of all experts (131072), or tokens (16384)", &text[0], NULL},
        {"--experts", "E", "experts (64)", &text[1], NULL},
        {"--in", "K", "width of a row that goes into an expert's product (2048)", &text[2],
         NULL},
        {"--out", "N", "width of a row that comes out (2048)", &text[3], NULL},
        {"--row", "S", "tokens of a sequence (4096)", &text[4], NULL},
        {"--heads", "H", "query heads (16)", &text[5], NULL},
        {"--kv-heads", "G", "key and value heads (16)", &text[6], NULL},
        {"--width", "D", "width of a head (128)", &text[7], NULL},
        {"--dense", "N", "the dense product is N x N x N (8192 on cuda, 1024 on cpu)",
         &text[8], NULL},
    };
    int rc = slc_flags_parse(argc, argv, usage, flags, 11, &n, &e);

    if (rc == 1)
        return SLC_EXIT_OK;
    const bool gpu = !strcmp(device, "cuda"), products = !strcmp(argv[0], "gemm");
    long long *const at[9] = {&x.tokens, &x.experts, &x.in,       &x.out,  &x.row,
                              &x.heads,  &x.kv_heads, &x.width, &x.dense};
    const long long usual[9] = {products ? 131072 : 16384, 64, 2048, 2048, 4096, 16, 16, 128,
                                gpu ? 8192 : 1024};
    static const long long most[9] = {1 << 22, 1024, 1 << 17, 1 << 17, 1 << 22,
                                      1024,    1024, 256,     1 << 15};
    static const char *const name[9] = {"--tokens", "--experts", "--in", "--out", "--row",
                                        "--heads", "--kv-heads", "--width", "--dense"};
    if (rc == 0 && n > 0)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "unknown argument %s; usage: %s", argv[1], usage);
    for (int i = 0; rc == 0 && i < 9; i++) {
        *at[i] = usual[i];
        if (text[i])
            rc = slc_flag_int(name[i], text[i], 1, most[i], at[i], &e);
    }
    if (rc == 0 && x.heads % x.kv_heads)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "--heads %lld is not a multiple of --kv-heads %lld",
                      x.heads, x.kv_heads);
    if (rc == 0 && dtype && strcmp(dtype, "bf16") && strcmp(dtype, "fp32"))
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "--dtype %s: give bf16 or fp32", dtype);
    x.dtype = dtype ? (strcmp(dtype, "bf16") ? SLC_F32 : SLC_BF16) : gpu ? SLC_BF16 : SLC_F32;
    if (rc == 0)
        rc = run(&x, argv[0], device, &e);
    return rc < 0 ? slc_cmd_fail("bench", &e) : SLC_EXIT_OK;
}
