/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_PARAM_H
#define SLC_MODEL_PARAM_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "model/spec.h"

/*
 * The parameter inventory: every weight once, in a fixed order (embedding, layers
 * ascending, final norm, head), with its global logical shape. Expert parameters
 * have the experts as leading dimension; expert e lives on member floor(e*ep/E) of
 * each expert group, all other parameters are on every rank.
 */
enum slc_role {
    SLC_EMBED,      /* [V, H] */
    SLC_ATTN_NORM,  /* [H] */
    SLC_QKV,        /* [(NQ+2NK)*D, H]: q, k, v projections */
    SLC_Q_NORM,     /* [D] or [NQ*D] */
    SLC_K_NORM,     /* [D] or [NK*D] */
    SLC_ATTN_OUT,   /* [H, NQ*D] */
    SLC_MLP_NORM,   /* [H] */
    SLC_ROUTER,     /* [E, H] */
    SLC_EXPERT_UP,  /* [E, 2F, H]: gate rows, then up rows */
    SLC_EXPERT_DOWN,/* [E, H, F] */
    SLC_DENSE_UP,   /* [2FD, H] */
    SLC_DENSE_DOWN, /* [H, FD] */
    SLC_FINAL_NORM, /* [H] */
    SLC_HEAD,       /* [V, H], absent when tied */
};

struct slc_param {
    char name[64];      /* "layers.3.experts.up": the dataset name in a checkpoint */
    enum slc_role role;
    int layer;          /* -1: not in a layer */
    int ndim;
    int64_t shape[3];   /* global */
    int64_t count;      /* elements, global */
    bool expert;        /* dimension 0 is split over the expert group */
    bool decay;         /* weight decay applies (not to norms) */
    double init_std;    /* normal(0, std); 0: all ones (norms) */
    /* this rank's part: elements [start, start+local) of the global array */
    int64_t start, local;
    int64_t at;         /* first element in the flat local weight array */
    enum slc_dtype grad_dtype;
    size_t grad_at;     /* first byte in the gradient memory */
};

/*
 * Gradients are fp32 and added to. NARROW: those of matrices are bf16 and are written, not
 * added to, by the one micro-batch of a step: only for a step of one micro-batch on one
 * rank in bf16. Norms, router, embedding and head stay fp32 and are added to.
 */
enum slc_grads { SLC_GRADS_NONE, SLC_GRADS_F32, SLC_GRADS_NARROW };

struct slc_params {
    struct slc_param *p;
    int n;
    int64_t local;          /* elements of the flat local arrays (padded between parameters) */
    int64_t total;          /* elements of the whole model, global */
    struct slc_backend *b;
    enum slc_dtype dtype;   /* dtype of w */
    void *w;                /* [local] compute weights, backend memory */
    float *g;               /* gradients, backend memory; NULL: no training. [local] as w
                               where all are fp32; see grad_at */
    size_t grad_bytes;      /* of g */
    size_t grad_added;      /* its first bytes: what is added to, so to be set to zero */
    int *users;             /* strict: acquires not yet released, [n]; otherwise NULL */
    /* grad_ready hook: called when the gradient of parameter i is complete for this
     * micro-batch in queue order; NULL: none. */
    void (*ready)(void *ctx, int i, struct slc_queue *q);
    void *ready_ctx;
};

/* Expert e of E lives on member floor(e*ep/E); first expert of member i: */
int64_t slc_expert_first(int64_t E, int ep, int i); /* ceil(i*E/ep) */

/* The inventory alone, for tools that stream over a model: no memory for weights (w, g and
 * b stay NULL). Released by slc_params_destroy. */
int slc_params_list(struct slc_params *ps, const struct slc_spec *s, int ep, int index,
                    struct slc_err *e);
/* Build the inventory for member `index` of an expert group of `ep` ranks and allocate
 * w (and g if training). Each parameter starts at a multiple of 64 elements. */
int slc_params_create(struct slc_params *ps, const struct slc_spec *s, int ep, int index,
                      struct slc_backend *b, enum slc_dtype dtype, enum slc_grads grads,
                      struct slc_err *e);
/* Where each gradient lies, for who lists parameters by hand (tests); sets grad_bytes. */
void slc_params_place_grads(struct slc_params *ps, enum slc_grads grads);
void slc_params_destroy(struct slc_params *ps);
/* Index of (role, layer), -1 if the model has none. */
int slc_params_find(const struct slc_params *ps, enum slc_role role, int layer);

/* Random init: element i of a parameter is a function of (seed, name, i) alone, so any
 * layout starts the same. */
int slc_params_init(struct slc_params *ps, uint64_t seed, struct slc_queue *q,
                    struct slc_err *e);

/*
 * Layers see weights through acquire / release: between them the returned pointer
 * (backend memory, local part) is valid for work enqueued on q. Resident weights return
 * at once; gathered and offloaded ones use the same calls. On the strict backend the
 * weights are poisoned outside.
 */
const void *slc_param_acquire(struct slc_params *ps, int i, struct slc_queue *q);
void slc_param_release(struct slc_params *ps, int i, struct slc_queue *q);
/* Gradient buffer of parameter i [local], fp32, to accumulate into. */
float *slc_param_grad(struct slc_params *ps, int i);
/* The same of any type: bf16 is written, fp32 added to. */
void *slc_param_grad_of(struct slc_params *ps, int i, enum slc_dtype *dtype);
void slc_param_grad_ready(struct slc_params *ps, int i, struct slc_queue *q);

#endif
