/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TRAIN_PREDICT_H
#define SLC_TRAIN_PREDICT_H

#include <stdint.h>

#include "base/err.h"
#include "model/spec.h"

/*
 * A trained model for forward passes on one rank: from a Hugging Face folder, a checkpoint
 * (step-NNNNNNNN) or a run folder (its newest checkpoint).
 */
struct slc_predict;

/* max_tokens: longest sequence that will be given. */
struct slc_predict *slc_predict_open(const char *dir, const char *device, int threads,
                                     int64_t max_tokens, struct slc_err *e);
void slc_predict_close(struct slc_predict *p);
const struct slc_spec *slc_predict_spec(const struct slc_predict *p);

/*
 * One document of n ids (2 <= n <= max_tokens): loss[t] = -log p(ids[t+1] | ids[..t]) for
 * t < n-1.
 */
int slc_predict_score(struct slc_predict *p, const int32_t *ids, int64_t n, float *loss,
                      struct slc_err *e);
/* Logits [V] of the token after ids[0..n). */
int slc_predict_next(struct slc_predict *p, const int32_t *ids, int64_t n, float *logits,
                     struct slc_err *e);

#endif
