/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_OP_OP_H
#define SLC_TESTS_OP_OP_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

/*
 * An op test is a function that uploads its inputs, runs ops and takes their outputs.
 * op_compare runs it on kernels/ref and on every other way to compute (each instruction
 * set of kernels/cpu that this machine has, 1 and 2 threads, the strict backend) and
 * compares: within the tolerance of each output with ref, bit for bit between two runs,
 * between 1 and 2 threads, and between ref and strict. With SLC_OP_BACKEND=cuda in the
 * environment that backend stands in for cpu: compared with ref, and with itself.
 * SLC_TEST_ATTENTION_MIB: memory that attention's backward may keep scores in on a GPU.
 */
struct op_dev {
    struct slc_backend *b;
    struct slc_queue *q;
    void *mem[128];
    int n;
};

/* Backend memory with a copy of `host`; NULL for NULL. */
void *op_up(struct op_dev *d, const void *host, size_t bytes);
/* Backend memory filled with a pattern, so that a byte not written is seen. */
void *op_new(struct op_dev *d, size_t bytes);

struct op_value {
    const char *name;
    enum slc_dtype dtype;
    int64_t n;
    void *data;
    double tol;   /* |x - ref| <= tol * (|ref| + max(rms(ref), floor)) */
    double floor; /* size of the terms, for outputs that cancel to almost nothing */
};
struct op_out {
    struct op_value v[24];
    int n;
};
/* Fetch n elements as an output of the test. */
void op_take(struct op_out *o, struct op_dev *d, const char *name, enum slc_dtype dtype,
             const void *dev, int64_t n, double tol);

typedef void op_test(struct op_dev *d, const void *param, struct op_out *o);
void op_compare(op_test *f, const void *param, const char *label);
/* Run on one backend ("ref"; "cpu", or what stands in for it) and return its outputs; free
 * with op_out_free. */
void op_run(const char *backend, op_test *f, const void *param, struct op_out *o);
void op_out_free(struct op_out *o);

/* Host arrays that live until the op_test that made them returns, or the process ends.
 * `key` names the array: the same key gives the same values, of mean 0 and deviation
 * `scale`. */
float *op_normal(int64_t n, uint64_t key, double scale);
/* The same values as `dtype` (fp32 or bf16). */
void *op_values(int64_t n, uint64_t key, double scale, enum slc_dtype dtype);
int32_t *op_ints(int64_t n, uint64_t key, int32_t below);
double op_get(const void *p, enum slc_dtype t, int64_t i);
double *op_doubles(const void *p, enum slc_dtype t, int64_t n);
const void *op_keep(void *p); /* remember an allocation; returns it */

/*
 * Gradient `grad` (n fp32) of f by x against central differences of f in double:
 * |grad - fd| <= tol * (|fd| + rms(fd)), at up to 200 places.
 */
typedef double op_function(const double *x, const void *ctx);
void op_check_gradient(const char *label, op_function *f, const void *ctx, double *x,
                       int64_t n, const float *grad, double tol);

/* sum of a[i] * b[i]. */
double op_dot(const double *a, const double *b, int64_t n);

#endif
