/* SPDX-License-Identifier: Apache-2.0 */
/* Each family's config.json, as released and as Transformers 5 writes it, and its
 * names. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/param.h"
#include "model/spec.h"

/* The keys of Mixtral-8x7B-v0.1 as released. */
static const char mixtral[] =
    "{\"architectures\":[\"MixtralForCausalLM\"],\"attention_dropout\":0.0,"
    "\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":"
    "4096,"
    "\"initializer_range\":0.02,\"intermediate_size\":14336,"
    "\"max_position_embeddings\":32768,\"model_type\":\"mixtral\","
    "\"num_attention_heads\":32,\"num_experts_per_tok\":2,\"num_hidden_layers\":32,"
    "\"num_key_value_heads\":8,\"num_local_experts\":8,\"output_router_logits\":false,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,\"router_aux_loss_coef\":0.02,"
    "\"sliding_window\":null,\"tie_word_embeddings\":false,\"torch_dtype\":"
    "\"bfloat16\","
    "\"transformers_version\":\"4.36.0.dev0\",\"use_cache\":true,\"vocab_size\":32000}";

/* The keys of OLMoE-1B-7B-0125-Instruct as released. */
static const char olmoe[] =
    "{\"_name_or_path\":\"allenai/open_instruct_dev\",\"architectures\":"
    "[\"OlmoeForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"clip_qkv\":null,\"eos_token_id\":50279,\"hidden_act\":\"silu\","
    "\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":1024,"
    "\"max_position_embeddings\":4096,\"model_type\":\"olmoe\",\"norm_topk_prob\":"
    "false,"
    "\"num_attention_heads\":16,\"num_experts\":64,\"num_experts_per_tok\":8,"
    "\"num_hidden_layers\":16,\"num_key_value_heads\":16,\"output_router_logits\":"
    "false,"
    "\"pad_token_id\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,"
    "\"rope_theta\":10000.0,\"router_aux_loss_coef\":0.01,\"tie_word_embeddings\":"
    "false,"
    "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.47.1\","
    "\"use_cache\":false,\"vocab_size\":50304}";

/* `base` with `key` set to the JSON text `value`; value NULL: removed. */
static int parse_with(struct slc_spec *s, const char *base, const char *key,
                      const char *value, struct slc_err *e)
{
    json_t *c = json_loads(base, 0, NULL);

    if (value)
        json_object_set_new(c, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(c, key);
    char *text = json_dumps(c, 0);
    int rc = slc_spec_parse(s, text, "config.json", e);
    free(text);
    json_decref(c);
    return rc;
}

static void parse(struct slc_spec *s, const char *text)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_spec_parse(s, text, "config.json", &e), 0, "%s", e.text);
}

static int64_t parameters(const struct slc_spec *s)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_params ps;

    cr_assert_eq(slc_params_list(&ps, s, 1, 0, &e), 0, "%s", e.text);
    const int64_t n = ps.total;
    slc_params_destroy(&ps);
    return n;
}

Test(families, mixtral_as_released)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_spec s;

    parse(&s, mixtral);
    cr_assert_str_eq(s.family->model_type, "mixtral");
    cr_assert(s.L == 32 && s.H == 4096 && s.NQ == 32 && s.NK == 8 && s.D == 128);
    cr_assert(s.V == 32000 && s.E == 8 && s.K == 2 && s.F == 14336);
    cr_assert(s.renorm && !s.tied && s.qk_norm == SLC_QK_NORM_NONE);
    cr_assert(s.window == 0 && s.clip_qkv == 0 && s.max_positions == 32768);
    cr_assert(s.rope_theta == 1e6 && s.norm_eps == 1e-5f && s.aux_coef == 0.02);
    cr_assert_eq(parameters(&s), 46702792704, "the published model has 46.7 billion");
    cr_assert_eq(parse_with(&s, mixtral, "sliding_window", "4096", &e), 0, "%s",
                 e.text);
    cr_assert_eq(s.window, 4096);
    cr_assert_eq(parse_with(&s, mixtral, "head_dim", "64", &e), 0, "%s", e.text);
    cr_assert_eq(s.D, 64);
    cr_assert_eq(parse_with(&s, mixtral, "num_key_value_heads", "null", &e), 0);
    cr_assert_eq(s.NK, 32, "Transformers: null is num_attention_heads");
}

Test(families, mixtral_8x22b_as_released)
{
    static const char *const keys[][2] = {
        {"hidden_size", "6144"},          {"intermediate_size", "16384"},
        {"num_hidden_layers", "56"},      {"num_attention_heads", "48"},
        {"rope_theta", "1000000"},        {"max_position_embeddings", "65536"},
        {"router_aux_loss_coef", "0.001"}};
    json_t *c = json_loads(mixtral, 0, NULL);
    struct slc_spec s;

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        json_object_set_new(c, keys[i][0],
                            json_loads(keys[i][1], JSON_DECODE_ANY, NULL));
    char *text = json_dumps(c, 0);
    parse(&s, text);
    cr_assert(s.D == 128 && s.rope_theta == 1e6);
    cr_assert_eq(parameters(&s), 140620634112, "the published model has 141 billion");
    free(text);
    json_decref(c);
}

Test(families, olmoe_as_released)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_spec s;

    parse(&s, olmoe);
    cr_assert_str_eq(s.family->model_type, "olmoe");
    cr_assert(s.L == 16 && s.H == 2048 && s.NQ == 16 && s.NK == 16 && s.D == 128);
    cr_assert(s.V == 50304 && s.E == 64 && s.K == 8 && s.F == 1024);
    cr_assert(!s.renorm && !s.tied && s.qk_norm == SLC_QK_NORM_FULL);
    cr_assert(s.window == 0 && s.clip_qkv == 0 && s.max_positions == 4096);
    cr_assert(s.rope_theta == 1e4 && s.norm_eps == 1e-5f && s.aux_coef == 0.01);
    cr_assert_eq(parameters(&s), 6919161856, "the published model has 6.9 billion");
    cr_assert_eq(parse_with(&s, olmoe, "clip_qkv", "8", &e), 0, "%s", e.text);
    cr_assert_eq(s.clip_qkv, 8);
    cr_assert_eq(parse_with(&s, olmoe, "norm_topk_prob", "true", &e), 0, "%s", e.text);
    cr_assert(s.renorm);
    cr_assert_eq(parse_with(&s, olmoe, "head_dim", "128", &e), 0, "%s", e.text);
}

/* What Transformers 4 and 5 write for the same model reads the same. */
Test(families, both_spellings)
{
    static const char *const released[] = {mixtral, olmoe};

    for (int i = 0; i < 2; i++) {
        json_t *c = json_loads(released[i], 0, NULL);
        struct slc_spec a, b;

        parse(&a, released[i]);
        json_object_set_new(c, "rope_parameters",
                            json_pack("{s:s, s:f}", "rope_type", "default",
                                      "rope_theta", a.rope_theta));
        json_object_del(c, "rope_theta");
        json_object_del(c, "rope_scaling");
        json_object_del(c, i ? "num_experts" : "num_local_experts");
        json_object_set_new(c, i ? "num_local_experts" : "num_experts",
                            json_integer(a.E));
        char *text = json_dumps(c, 0);
        parse(&b, text);
        cr_assert_eq(memcmp(&a, &b, sizeof(a)), 0, "%s", text);
        free(text);
        json_decref(c);
    }
}

Test(families, text_round_trip)
{
    static const struct {
        const char *base, *key, *value;
    } cases[] = {{mixtral, "sliding_window", "null"},
                 {mixtral, "sliding_window", "4096"},
                 {mixtral, "head_dim", "96"},
                 {mixtral, "rope_theta", "12345.678"},
                 {mixtral, "tie_word_embeddings", "true"},
                 {mixtral, "num_local_experts", "7"},
                 {olmoe, "clip_qkv", "null"},
                 {olmoe, "clip_qkv", "0.7"},
                 {olmoe, "norm_topk_prob", "true"},
                 {olmoe, "rms_norm_eps", "1.2345678e-05"},
                 {olmoe, "num_key_value_heads", "1"},
                 {olmoe, "num_experts", "63"}};
    enum { N = sizeof(cases) / sizeof(cases[0]) };
    uint64_t seen[N];

    for (int i = 0; i < N; i++) {
        struct slc_err e = SLC_ERR_INIT;
        struct slc_spec s, back;

        cr_assert_eq(parse_with(&s, cases[i].base, cases[i].key, cases[i].value, &e), 0,
                     "%s", e.text);
        char *text = slc_spec_text(&s, &e);
        cr_assert_not_null(text);
        parse(&back, text);
        cr_assert_eq(memcmp(&s, &back, sizeof(s)), 0, "%s %s does not come back: %s",
                     cases[i].key, cases[i].value, text);
        seen[i] = slc_spec_digest(&s);
        for (int j = 0; j < i; j++)
            cr_assert_neq(seen[i], seen[j], "%s %s", cases[i].key, cases[i].value);
        free(text);
    }
}

/* Ids of the vocabulary come back as they were; none is written as null, never left
 * out: to Transformers a missing key means the family's own default. */
Test(families, token_ids_come_back)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_spec s;

    cr_assert_eq(parse_with(&s, olmoe, "eos_token_id", "[3, 50279]", &e), 0, "%s",
                 e.text);
    char *text = slc_spec_text(&s, &e);
    json_t *c = json_loads(text, 0, NULL);
    const json_t *eos = json_object_get(c, "eos_token_id");
    cr_assert_eq(json_array_size(eos), 2);
    cr_assert_eq(json_integer_value(json_array_get(eos, 1)), 50279);
    cr_assert_eq(json_integer_value(json_object_get(c, "pad_token_id")), 1);
    cr_assert(json_is_null(json_object_get(c, "bos_token_id")));
    free(text);
    json_decref(c);
    cr_assert_eq(parse_with(&s, olmoe, "eos_token_id", "\"</s>\"", &e), -1);
    cr_assert(strstr(e.text, "eos_token_id"), "%s", e.text);
}

Test(families, refuse_by_name)
{
    static const struct {
        const char *base, *key, *value;
        int code;
        const char *says;
    } cases[] = {
        {mixtral, "attention_bias", "true", SLC_EXIT_UNSUPPORTED, "attention_bias"},
        {mixtral, "hidden_act", "\"gelu\"", SLC_EXIT_UNSUPPORTED, "hidden_act"},
        {mixtral, "attention_dropout", "0.1", SLC_EXIT_UNSUPPORTED,
         "attention_dropout"},
        {mixtral, "router_jitter_noise", "0.01", SLC_EXIT_UNSUPPORTED,
         "router_jitter_noise"},
        {mixtral, "rope_scaling", "{\"type\": \"linear\", \"factor\": 2.0}",
         SLC_EXIT_UNSUPPORTED, "rope_scaling"},
        {mixtral, "rope_parameters", "{\"rope_type\": \"yarn\", \"rope_theta\": 1e6}",
         SLC_EXIT_UNSUPPORTED, "rope_scaling"},
        {mixtral, "quantization_config", "{\"quant_method\": \"awq\"}",
         SLC_EXIT_UNSUPPORTED, "quantization_config"},
        {mixtral, "sliding_window", "0", SLC_EXIT_INPUT, "\"sliding_window\" is 0"},
        {mixtral, "sliding_window", "\"all\"", SLC_EXIT_INPUT, "\"sliding_window\""},
        {mixtral, "intermediate_size", NULL, SLC_EXIT_INPUT, "\"intermediate_size\""},
        {mixtral, "num_local_experts", NULL, SLC_EXIT_INPUT, "\"num_experts\""},
        {mixtral, "num_experts", "9", SLC_EXIT_INPUT, "differ"},
        {mixtral, "num_key_value_heads", NULL, SLC_EXIT_INPUT, "num_key_value_heads"},
        {mixtral, "num_key_value_heads", "5", SLC_EXIT_INPUT, "no multiple"},
        {mixtral, "num_experts_per_tok", "9", SLC_EXIT_INPUT, "experts per token is 9"},
        {mixtral, "rope_theta", NULL, SLC_EXIT_INPUT, "rope_theta"},
        {olmoe, "attention_bias", "true", SLC_EXIT_UNSUPPORTED, "attention_bias"},
        {olmoe, "hidden_act", "\"relu\"", SLC_EXIT_UNSUPPORTED, "hidden_act"},
        {olmoe, "rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 2.0}",
         SLC_EXIT_UNSUPPORTED, "rope_scaling"},
        {olmoe, "head_dim", "64", SLC_EXIT_UNSUPPORTED, "hidden_size"},
        {olmoe, "num_attention_heads", "48", SLC_EXIT_UNSUPPORTED, "hidden_size"},
        {olmoe, "sliding_window", "4096", SLC_EXIT_UNSUPPORTED, "sliding_window"},
        {olmoe, "clip_qkv", "0", SLC_EXIT_INPUT, "\"clip_qkv\" is 0"},
        {olmoe, "clip_qkv", "-8.0", SLC_EXIT_INPUT, "\"clip_qkv\" is -8"},
        {olmoe, "clip_qkv", "\"8\"", SLC_EXIT_INPUT, "\"clip_qkv\""},
        {olmoe, "intermediate_size", "0", SLC_EXIT_INPUT, "expert width is 0"},
        {olmoe, "num_experts", "0", SLC_EXIT_INPUT, "\"num_experts\""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slc_err e = SLC_ERR_INIT;
        struct slc_spec s;

        cr_assert_eq(parse_with(&s, cases[i].base, cases[i].key, cases[i].value, &e),
                     -1, "%s: %s was accepted", cases[i].key, cases[i].value);
        cr_assert_eq(e.code, cases[i].code, "%s: %s", cases[i].key, e.text);
        cr_assert(strstr(e.text, cases[i].says), "%s", e.text);
        cr_assert(strstr(e.text, "config.json") && !strchr(e.text, '\n'), "%s", e.text);
    }
}

/* -- names -------------------------------------------------------------------- */

/* Pieces cover each parameter exactly once, under names that are used once. */
static void check_pieces(const struct slc_spec *s, bool fused)
{
    struct slc_err e = SLC_ERR_INIT;
    json_t *names = json_object();
    struct slc_params ps;

    cr_assert_eq(slc_params_list(&ps, s, 1, 0, &e), 0, "%s", e.text);
    for (int p = 0; p < ps.n; p++) {
        struct slc_hf_piece piece;
        int64_t at = 0;

        for (int64_t i = 0; (fused ? s->family->fused_piece
                                   : s->family->piece)(s, &ps.p[p], i, &piece);
             i++) {
            int64_t n = 1;

            for (int d = 0; d < piece.ndim; d++)
                n *= piece.shape[d];
            cr_assert_eq(piece.offset, at, "%s", piece.name);
            cr_assert_null(json_object_get(names, piece.name), "%s twice", piece.name);
            json_object_set_new(names, piece.name, json_true());
            at += n;
        }
        cr_assert_eq(at, ps.p[p].count, "%s", ps.p[p].name);
    }
    slc_params_destroy(&ps);
    json_decref(names);
}

static void check_name(const struct slc_spec *s, enum slc_role role, int64_t i,
                       bool fused, const char *want)
{
    struct slc_param p = {.role = role, .layer = 3, .ndim = 1, .shape = {1}};
    struct slc_hf_piece piece;

    cr_assert((fused ? s->family->fused_piece : s->family->piece)(s, &p, i, &piece));
    cr_assert_str_eq(piece.name, want);
}

Test(families, names_of_mixtral)
{
    struct slc_spec s;

    parse(&s, mixtral);
    check_pieces(&s, false);
    check_pieces(&s, true);
    check_name(&s, SLC_ROUTER, 0, false, "model.layers.3.block_sparse_moe.gate.weight");
    check_name(&s, SLC_EXPERT_UP, 10, false,
               "model.layers.3.block_sparse_moe.experts.5.w1.weight");
    check_name(&s, SLC_EXPERT_UP, 11, false,
               "model.layers.3.block_sparse_moe.experts.5.w3.weight");
    check_name(&s, SLC_EXPERT_DOWN, 5, false,
               "model.layers.3.block_sparse_moe.experts.5.w2.weight");
    check_name(&s, SLC_ROUTER, 0, true, "model.layers.3.mlp.gate.weight");
    check_name(&s, SLC_EXPERT_UP, 0, true, "model.layers.3.mlp.experts.gate_up_proj");
}

Test(families, names_of_olmoe)
{
    struct slc_spec s;

    parse(&s, olmoe);
    check_pieces(&s, false);
    check_pieces(&s, true);
    check_name(&s, SLC_Q_NORM, 0, false, "model.layers.3.self_attn.q_norm.weight");
    check_name(&s, SLC_ROUTER, 0, false, "model.layers.3.mlp.gate.weight");
    check_name(&s, SLC_EXPERT_UP, 11, false,
               "model.layers.3.mlp.experts.5.up_proj.weight");
    check_name(&s, SLC_EXPERT_DOWN, 0, true, "model.layers.3.mlp.experts.down_proj");
}
