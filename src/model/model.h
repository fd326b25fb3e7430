/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_MODEL_H
#define SLC_MODEL_MODEL_H

#include <stdbool.h>

#include "backend/backend.h"
#include "base/arena.h"
#include "comm/group.h"
#include "model/batch.h"
#include "model/param.h"

/*
 * A decoder: forward and hand-written backward over one micro-batch. All memory is
 * carved at create; a step allocates nothing.
 */
struct slc_model;

enum slc_aux_scope { SLC_AUX_NONE, SLC_AUX_MICRO, SLC_AUX_SEQUENCE };

struct slc_model_options {
    struct slc_backend *backend;
    struct slc_queue *queue;    /* the model's work runs here, in one order with whatever
                                   else the caller does to weights and gradients; NULL: a
                                   queue of its own, and the caller makes that order */
    struct slc_group *experts;  /* expert group, NULL: ep = 1 */
    struct slc_group *all;      /* all ranks (pool of the `micro` auxiliary loss), NULL: one */
    int64_t rows, S;            /* micro-batch shape; T = rows * S */
    enum slc_dtype dtype;       /* compute dtype */
    bool training;              /* keep activations, make gradients */
    bool recompute;             /* keep only layer inputs, run the layer again in backward */
    enum slc_aux_scope aux_scope;
    double aux_coef, z_coef;
    double window_factor;       /* 1.25: dispatch window rows over the expected */
    int64_t window_rows;        /* > 0: force this many rows (tests) */
    int force_far;              /* exchange by put even to near peers */
    int64_t loss_chunk;         /* rows of logits at a time; 0: chosen */
    int64_t results;            /* forwards whose results can wait to be read together; 0:
                                   one. With scope `sequence` always one */
    bool timing;                /* wait for the device after each phase: the seconds of the
                                   counters are then those of the work */
    int64_t max_documents;      /* most documents in a micro-batch (statistics of scope
                                   `sequence`); 0: one for every token */
};

struct slc_model *slc_model_create(const struct slc_spec *s, struct slc_params *ps,
                                   const struct slc_model_options *o, struct slc_err *e);
void slc_model_destroy(struct slc_model *m);
/* The queue of all its work: what sets gradients to zero or reads them belongs on it. */
struct slc_queue *slc_model_queue(const struct slc_model *m);
/* Regions of activation memory by name, for the memory table. */
const struct slc_arena *slc_model_memory(const struct slc_model *m);

/* Weights of the terms of L for this micro-batch; see architecture, "Loss". */
struct slc_loss_weights {
    double targets;   /* N: unmasked targets in the whole optimizer step, all ranks */
    double tokens;    /* routed tokens in the whole optimizer step, all ranks */
    double micro_tokens; /* routed tokens in this micro-batch, all ranks */
    double sequences; /* documents in the whole optimizer step, all ranks */
};
struct slc_model_result {
    double loss_sum; /* sum of unmasked token losses of this rank and micro-batch */
    double aux, z;   /* this rank's share of the weighted auxiliary terms of L */
};

/*
 * Forward of one micro-batch of exactly rows x S tokens. token_loss (host [T], NULL: not
 * wanted) gets each token's loss (0 where masked). With w, a training model keeps what
 * backward needs and adds the gradient by the head's weights here already, while a chunk
 * of logits is there; backward must follow, or the gradients be set to zero. Without
 * w (NULL) it only evaluates: no gradient, no auxiliary loss, no call to `all`.
 * out NULL: nothing is read yet and the device is not waited for; slc_model_results does
 * that, after the backward and at the latest after `results` forwards.
 * forced_ids (host int32 [L_moe, T, K], NULL: route freely): tests only.
 */
int slc_model_forward(struct slc_model *m, const struct slc_batch *b,
                      const struct slc_loss_weights *w, const int32_t *forced_ids,
                      float *token_loss, struct slc_model_result *out, struct slc_err *e);
/* Backward of the last forward: adds dL/dparameter to the gradients, calls grad_ready. */
int slc_model_backward(struct slc_model *m, struct slc_err *e);

/* The sums over all forwards that were given no `out` since the last call: one read. */
int slc_model_results(struct slc_model *m, struct slc_model_result *out, struct slc_err *e);
/* No room for another forward's results. */
bool slc_model_results_full(const struct slc_model *m);

/* Logits of position t of the last forward (training or not), host [V]. */
int slc_model_logits(struct slc_model *m, int64_t t, float *logits, struct slc_err *e);

/* Tokens per expert of each MoE layer as seen by this rank's own tokens, int64 [L_moe][E],
 * host. Adds up over all forwards since create, on a training model those with w only;
 * slc_model_counters does not reset it. */
const int64_t *slc_model_load(const struct slc_model *m, int *n_moe_layers);
/* Router ids of MoE layer i of the last forward, host int32 [T,K]. */
int slc_model_router_ids(struct slc_model *m, int i, int32_t *ids, struct slc_err *e);

struct slc_model_counters {
    unsigned long long rounds;      /* dispatch rounds */
    unsigned long long near_bytes, far_bytes; /* exchanged by this rank */
    unsigned long long dropped;     /* always 0 */
    double seconds_attention, seconds_router, seconds_exchange, seconds_experts,
        seconds_dense, seconds_head; /* host time by part, waits included */
    double seconds_wait; /* the part of seconds_exchange spent waiting for peers */
};
void slc_model_counters(struct slc_model *m, struct slc_model_counters *c, bool reset);

#endif
