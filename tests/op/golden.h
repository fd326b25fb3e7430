/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_OP_GOLDEN_H
#define SLC_TESTS_OP_GOLDEN_H

#include "tests/op/op.h"

/* Tensors of tests/data/golden/ops.safetensors; its README says what they are. */
struct golden {
    const void *data;
    int64_t n, shape[4];
    int ndim;
};

/* Tensor "<op>.<case>.<name>"; a missing one fails the test. */
struct golden golden_get(const char *test, const char *name);
bool golden_has(const char *test, const char *name);
float golden_scalar(const char *test, const char *name);
/* Its data in backend memory. */
void *golden_up(struct op_dev *d, const char *test, const char *name);

/*
 * Run f, whose param is the case's name, on ref, cpu and strict; every output must be
 * within its tolerance (on ref: 2e-6) of the tensor with the same name.
 */
void golden_check(op_test *f, const char *test);

#endif
