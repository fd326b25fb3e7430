/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_PARITY_GOLDEN_H
#define SLC_TESTS_PARITY_GOLDEN_H

#include <jansson.h>

#include "backend/backend.h"
#include "model/batch.h"
#include "model/model.h"
#include "store/safetensors.h"

/*
 * A case of tests/data/golden loaded into a model: see tests/data/README.md. Errors of
 * the harness itself fail the test.
 */
struct golden {
    char dir[512];
    json_t *c; /* case.json */
    struct slc_spec spec;
    struct slc_backend *backend;
    struct slc_queue *q;
    struct slc_params params;
    struct slc_model *model;
    struct slc_model_options o;
    struct slc_batch batch;
    struct slc_loss_weights w;
};

/* Weights, model and batch of case `name`. o: what the model is created with; backend,
 * rows, S, training are filled here. */
void golden_open(struct golden *g, const char *name, const char *backend,
                 const struct slc_model_options *o);
void golden_close(struct golden *g);

/* Batch from {"ids", "documents", "targets"}; w from it too. */
void golden_batch(struct slc_batch *b, struct slc_loss_weights *w, const json_t *c);
void golden_batch_free(struct slc_batch *b);

/* The backend that stands beside ref: cpu, or the one that SLC_OP_BACKEND names, as in
 * tests/op. */
const char *golden_backend(void);

double golden_number(const json_t *c, const char *a, const char *b); /* c[a][b] */

/* All gradients on the host, as laid out in params.g; caller frees. */
float *golden_grads(struct golden *g);
void golden_zero_grad(struct golden *g);

#endif
