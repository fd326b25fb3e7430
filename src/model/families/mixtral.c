/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mixtral: grouped-query attention without norms, within a sliding window where the
 * config has one. Its softmax over the K chosen logits equals the softmax over all of
 * them divided by the sum of the chosen, which is what Transformers computes.
 */
#include "base/json.h"
#include "model/families/common.h"

static int read_mixtral(struct slc_spec *s, const json_t *c, const char *where,
                        struct slc_err *e)
{
    double jitter = 0;

    s->aux_coef = 0.001;
    s->init_std = 0.02;
    s->norm_eps = 1e-5f;
    s->max_positions = 131072;
    s->qk_norm = SLC_QK_NORM_NONE;
    s->renorm = true;
    if (slc_family_read(s, c, where, e) < 0 ||
        slc_family_read_experts(s, c, "intermediate_size", where, e) < 0 ||
        slc_family_read_window(c, &s->window, where, e) < 0 ||
        slc_json_get_real(c, "router_jitter_noise", &jitter, where, e) < 0)
        return -1;
    if (jitter != 0)
        return slc_family_refuse(where, "router_jitter_noise above 0", "set it to 0",
                                 e);
    return 0;
}

static json_t *write_mixtral(const struct slc_spec *s)
{
    return slc_family_extend(
        slc_family_write(s),
        json_pack("{s:I, s:I, s:I, s:o, s:f}", "head_dim", (json_int_t)s->D,
                  "intermediate_size", (json_int_t)s->F, "num_local_experts",
                  (json_int_t)s->E, "sliding_window",
                  s->window ? json_integer(s->window) : json_null(),
                  "router_jitter_noise", 0.0));
}

static bool piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                  struct slc_hf_piece *out)
{
    static const struct slc_family_names names = {
        .router = "block_sparse_moe.gate.weight",
        .experts = "block_sparse_moe.experts",
        .gate = "w1.weight",
        .up = "w3.weight",
        .down = "w2.weight",
    };

    return slc_family_piece(&names, s, p, i, out);
}

const struct slc_family slc_family_mixtral = {
    .model_type = "mixtral",
    .architecture = "MixtralForCausalLM",
    .read = read_mixtral,
    .write = write_mixtral,
    .piece = piece,
    .fused_piece = slc_family_fused_piece,
};
