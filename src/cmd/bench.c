/* SPDX-License-Identifier: Apache-2.0 */
/* sluice bench: looks up the benchmark in one table and runs it. */
#include "cmd/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "config/options.h"

static const struct benchmark {
    const char *name;
    const char *doc;
    int (*run)(int argc, char **argv);
} benchmarks[] = {
    {"gemm", "grouped products of experts, beside the dense product", slc_bench_ops},
    {"attention", "attention forward and backward, beside the dense product", slc_bench_ops},
    {"dispatch", "the token exchange between ranks, beside memcpy", slc_bench_dispatch},
    {"step", "a whole training step and each of its ops, beside the machine's limits",
     slc_bench_step},
    {"checkpoint", "save, load and verify, beside plain writes and reads and memcpy",
     slc_bench_checkpoint},
};
enum { BENCHMARKS = sizeof(benchmarks) / sizeof(*benchmarks) };

static void help(void)
{
    puts("usage: sluice bench NAME [FLAGS]\n"
         "       sluice bench NAME --help\n");
    for (int i = 0; i < BENCHMARKS; i++)
        printf("  %-12s %s\n", benchmarks[i].name, benchmarks[i].doc);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double slc_bench_median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof(*t), by_value);
    return t[(n - 1) / 2];
}

int slc_cmd_bench(int argc, char **argv)
{
    const char *known[BENCHMARKS], *name = argc > 1 ? argv[1] : "";

    if (!strcmp(name, "--help")) {
        help();
        return SLC_EXIT_OK;
    }
    for (int i = 0; i < BENCHMARKS; i++) {
        if (!strcmp(benchmarks[i].name, name))
            return benchmarks[i].run(argc - 1, argv + 1);
        known[i] = benchmarks[i].name;
    }
    const char *near = slc_nearest(name, known, BENCHMARKS);
    if (near)
        fprintf(stderr, "sluice: bench: unknown benchmark %s; did you mean %s?\n", name,
                near);
    else
        fprintf(stderr, "sluice: bench: give a benchmark; sluice bench --help lists them\n");
    return SLC_EXIT_CONFIG;
}
