/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_OPTIM_OPTIM_H
#define SLC_OPTIM_OPTIM_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/group.h"
#include "model/param.h"

/*
 * AdamW over sharded state. The ranks that hold the same parameter (its replica group: all
 * ranks for dense ones, the ranks of equal index in all expert groups for experts) split
 * it into contiguous extents cut at multiples of SLC_EXTENT elements; each keeps fp32
 * master weights and both moments of its extents only, so all ranks together hold one copy.
 *
 * step: reduce-scatter the gradients in each replica group (on the CPU in the background
 * of the last backward, see slc_optim_reduce_begin), global norm, clip, update own
 * extents, all-gather the new weights. A loss or gradient norm that is not finite
 * skips the update on all ranks alike.
 *
 * low: no masters. The bf16 compute weights are the state, both moments are bf16, and
 * each is rounded at random by a function of (seed, parameter, element, update); see
 * adamw_low.
 */
#define SLC_EXTENT 1024

enum slc_schedule_kind { SLC_SCHED_COSINE, SLC_SCHED_LINEAR, SLC_SCHED_CONSTANT, SLC_SCHED_WSD };

struct slc_schedule {
    enum slc_schedule_kind kind;
    double lr, min_ratio;       /* peak; floor as a share of the peak */
    int64_t warmup, total, decay; /* steps; decay: length of the last phase of WSD */
};
/* Learning rate of step s (0-based): (s+1)/warmup of the peak while warming up, then the
 * named decay over the rest (cosine: min + (1-min)/2 (1+cos(pi t))). */
double slc_schedule_lr(const struct slc_schedule *s, int64_t step);

struct slc_optim_options {
    double beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    struct slc_group *dense;   /* replica group of dense parameters, NULL: one rank */
    struct slc_group *expert;  /* replica group of expert parameters, NULL: one rank */
    int64_t bucket;            /* elements that travel at a time; 0: chosen, 4 Mi at most */
    bool low;                  /* bf16 weights and moments, no masters */
    uint64_t seed;             /* of their rounding */
    bool host;                 /* collectives through host memory even where the backend has
                                  its own */
};

/* One extent this rank owns: elements [start, start+count) of parameter `param` (global),
 * state at element `at` of master, m, v (backend memory). */
struct slc_optim_extent {
    int param;
    int64_t start, count, at;
};

struct slc_optim;
struct slc_optim *slc_optim_create(struct slc_params *ps, const struct slc_optim_options *o,
                                   struct slc_err *e);
void slc_optim_destroy(struct slc_optim *o);
/* Set gradients to zero (start of a step). */
void slc_optim_zero_grad(struct slc_optim *o, struct slc_queue *q);
/* Master weights from the current compute weights (after init or import). */
int slc_optim_adopt_weights(struct slc_optim *o, struct slc_queue *q, struct slc_err *e);
/* Master weights from fp32 weights that lie in the gradients' memory (ps->g, laid out as
 * it), so that bf16 compute weights do not round them first. */
int slc_optim_adopt_gradients(struct slc_optim *o, struct slc_queue *q, struct slc_err *e);
/* Compute weights on all ranks from the owners' master weights (after a load). */
int slc_optim_publish_weights(struct slc_optim *o, struct slc_queue *q, struct slc_err *e);

struct slc_optim_report {
    double grad_norm;    /* global, before clipping */
    bool skipped;        /* not finite: nothing was changed */
    double reduce_s, update_s, gather_s;
};
/* The backward that follows is the last one before the step: its gradients are summed
 * over ranks in the background, each bucket from when slc_param_grad_ready completes it. Does
 * nothing where the host cannot use the memory of gradients; they are then summed by the
 * step, as without this call. */
void slc_optim_reduce_begin(struct slc_optim *o);
/* One update with learning rate lr; finite_loss false skips. update number is kept inside. */
int slc_optim_step(struct slc_optim *o, struct slc_queue *q, double lr, bool finite_loss,
                   struct slc_optim_report *r, struct slc_err *e);

/* For checkpoints: own extents, state arrays (backend memory), updates done so far. */
const struct slc_optim_extent *slc_optim_extents(const struct slc_optim *o, int *n);
/* low: the masters are the weights (NULL here), the moments bf16. */
float *slc_optim_master(struct slc_optim *o);
float *slc_optim_m(struct slc_optim *o);
float *slc_optim_v(struct slc_optim *o);
enum slc_dtype slc_optim_dtype(const struct slc_optim *o);
enum { SLC_OPTIM_WEIGHT, SLC_OPTIM_M, SLC_OPTIM_V, SLC_OPTIM_KINDS };
/* Where the kept value of element `start` (global) of a parameter lies, which is element
 * `at` of the state; of type slc_optim_dtype, backend memory. */
void *slc_optim_kept(struct slc_optim *o, int kind, int param, int64_t start, int64_t at);
void slc_optim_zero_moments(struct slc_optim *o, struct slc_queue *q);
int64_t slc_optim_updates(const struct slc_optim *o);
void slc_optim_set_updates(struct slc_optim *o, int64_t n);
/* Bytes of state of this rank (tests: the sum over ranks is one copy). */
int64_t slc_optim_bytes(const struct slc_optim *o);

#endif
