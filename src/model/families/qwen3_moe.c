/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Qwen3-MoE: RMSNorm, grouped-query attention with a norm per head, softmax router;
 * some layers may be dense. Keys and tensor names as released and as Transformers 5
 * writes them.
 */
#include "base/json.h"
#include "model/families/common.h"

/* Layer i has experts unless listed in mlp_only_layers or skipped by
 * decoder_sparse_step. */
static int read_layers(struct slc_spec *s, const json_t *c, const char *where,
                       struct slc_err *e)
{
    const json_t *dense = json_object_get(c, "mlp_only_layers"), *v;
    int64_t step = 1;
    size_t i;

    if (slc_json_get_int(c, "decoder_sparse_step", &step, where, e) < 0 ||
        slc_json_get_int(c, "intermediate_size", &s->FD, where, e) < 0)
        return -1;
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

static int refuse_window(const json_t *c, const char *where, struct slc_err *e)
{
    bool sliding = false;
    int64_t window = 0;

    if (slc_json_get_bool(c, "use_sliding_window", &sliding, where, e) < 0 ||
        slc_json_get_int(c, "sliding_window", &window, where, e) < 0)
        return -1;
    if (sliding && window > 0)
        return slc_family_refuse(where, "use_sliding_window true",
                                 "set it to false to train with full attention", e);
    return 0;
}

static int read_qwen3_moe(struct slc_spec *s, const json_t *c, const char *where,
                          struct slc_err *e)
{
    s->aux_coef = 0.001;
    s->init_std = 0.02;
    s->norm_eps = 1e-6f;
    s->max_positions = 32768;
    s->qk_norm = SLC_QK_NORM_HEAD;
    return slc_family_read(s, c, where, e) < 0 ||
                   slc_family_read_experts(s, c, "moe_intermediate_size", where, e) <
                       0 ||
                   slc_json_get_bool(c, "norm_topk_prob", &s->renorm, where, e) < 0 ||
                   read_layers(s, c, where, e) < 0 || refuse_window(c, where, e) < 0
               ? -1
               : 0;
}

static json_t *write_qwen3_moe(const struct slc_spec *s)
{
    json_t *dense = json_array();

    for (int64_t l = 0; dense && l < s->L; l++)
        if (!s->moe[l])
            json_array_append_new(dense, json_integer(l));
    json_t *c = slc_family_extend(
        slc_family_write(s),
        json_pack("{s:b, s:i, s:I, s:I, s:I, s:o, s:b, s:b}", "attention_bias", 0,
                  "decoder_sparse_step", 1, "head_dim", (json_int_t)s->D,
                  "moe_intermediate_size", (json_int_t)s->F, "num_experts",
                  (json_int_t)s->E, "mlp_only_layers", dense, "norm_topk_prob",
                  (int)s->renorm, "use_sliding_window", 0));
    if (c && s->FD)
        json_object_set_new(c, "intermediate_size", json_integer(s->FD));
    return c;
}

static bool piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                  struct slc_hf_piece *out)
{
    return slc_family_piece(&slc_family_mlp_names, s, p, i, out);
}

const struct slc_family slc_family_qwen3_moe = {
    .model_type = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .read = read_qwen3_moe,
    .write = write_qwen3_moe,
    .piece = piece,
    .fused_piece = slc_family_fused_piece,
};
