/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of `sluice bench dispatch`, done as MPI programs do it: records packed by
 * destination, counts by MPI_Alltoall, rows by MPI_Alltoallv, results back likewise.
 * Routing, rows, sums and sizes come from the same header; a record is the same bytes, a
 * token for two experts of one rank travels once, as there. All buffers are made and
 * touched before the clock starts, in huge pages where the system gives them.
 *
 *   mpicc -O3 -march=native -fopenmp-simd -Isrc benchmarks/peers/alltoallv.c
 *
 * benchmarks/dispatch builds and runs it.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cmd/bench_rows.h"

#define WARM 3
#define HUGE (2u << 20)

static struct bench_case c;
static int R, me;

static struct {
    int64_t first, El, M, S, most; /* most: records that may come here */
    int *first_expert;             /* [R+1] */
    size_t row, stride, stride_back;
    int32_t *ids, *slot_rank, *slot_row;
    int *sent, *sent_at, *got, *got_at; /* records by rank, and their places */
    int *n_to, *at_to, *n_from, *at_from; /* the same in bytes */
    int32_t *off, *next, *row_of, *rec_of;
    float *row_weight;
    char *x, *y, *out, *send, *recv, *back, *home;
    int iterations;
    double *there_s, *back_s, *total_s, *sums;
} s;

static void *take(size_t bytes)
{
    const size_t size = (bytes + HUGE - 1) / HUGE * HUGE;
    char *p = aligned_alloc(HUGE, size ? size : HUGE);

    if (!p)
        MPI_Abort(MPI_COMM_WORLD, 1);
    madvise(p, size, MADV_HUGEPAGE);
    memset(p, 0, size);
    return p;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void open_size(int64_t bytes)
{
    int64_t widest = 0;

    c.T = bench_tokens(&c, R, bytes);
    s.first_expert = take((size_t)(R + 1) * sizeof(int));
    for (int r = 0; r <= R; r++) {
        s.first_expert[r] = (int)((r * c.E + R - 1) / R);
        if (r > 0 && s.first_expert[r] - s.first_expert[r - 1] > widest)
            widest = s.first_expert[r] - s.first_expert[r - 1];
    }
    s.first = s.first_expert[me];
    s.El = s.first_expert[me + 1] - s.first;
    s.M = min64(c.K, widest);
    s.S = min64(c.K, R);
    s.most = c.T * R;
    s.row = (size_t)c.H * (c.bf16 ? 2 : 4);
    s.stride = ((s.row + 3) / 4 * 4 + (size_t)s.M * 8 + 63) / 64 * 64;
    s.stride_back = (s.row + 63) / 64 * 64;
    const size_t T = (size_t)c.T, most = (size_t)s.most, M = (size_t)s.M;
    const size_t slots = T * (size_t)s.S;
    int **of_rank[] = {&s.sent, &s.sent_at, &s.got, &s.got_at,
                       &s.n_to, &s.at_to,   &s.n_from, &s.at_from};

    s.ids = take(T * (size_t)c.K * 4);
    s.slot_rank = take(slots * 4);
    s.slot_row = take(slots * 4);
    for (size_t i = 0; i < sizeof(of_rank) / sizeof(*of_rank); i++)
        *of_rank[i] = take((size_t)R * sizeof(int));
    s.off = take((size_t)(s.El + 1) * 4);
    s.next = take((size_t)(s.El + 1) * 4);
    s.row_of = take(most * M * 4);
    s.rec_of = take(most * M * 4);
    s.row_weight = take(most * M * 4);
    s.x = take(T * s.row);
    s.out = take(T * s.row);
    s.y = take(most * M * s.row);
    s.send = take(slots * s.stride);
    s.recv = take(most * s.stride);
    s.back = take(most * s.stride_back);
    s.home = take(slots * s.stride_back);
    s.iterations = bench_iterations(bytes);
    s.there_s = take((size_t)s.iterations * sizeof(double));
    s.back_s = take((size_t)s.iterations * sizeof(double));
    s.total_s = take((size_t)s.iterations * sizeof(double));
    s.sums = take((size_t)s.iterations * 2 * sizeof(double));
    bench_route(&c, me, s.ids);
}

static void close_size(void)
{
    void *all[] = {s.first_expert, s.ids, s.slot_rank, s.slot_row, s.sent, s.sent_at,
                   s.got, s.got_at, s.n_to, s.at_to, s.n_from, s.at_from, s.off, s.next,
                   s.row_of, s.rec_of, s.row_weight, s.x, s.out, s.y, s.send, s.recv,
                   s.back, s.home, s.there_s, s.back_s, s.total_s, s.sums};

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        free(all[i]);
}

/* Which records each token becomes, and how many go to each rank. */
static void index_tokens(void)
{
    memset(s.sent, 0, (size_t)R * sizeof(int));
    for (int64_t t = 0; t < c.T; t++) {
        int slot = 0, rank = -1, owner = 0;

        for (int64_t k = 0; k < c.K; k++) {
            while (s.first_expert[owner + 1] <= s.ids[t * c.K + k])
                owner++;
            if (owner == rank)
                continue;
            rank = owner;
            s.slot_rank[t * s.S + slot] = rank;
            s.slot_row[t * s.S + slot++] = s.sent[rank]++;
        }
        for (; slot < s.S; slot++)
            s.slot_rank[t * s.S + slot] = -1;
    }
}

static void places(int *at, const int *n)
{
    for (int r = 0, sum = 0; r < R; sum += n[r++])
        at[r] = sum;
}

static void in_bytes(int *n, int *at, const int *count, const int *place, size_t stride)
{
    for (int r = 0; r < R; r++) {
        n[r] = (int)((size_t)count[r] * stride);
        at[r] = (int)((size_t)place[r] * stride);
    }
}

static void pack(void)
{
    const float weight = bench_weight(&c);

    for (int64_t t = 0; t < c.T; t++)
        for (int64_t i = 0; i < s.S && s.slot_rank[t * s.S + i] >= 0; i++) {
            const int r = s.slot_rank[t * s.S + i];
            char *rec = s.send + (size_t)(s.sent_at[r] + s.slot_row[t * s.S + i]) * s.stride;
            int32_t *ids = (int32_t *)(rec + (s.row + 3) / 4 * 4);
            float *weights = (float *)(ids + s.M);
            int64_t m = 0;

            memcpy(rec, s.x + (size_t)t * s.row, s.row);
            bench_ahead(s.x + (size_t)(t + 1 < c.T ? t + 1 : t) * s.row);
            for (int64_t k = 0; k < c.K; k++) {
                const int32_t id = s.ids[t * c.K + k];

                if (id < s.first_expert[r] || id >= s.first_expert[r + 1])
                    continue;
                ids[m] = id - s.first_expert[r];
                weights[m++] = weight;
            }
            for (; m < s.M; m++)
                ids[m] = -1;
        }
}

/* Rows by expert, within an expert by record. */
static void index_experts(int n)
{
    const size_t at = (s.row + 3) / 4 * 4;

    memset(s.next, 0, (size_t)(s.El + 1) * 4);
    for (int j = 0; j < n; j++) {
        const int32_t *ids = (const int32_t *)(s.recv + (size_t)j * s.stride + at);

        for (int64_t m = 0; m < s.M; m++)
            if (ids[m] >= 0)
                s.next[ids[m]]++;
    }
    for (int64_t e = 0, row = 0; e <= s.El; e++) {
        s.off[e] = (int32_t)row;
        row += s.next[e];
        s.next[e] = s.off[e];
    }
    for (int j = 0; j < n; j++) {
        const int32_t *ids = (const int32_t *)(s.recv + (size_t)j * s.stride + at);

        for (int64_t m = 0; m < s.M; m++) {
            const int32_t row = ids[m] < 0 ? -1 : s.next[ids[m]]++;

            s.row_of[j * s.M + m] = row;
            if (row < 0)
                continue;
            s.rec_of[row] = j;
            s.row_weight[row] = ((const float *)(ids + s.M))[m];
        }
    }
}

static float from_bf16(uint16_t v)
{
    const uint32_t bits = (uint32_t)v << 16;
    float f;

    memcpy(&f, &bits, 4);
    return f;
}

static uint16_t to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, 4);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* to = sum of weights[i] * rows[i], rounded once. */
static void sum_rows(char *to, char *const *rows, const float *weights, int n)
{
    float acc[1024];

    for (int64_t at = 0; at < c.H; at += 1024) {
        const int64_t len = min64(1024, c.H - at);

        memset(acc, 0, sizeof(acc));
        for (int i = 0; i < n; i++) {
            const float w = weights[i];

            if (c.bf16) {
                const uint16_t *p = (const uint16_t *)rows[i] + at;
#pragma omp simd
                for (int64_t j = 0; j < len; j++)
                    acc[j] += w * from_bf16(p[j]);
            } else {
                const float *p = (const float *)rows[i] + at;
#pragma omp simd
                for (int64_t j = 0; j < len; j++)
                    acc[j] += w * p[j];
            }
        }
        if (c.bf16) {
            uint16_t *p = (uint16_t *)to + at;
#pragma omp simd
            for (int64_t j = 0; j < len; j++)
                p[j] = to_bf16(acc[j]);
        } else {
            memcpy((float *)to + at, acc, (size_t)len * sizeof(*acc));
        }
    }
}

static int dispatch(void)
{
    index_tokens();
    places(s.sent_at, s.sent);
    pack();
    MPI_Alltoall(s.sent, 1, MPI_INT, s.got, 1, MPI_INT, MPI_COMM_WORLD);
    places(s.got_at, s.got);
    in_bytes(s.n_to, s.at_to, s.sent, s.sent_at, s.stride);
    in_bytes(s.n_from, s.at_from, s.got, s.got_at, s.stride);
    MPI_Alltoallv(s.send, s.n_to, s.at_to, MPI_BYTE, s.recv, s.n_from, s.at_from, MPI_BYTE,
                  MPI_COMM_WORLD);
    return s.got_at[R - 1] + s.got[R - 1];
}

static void combine(int n)
{
    for (int j = 0; j < n; j++) {
        char *rows[8];
        float weights[8];
        int count = 0;

        for (int64_t m = 0; m < s.M; m++) {
            const int32_t row = s.row_of[j * s.M + m];

            if (row < 0)
                continue;
            rows[count] = s.y + (size_t)row * s.row;
            weights[count++] = s.row_weight[row];
        }
        for (int64_t m = 0; j + 1 < n && m < s.M; m++)
            if (s.row_of[(j + 1) * s.M + m] >= 0)
                bench_ahead(s.y + (size_t)s.row_of[(j + 1) * s.M + m] * s.row);
        sum_rows(s.back + (size_t)j * s.stride_back, rows, weights, count);
    }
    in_bytes(s.n_to, s.at_to, s.sent, s.sent_at, s.stride_back);
    in_bytes(s.n_from, s.at_from, s.got, s.got_at, s.stride_back);
    MPI_Alltoallv(s.back, s.n_from, s.at_from, MPI_BYTE, s.home, s.n_to, s.at_to, MPI_BYTE,
                  MPI_COMM_WORLD);
    for (int64_t t = 0; t < c.T; t++) {
        static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
        char *rows[8];
        int count = 0;

        for (int64_t i = 0; i < s.S && s.slot_rank[t * s.S + i] >= 0; i++)
            rows[count++] = s.home + (size_t)(s.sent_at[s.slot_rank[t * s.S + i]] +
                                              s.slot_row[t * s.S + i]) * s.stride_back;
        for (int64_t i = 0; t + 1 < c.T && i < s.S && s.slot_rank[(t + 1) * s.S + i] >= 0;
             i++)
            bench_ahead(s.home + (size_t)(s.sent_at[s.slot_rank[(t + 1) * s.S + i]] +
                                          s.slot_row[(t + 1) * s.S + i]) * s.stride_back);
        sum_rows(s.out + (size_t)t * s.row, rows, ones, count);
    }
}

static void iterate(int i, double *there, double *back, double sums[2])
{
    const double start = MPI_Wtime();

    sums[0] = sums[1] = 0;
    bench_produce_tokens(&c, me, i, s.x);
    const int n = dispatch();
    index_experts(n);
    for (int64_t e = 0; e < s.El; e++)
        for (int32_t row = s.off[e]; row < s.off[e + 1]; row++) {
            if (row + 1 < s.off[s.El])
                bench_ahead(s.recv + (size_t)s.rec_of[row + 1] * s.stride);
            sums[0] += (double)(s.first + e + 1) *
                       bench_sum(&c, s.recv + (size_t)s.rec_of[row] * s.stride);
        }
    const double middle = MPI_Wtime();
    for (int64_t e = 0; e < s.El; e++)
        for (int32_t row = s.off[e]; row < s.off[e + 1]; row++)
            bench_row(&c, s.y + (size_t)row * s.row, bench_result_key(s.first + e, i),
                      BENCH_RESULT_MOD);
    combine(n);
    for (int64_t t = 0; t < c.T; t++)
        sums[1] += bench_sum(&c, s.out + (size_t)t * s.row);
    *there = middle - start;
    *back = MPI_Wtime() - middle;
}

static void check_sums(void)
{
    MPI_Allreduce(MPI_IN_PLACE, s.sums, 2 * s.iterations, MPI_DOUBLE, MPI_SUM,
                  MPI_COMM_WORLD);
    for (int i = 0; i < s.iterations; i++) {
        double there, back;

        bench_expected(&c, R, i, &there, &back);
        if (s.sums[2 * i] != there || s.sums[2 * i + 1] != back) {
            fprintf(stderr, "alltoallv: iteration %d: sums differ\n", i);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The slowest rank's median, in microseconds. */
static double slowest(double *t)
{
    qsort(t, (size_t)s.iterations, sizeof(*t), by_value);
    double us = 1e6 * t[(s.iterations - 1) / 2];
    MPI_Allreduce(MPI_IN_PLACE, &us, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return us;
}

static void run_size(int64_t bytes)
{
    double there, back, sums[2];

    open_size(bytes);
    for (int i = 0; i < WARM; i++)
        iterate(i, &there, &back, sums);
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < s.iterations; i++) {
        iterate(i, &s.there_s[i], &s.back_s[i], &s.sums[2 * i]);
        s.total_s[i] = s.there_s[i] + s.back_s[i];
    }
    check_sums();
    const double all = slowest(s.total_s);
    there = slowest(s.there_s);
    back = slowest(s.back_s);
    if (me == 0)
        printf("{\"bench\": \"dispatch\", \"path\": \"mpi\", \"ranks\": %d, \"bytes\": %lld, "
               "\"routing\": \"%s\", \"dtype\": \"%s\", \"tokens\": %lld, \"hidden\": %lld, "
               "\"experts\": %lld, \"top_k\": %lld, \"us\": %.2f, \"dispatch_us\": %.2f, "
               "\"combine_us\": %.2f, \"gb_per_s\": %.3f}\n",
               R, (long long)bytes, c.skew ? "skewed" : "even", c.bf16 ? "bf16" : "fp32",
               (long long)c.T, (long long)c.H, (long long)c.E, (long long)c.K, all, there,
               back, 2e-3 * (double)bytes / all);
    fflush(stdout);
    close_size();
}

static int64_t size_of(char **at)
{
    int64_t n = strtoll(*at, at, 10);

    if (**at == 'K' || **at == 'M')
        n <<= *(*at)++ == 'K' ? 10 : 20;
    if (**at == ',')
        ++*at;
    return n;
}

/* SIZES HIDDEN EXPERTS TOP_K fp32|bf16 even|skewed|both */
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &R);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    if (argc != 7) {
        fprintf(stderr, "usage: alltoallv SIZES HIDDEN EXPERTS TOP_K fp32|bf16 "
                        "even|skewed|both\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    c = (struct bench_case){.H = atoll(argv[2]), .E = atoll(argv[3]), .K = atoll(argv[4]),
                            .bf16 = !strcmp(argv[5], "bf16")};
    for (int skew = 0; skew < 2; skew++) {
        char *at = argv[1];

        c.skew = skew;
        while (*at && strcmp(argv[6], skew ? "even" : "skewed") != 0)
            run_size(size_of(&at));
    }
    MPI_Finalize();
    return 0;
}
