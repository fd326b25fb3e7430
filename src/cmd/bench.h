/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_BENCH_H
#define SLC_CMD_BENCH_H

/*
 * The benchmarks of `sluice bench NAME`: one file each, one line of the table in bench.c.
 * Like a command, each gets argv from its own name on and returns an exit code. Each
 * prints one JSON line a figure: the rate, the limit measured in the same run, the share.
 */
int slc_bench_ops(int argc, char **argv); /* gemm and attention */
int slc_bench_dispatch(int argc, char **argv);
int slc_bench_step(int argc, char **argv);
int slc_bench_checkpoint(int argc, char **argv);

/* Sorts t; the middle one, of an even number the lower of the two. */
double slc_bench_median(double *t, int n);

#endif
