/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Qwen3-MoE: RMSNorm, grouped-query attention with a norm per head, softmax router.
 * Keys and tensor names as released and as Transformers 5 writes them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/param.h"
#include "model/spec.h"

static int refuse(const char *where, const char *what, const char *remedy,
                  struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_UNSUPPORTED, "%s: not supported: %s; %s", where, what,
                    remedy);
}

/* Sizes of the experts carry two names: `num_experts` as released, `num_local_experts`
 * as Transformers 5 saves it. */
static int read_experts(struct slc_spec *s, const json_t *c, const char *where,
                        struct slc_err *e)
{
    int64_t local = 0;

    if (slc_json_get_int(c, "num_experts", &s->E, where, e) < 0 ||
        slc_json_get_int(c, "num_local_experts", &local, where, e) < 0)
        return -1;
    if (s->E && local && s->E != local)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"num_experts\" and \"num_local_experts\" differ", where);
    if (!s->E)
        s->E = local;
    if (s->E < 1)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"num_experts\" is missing", where);
    return slc_json_need_int(c, "num_experts_per_tok", &s->K, where, e) < 0 ||
                   slc_json_need_int(c, "moe_intermediate_size", &s->F, where, e) < 0 ||
                   slc_json_get_bool(c, "norm_topk_prob", &s->renorm, where, e) < 0 ||
                   slc_json_get_real(c, "router_aux_loss_coef", &s->aux_coef, where,
                                     e) < 0
               ? -1
               : 0;
}

/* Layer i has experts unless listed in mlp_only_layers or skipped by
 * decoder_sparse_step. */
static int read_layers(struct slc_spec *s, const json_t *c, const char *where,
                       struct slc_err *e)
{
    const json_t *dense = json_object_get(c, "mlp_only_layers"), *v;
    int64_t step = 1;
    size_t i;

    if (slc_json_need_int(c, "num_hidden_layers", &s->L, where, e) < 0 ||
        slc_json_get_int(c, "decoder_sparse_step", &step, where, e) < 0 ||
        slc_json_get_int(c, "intermediate_size", &s->FD, where, e) < 0)
        return -1;
    if (s->L < 1 || s->L > SLC_MAX_LAYERS)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"num_hidden_layers\" is %lld; it must be 1 to %d", where,
                        (long long)s->L, SLC_MAX_LAYERS);
    if (step < 1)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"decoder_sparse_step\" is below 1",
                        where);
    for (int64_t l = 0; l < s->L; l++)
        s->moe[l] = (l + 1) % step == 0;
    if (!dense || json_is_null(dense))
        return 0;
    if (!json_is_array(dense))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"mlp_only_layers\" must be a list",
                        where);
    json_array_foreach(dense, i, v)
    {
        json_int_t l = json_integer_value(v);

        if (!json_is_integer(v) || l < 0)
            return slc_errf(e, SLC_EXIT_INPUT,
                            "%s: \"mlp_only_layers\" must be a list of layer numbers",
                            where);
        if (l < s->L)
            s->moe[l] = false;
    }
    return 0;
}

/* v4: rope_theta and rope_scaling; v5: rope_parameters. Only plain RoPE. */
static int read_rope(struct slc_spec *s, const json_t *c, const char *where,
                     struct slc_err *e)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    double partial = 1;

    if (slc_json_get_real(c, "rope_theta", &s->rope_theta, where, e) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        const json_t *r = json_object_get(c, keys[i]);
        const char *type = "default", *old = NULL;

        if (!r || json_is_null(r))
            continue;
        if (!json_is_object(r))
            return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" must be an object", where,
                            keys[i]);
        if (slc_json_get_str(r, "type", &old, where, e) < 0)
            return -1;
        type = old ? old : type;
        if (slc_json_get_str(r, "rope_type", &type, where, e) < 0 ||
            slc_json_get_real(r, "rope_theta", &s->rope_theta, where, e) < 0 ||
            slc_json_get_real(r, "partial_rotary_factor", &partial, where, e) < 0)
            return -1;
        if (strcmp(type, "default"))
            return refuse(where, "rope_scaling other than \"default\"",
                          "remove it to train within the original context length", e);
    }
    if (slc_json_get_real(c, "partial_rotary_factor", &partial, where, e) < 0)
        return -1;
    if (partial != 1)
        return refuse(where, "partial_rotary_factor other than 1",
                      "use a model that rotates whole heads", e);
    if (!(s->rope_theta > 0))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"rope_theta\" is missing (or in \"rope_parameters\")",
                        where);
    return 0;
}

static int refuse_unsupported(const json_t *c, const char *where, struct slc_err *e)
{
    const char *act = "silu";
    bool bias = false, sliding = false;
    int64_t window = 0;
    double dropout = 0;

    if (slc_json_get_str(c, "hidden_act", &act, where, e) < 0 ||
        slc_json_get_bool(c, "attention_bias", &bias, where, e) < 0 ||
        slc_json_get_bool(c, "use_sliding_window", &sliding, where, e) < 0 ||
        slc_json_get_int(c, "sliding_window", &window, where, e) < 0 ||
        slc_json_get_real(c, "attention_dropout", &dropout, where, e) < 0)
        return -1;
    if (strcmp(act, "silu"))
        return refuse(where, "hidden_act other than \"silu\"", "use a SwiGLU model", e);
    if (bias)
        return refuse(where, "attention_bias true",
                      "use a model without attention biases", e);
    if (sliding && window > 0)
        return refuse(where, "use_sliding_window true",
                      "set it to false to train with full attention", e);
    if (dropout != 0)
        return refuse(where, "attention_dropout above 0", "set it to 0", e);
    if (!json_is_null(json_object_get(c, "quantization_config")) &&
        json_object_get(c, "quantization_config"))
        return refuse(where, "quantization_config", "use the unquantised weights", e);
    return 0;
}

static int read_qwen3_moe(struct slc_spec *s, const json_t *c, const char *where,
                          struct slc_err *e)
{
    double eps = 1e-6;

    s->aux_coef = 0.001;
    s->init_std = 0.02;
    s->max_positions = 32768;
    s->qk_norm = SLC_QK_NORM_HEAD;
    if (slc_json_need_int(c, "hidden_size", &s->H, where, e) < 0 ||
        slc_json_need_int(c, "vocab_size", &s->V, where, e) < 0 ||
        slc_json_need_int(c, "num_attention_heads", &s->NQ, where, e) < 0 ||
        slc_json_need_int(c, "num_key_value_heads", &s->NK, where, e) < 0 ||
        slc_json_get_int(c, "head_dim", &s->D, where, e) < 0 ||
        slc_json_get_int(c, "max_position_embeddings", &s->max_positions, where, e) <
            0 ||
        slc_json_get_real(c, "rms_norm_eps", &eps, where, e) < 0 ||
        slc_json_get_real(c, "initializer_range", &s->init_std, where, e) < 0 ||
        slc_json_get_bool(c, "tie_word_embeddings", &s->tied, where, e) < 0)
        return -1;
    s->norm_eps = (float)eps;
    if (!s->D && s->NQ > 0)
        s->D = s->H / s->NQ;
    return read_experts(s, c, where, e) < 0 || read_layers(s, c, where, e) < 0 ||
                   read_rope(s, c, where, e) < 0 || refuse_unsupported(c, where, e) < 0
               ? -1
               : 0;
}

/* The decimal number with the fewest digits that is this float: 1e-06,
 * not 9.99999997e-07. */
static double shortest(float x)
{
    char text[32];

    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            return strtod(text, NULL);
    }
    return (double)x;
}

static json_t *write_qwen3_moe(const struct slc_spec *s)
{
    json_t *dense = json_array();

    for (int64_t l = 0; dense && l < s->L; l++)
        if (!s->moe[l])
            json_array_append_new(dense, json_integer(l));
    /* Both spellings of RoPE: Transformers 4 and 5 each read their own. */
    json_t *c = json_pack(
        "{s:[s], s:s, s:b, s:f, s:i, s:I, s:s, s:I, s:f, s:I, s:o, s:I, s:b}",
        "architectures", "Qwen3MoeForCausalLM", "model_type", "qwen3_moe",
        "attention_bias", 0, "attention_dropout", 0.0, "decoder_sparse_step", 1,
        "head_dim", (json_int_t)s->D, "hidden_act", "silu", "hidden_size",
        (json_int_t)s->H, "initializer_range", s->init_std, "max_position_embeddings",
        (json_int_t)s->max_positions, "mlp_only_layers", dense, "moe_intermediate_size",
        (json_int_t)s->F, "norm_topk_prob", (int)s->renorm);
    json_t *more = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b, s:I, s:b, s:{s:s, s:f}}",
        "num_attention_heads", (json_int_t)s->NQ, "num_experts", (json_int_t)s->E,
        "num_experts_per_tok", (json_int_t)s->K, "num_hidden_layers", (json_int_t)s->L,
        "num_key_value_heads", (json_int_t)s->NK, "rms_norm_eps", shortest(s->norm_eps),
        "rope_theta", s->rope_theta, "router_aux_loss_coef", s->aux_coef,
        "tie_word_embeddings", (int)s->tied, "vocab_size", (json_int_t)s->V,
        "use_sliding_window", 0, "rope_parameters", "rope_type", "default",
        "rope_theta", s->rope_theta);
    if (c && s->FD)
        json_object_set_new(c, "intermediate_size", json_integer(s->FD));
    if (!c || !more || json_object_update(c, more) < 0) {
        json_decref(c);
        c = NULL;
    }
    json_decref(more);
    return c;
}

static bool one(struct slc_hf_piece *out, const struct slc_param *p, const char *name)
{
    if (p->layer < 0)
        snprintf(out->name, sizeof(out->name), "%s", name);
    else
        snprintf(out->name, sizeof(out->name), "model.layers.%d.%s", p->layer, name);
    return true;
}

/* The whole parameter under one name. */
static bool whole(struct slc_hf_piece *out, const struct slc_param *p, int64_t i,
                  const char *name)
{
    if (i > 0)
        return false;
    out->offset = 0;
    out->ndim = p->ndim;
    memcpy(out->shape, p->shape, sizeof(out->shape));
    return one(out, p, name);
}

static bool matrix(struct slc_hf_piece *out, const struct slc_param *p, int64_t offset,
                   int64_t rows, int64_t cols, const char *name)
{
    out->offset = offset;
    out->ndim = 2;
    out->shape[0] = rows;
    out->shape[1] = cols;
    out->shape[2] = 0;
    return one(out, p, name);
}

static bool qkv_piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                      struct slc_hf_piece *out)
{
    static const char *const names[] = {"self_attn.q_proj.weight",
                                        "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight"};
    const int64_t q = s->NQ * s->D, k = s->NK * s->D;

    if (i > 2)
        return false;
    return matrix(out, p, i == 0 ? 0 : (q + (i - 1) * k) * s->H, i == 0 ? q : k, s->H,
                  names[i]);
}

static bool expert_piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                         struct slc_hf_piece *out)
{
    char name[96];
    const bool up = p->role == SLC_EXPERT_UP;
    const int64_t expert = up ? i / 2 : i;

    if (expert >= s->E)
        return false;
    snprintf(name, sizeof(name), "mlp.experts.%lld.%s_proj.weight", (long long)expert,
             !up     ? "down"
             : i % 2 ? "up"
                     : "gate");
    return up ? matrix(out, p, i * s->F * s->H, s->F, s->H, name)
              : matrix(out, p, i * s->H * s->F, s->H, s->F, name);
}

static bool piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                  struct slc_hf_piece *out)
{
    switch (p->role) {
    case SLC_EMBED:
        return whole(out, p, i, "model.embed_tokens.weight");
    case SLC_ATTN_NORM:
        return whole(out, p, i, "input_layernorm.weight");
    case SLC_QKV:
        return qkv_piece(s, p, i, out);
    case SLC_Q_NORM:
        return whole(out, p, i, "self_attn.q_norm.weight");
    case SLC_K_NORM:
        return whole(out, p, i, "self_attn.k_norm.weight");
    case SLC_ATTN_OUT:
        return whole(out, p, i, "self_attn.o_proj.weight");
    case SLC_MLP_NORM:
        return whole(out, p, i, "post_attention_layernorm.weight");
    case SLC_ROUTER:
        return whole(out, p, i, "mlp.gate.weight");
    case SLC_EXPERT_UP:
    case SLC_EXPERT_DOWN:
        return expert_piece(s, p, i, out);
    case SLC_DENSE_UP:
        return i < 2 && matrix(out, p, i * s->FD * s->H, s->FD, s->H,
                               i ? "mlp.up_proj.weight" : "mlp.gate_proj.weight");
    case SLC_DENSE_DOWN:
        return whole(out, p, i, "mlp.down_proj.weight");
    case SLC_FINAL_NORM:
        return whole(out, p, i, "model.norm.weight");
    case SLC_HEAD:
        return whole(out, p, i, "lm_head.weight");
    }
    return false;
}

/* All experts in one tensor; everything else as released. */
static bool fused_piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                        struct slc_hf_piece *out)
{
    if (p->role == SLC_EXPERT_UP)
        return whole(out, p, i, "mlp.experts.gate_up_proj");
    if (p->role == SLC_EXPERT_DOWN)
        return whole(out, p, i, "mlp.experts.down_proj");
    return piece(s, p, i, out);
}

const struct slc_family slc_family_qwen3_moe = {
    .model_type = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .read = read_qwen3_moe,
    .write = write_qwen3_moe,
    .piece = piece,
    .fused_piece = fused_piece,
};
