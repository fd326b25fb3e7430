/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OLMoE: queries and keys are normed over the whole projection, all heads at once;
 * after that q, k and v are clamped to +-clip_qkv where the config has it. Router
 * weights are not renormalised by default.
 */
#include "base/json.h"
#include "model/families/common.h"

static int read_clip(struct slc_spec *s, const json_t *c, const char *where,
                     struct slc_err *e)
{
    const json_t *v = json_object_get(c, "clip_qkv");
    double clip = 0;

    if (!v || json_is_null(v))
        return 0;
    if (slc_json_get_real(c, "clip_qkv", &clip, where, e) < 0)
        return -1;
    s->clip_qkv = (float)clip;
    if (!(s->clip_qkv > 0))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"clip_qkv\" is %g; it must be above 0, or null", where,
                        clip);
    return 0;
}

/* Transformers has the norms over hidden_size, and masks no window whatever the key. */
static int check_heads(const struct slc_spec *s, const json_t *c, const char *where,
                       struct slc_err *e)
{
    int64_t window;

    if (s->D * s->NQ != s->H)
        return slc_family_refuse(where, "heads that do not make up hidden_size",
                                 "remove head_dim, or choose num_attention_heads as a "
                                 "divisor of hidden_size",
                                 e);
    if (slc_family_read_window(c, &window, where, e) < 0)
        return -1;
    if (window)
        return slc_family_refuse(where, "sliding_window in an OLMoE model",
                                 "set it to null to train with full attention", e);
    return 0;
}

static int read_olmoe(struct slc_spec *s, const json_t *c, const char *where,
                      struct slc_err *e)
{
    s->aux_coef = 0.01;
    s->init_std = 0.02;
    s->norm_eps = 1e-5f;
    s->max_positions = 4096;
    s->qk_norm = SLC_QK_NORM_FULL;
    return slc_family_read(s, c, where, e) < 0 ||
                   slc_family_read_experts(s, c, "intermediate_size", where, e) < 0 ||
                   slc_json_get_bool(c, "norm_topk_prob", &s->renorm, where, e) < 0 ||
                   read_clip(s, c, where, e) < 0 || check_heads(s, c, where, e) < 0
               ? -1
               : 0;
}

static json_t *write_olmoe(const struct slc_spec *s)
{
    return slc_family_extend(
        slc_family_write(s),
        json_pack("{s:b, s:o, s:I, s:b, s:I}", "attention_bias", 0, "clip_qkv",
                  s->clip_qkv > 0 ? json_real(slc_family_shortest(s->clip_qkv))
                                  : json_null(),
                  "intermediate_size", (json_int_t)s->F, "norm_topk_prob",
                  (int)s->renorm, "num_experts", (json_int_t)s->E));
}

static bool piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                  struct slc_hf_piece *out)
{
    return slc_family_piece(&slc_family_mlp_names, s, p, i, out);
}

const struct slc_family slc_family_olmoe = {
    .model_type = "olmoe",
    .architecture = "OlmoeForCausalLM",
    .read = read_olmoe,
    .write = write_olmoe,
    .piece = piece,
    .fused_piece = slc_family_fused_piece,
};
