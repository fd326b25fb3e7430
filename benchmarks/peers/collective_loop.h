/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop that both sides of benchmarks/collectives run. Each iteration produces new
 * values in the whole buffer, waits for all ranks, runs the collective and adds up what
 * came out, so that no side works on buffers that nobody wrote or reads. Only the
 * collective is timed: from the first rank that begins to the last that is done (the
 * ranks are processes of one machine, with one clock).
 */
#ifndef COLLECTIVE_LOOP_H
#define COLLECTIVE_LOOP_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum collective { REDUCE_SCATTER, ALLGATHER, ALLREDUCE, COLLECTIVES };
static const char *const collective_names[] = {"reduce_scatter", "allgather", "allreduce"};

struct side {
    int rank, size;
    void (*barrier)(void);
    /* On buf [n] floats, equal shares of n / size. Returns where the result is: the own
     * share of a reduce_scatter, all n otherwise. */
    const float *(*run)(enum collective what, float *buf, size_t n);
    /* all [size][k] from each rank's mine [k] */
    void (*collect)(const double *mine, double *all, int k);
};

static double clock_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Small whole numbers: sums are exact in any order of additions. */
static float produced(int rank, int turn, size_t j)
{
    return (float)((int)(j % 61) + 3 * rank + turn % 7);
}

static float expected(const struct side *s, enum collective what, int turn, size_t j,
                      size_t share)
{
    float sum = 0;

    if (what == ALLGATHER)
        return produced((int)(j / share), turn, j);
    for (int r = 0; r < s->size; r++)
        sum += produced(r, turn, j);
    return sum;
}

static void check(const struct side *s, enum collective what, int turn,
                  const float *out, size_t n)
{
    size_t share = n / (size_t)s->size, from = 0, to = n;
    double sum = 0;

    if (what == REDUCE_SCATTER) {
        from = share * (size_t)s->rank;
        to = from + share;
    }
    for (size_t j = from; j < to; j++)
        sum += out[j - from];
    for (size_t j = from; j < to; j += 1 + (to - from) / 97)
        if (out[j - from] != expected(s, what, turn, j, share)) {
            fprintf(stderr, "%s: element %zu is %g\n", collective_names[what], j,
                    out[j - from]);
            exit(1);
        }
    if (!(sum > 0))
        exit(1);
}

/* Prints "NAME BYTES SECONDS": the median over `turns`; rank 0. */
static void measure(const struct side *s, enum collective what, size_t bytes, int turns,
                    float *buf)
{
    size_t n = bytes / sizeof(float) / (size_t)s->size * (size_t)s->size;
    double *mine = calloc(2 * (size_t)turns, sizeof(*mine));
    double *all = calloc(2 * (size_t)turns * (size_t)s->size, sizeof(*all));
    double *took = calloc((size_t)turns, sizeof(*took));

    for (int t = -2; t < turns; t++) {
        for (size_t j = 0; j < n; j++)
            buf[j] = produced(s->rank, t + 2, j);
        s->barrier();
        double start = clock_now();
        const float *out = s->run(what, buf, n);
        double end = clock_now();
        check(s, what, t + 2, out, n);
        if (t >= 0) {
            mine[2 * t] = start;
            mine[2 * t + 1] = end;
        }
    }
    s->collect(mine, all, 2 * turns);
    for (int t = 0; t < turns; t++) {
        double first = INFINITY, last = 0;

        for (int r = 0; r < s->size; r++) {
            first = fmin(first, all[2 * turns * r + 2 * t]);
            last = fmax(last, all[2 * turns * r + 2 * t + 1]);
        }
        took[t] = last - first;
    }
    qsort(took, (size_t)turns, sizeof(*took), ascending);
    if (s->rank == 0)
        printf("%s %zu %.9f\n", collective_names[what], bytes, took[turns / 2]);
    fflush(stdout);
    free(took);
    free(all);
    free(mine);
}

/* Arguments: BYTES of the whole buffer on each rank ... */
static void measure_all(const struct side *s, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        size_t bytes = strtoul(argv[i], NULL, 10);
        int turns = bytes >= (16u << 20) ? 9 : bytes >= (1u << 20) ? 31 : 101;
        float *buf = aligned_alloc(64, (bytes + 63) / 64 * 64);

        if (!buf)
            exit(1);
        for (int what = 0; what < COLLECTIVES; what++)
            measure(s, (enum collective)what, bytes, turns, buf);
        free(buf);
    }
}

#endif
