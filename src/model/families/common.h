/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_FAMILIES_COMMON_H
#define SLC_MODEL_FAMILIES_COMMON_H

#include "model/param.h"
#include "model/spec.h"

/*
 * What the families' config.json and tensor names share. A family's file says what is
 * its own. `where` is the file named in messages.
 */

/* "WHERE: not supported: WHAT; REMEDY"; -1. */
int slc_family_refuse(const char *where, const char *what, const char *remedy,
                      struct slc_err *e);

/*
 * Sizes, norm, RoPE, head, token ids; every layer has experts. The caller sets the
 * defaults of init_std, max_positions, norm_eps and aux_coef before.
 * num_key_value_heads given as null is num_attention_heads; head_dim missing or null is
 * hidden_size / num_attention_heads. Refused by name: another hidden_act,
 * attention_bias, attention_dropout, RoPE that is scaled or partial, quantised weights.
 */
int slc_family_read(struct slc_spec *s, const json_t *c, const char *where,
                    struct slc_err *e);
/* Experts, experts per token, and their width from `width`, the family's key for it.
 * The number of experts is "num_experts" or "num_local_experts": Transformers reads
 * either. */
int slc_family_read_experts(struct slc_spec *s, const json_t *c, const char *width,
                            const char *where, struct slc_err *e);
/* sliding_window into *window; 0 where it is missing or null. */
int slc_family_read_window(const json_t *c, int64_t *window, const char *where,
                           struct slc_err *e);

/* What slc_family_read and read_experts read, under the keys of both Transformers 4 and
 * 5, but for the experts' number and width. NULL without memory. */
json_t *slc_family_write(const struct slc_spec *s);
/* Adds the pairs of `more` to c, taking both; NULL if either is NULL. */
json_t *slc_family_extend(json_t *c, json_t *more);
/* The decimal number with the fewest digits that is this float: 1e-06, not
 * 9.99999997e-07. */
double slc_family_shortest(float x);

/* Names of a MoE block in the released layout, below "model.layers.N.". */
struct slc_family_names {
    const char *router;           /* "mlp.gate.weight" */
    const char *experts;          /* "mlp.experts", then ".EXPERT.", then one of: */
    const char *gate, *up, *down; /* "gate_proj.weight" */
};
bool slc_family_piece(const struct slc_family_names *n, const struct slc_spec *s,
                      const struct slc_param *p, int64_t i, struct slc_hf_piece *out);
/* All experts in one tensor, as Transformers 5 holds and names them, in every family.
 */
bool slc_family_fused_piece(const struct slc_spec *s, const struct slc_param *p,
                            int64_t i, struct slc_hf_piece *out);
/* Those of Qwen3-MoE and OLMoE. */
extern const struct slc_family_names slc_family_mlp_names;

#endif
