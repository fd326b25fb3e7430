/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/param.h"
#include "model/spec.h"

/* The keys of Qwen3-30B-A3B as released. */
static const char released[] =
    "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"attention_bias\":false,"
    "\"attention_dropout\":0.0,\"bos_token_id\":151643,\"decoder_sparse_step\":1,"
    "\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\","
    "\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":6144,"
    "\"max_position_embeddings\":40960,\"max_window_layers\":48,\"mlp_only_layers\":[],"
    "\"model_type\":\"qwen3_moe\",\"moe_intermediate_size\":768,\"norm_topk_prob\":"
    "true,"
    "\"num_attention_heads\":32,\"num_experts\":128,\"num_experts_per_tok\":8,"
    "\"num_hidden_layers\":48,\"num_key_value_heads\":4,\"output_router_logits\":false,"
    "\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000.0,"
    "\"router_aux_loss_coef\":0.001,\"sliding_window\":null,"
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
    "\"transformers_version\":\"4.51.0\",\"use_cache\":true,"
    "\"use_sliding_window\":false,\"vocab_size\":151936}";

/* `released` with key set to (JSON) value; value NULL: key removed. */
static char *with(const char *key, const char *value)
{
    json_t *c = json_loads(released, 0, NULL);
    char *text;

    if (value)
        json_object_set_new(c, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(c, key);
    text = json_dumps(c, 0);
    json_decref(c);
    return text;
}

static int parse_with(struct slc_spec *s, const char *key, const char *value,
                      struct slc_err *e)
{
    char *text = with(key, value);
    int rc = slc_spec_parse(s, text, "config.json", e);

    free(text);
    return rc;
}

Test(spec, reads_released_keys)
{
    struct slc_spec s;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_spec_parse(&s, released, "config.json", &e), 0, "%s", e.text);
    cr_assert_str_eq(s.family->model_type, "qwen3_moe");
    cr_assert(s.L == 48 && s.H == 2048 && s.NQ == 32 && s.NK == 4 && s.D == 128);
    cr_assert(s.V == 151936 && s.E == 128 && s.K == 8 && s.F == 768 && s.FD == 6144);
    cr_assert(s.renorm && !s.tied && s.qk_norm == SLC_QK_NORM_HEAD && s.window == 0);
    cr_assert(s.rope_theta == 1e6 && s.norm_eps == 1e-6f && s.aux_coef == 0.001);
    cr_assert(s.init_std == 0.02 && s.max_positions == 40960 && s.clip_qkv == 0);
    for (int l = 0; l < 48; l++)
        cr_assert(s.moe[l]);
}

Test(spec, reads_keys_of_transformers_5)
{
    struct slc_spec a, b;
    struct slc_err e = SLC_ERR_INIT;
    json_t *c = json_loads(released, 0, NULL);

    json_object_del(c, "num_experts");
    json_object_del(c, "rope_theta");
    json_object_del(c, "rope_scaling");
    json_object_set_new(c, "num_local_experts", json_integer(128));
    json_object_set_new(
        c, "rope_parameters",
        json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", 1e6));
    char *text = json_dumps(c, 0);
    cr_assert_eq(slc_spec_parse(&a, text, "v5", &e), 0, "%s", e.text);
    cr_assert_eq(slc_spec_parse(&b, released, "v4", &e), 0, "%s", e.text);
    cr_assert_eq(slc_spec_digest(&a), slc_spec_digest(&b));
    cr_assert(a.E == 128 && a.rope_theta == 1e6);
    free(text);
    json_decref(c);
}

Test(spec, dense_layers)
{
    struct slc_spec s, t;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(parse_with(&s, "decoder_sparse_step", "3", &e), 0, "%s", e.text);
    for (int l = 0; l < 48; l++)
        cr_assert_eq(s.moe[l], (l + 1) % 3 == 0);
    cr_assert_eq(parse_with(&s, "mlp_only_layers", "[0, 5, 99]", &e), 0, "%s", e.text);
    for (int l = 0; l < 48; l++)
        cr_assert_eq(s.moe[l], l != 0 && l != 5);
    cr_assert_eq(slc_spec_parse(&t, released, "", &e), 0);
    cr_assert_neq(slc_spec_digest(&s), slc_spec_digest(&t));
}

Test(spec, defaults)
{
    struct slc_spec s;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(parse_with(&s, "head_dim", NULL, &e), 0, "%s", e.text);
    cr_assert_eq(s.D, 64);
    cr_assert_eq(parse_with(&s, "norm_topk_prob", NULL, &e), 0, "%s", e.text);
    cr_assert_not(s.renorm, "Transformers' default is false");
}

Test(spec, text_round_trip)
{
    const char *const keys[][2] = {
        {"mlp_only_layers", "[1, 3]"},     {"tie_word_embeddings", "true"},
        {"rms_norm_eps", "1.2345678e-05"}, {"rope_theta", "12345.678"},
        {"norm_topk_prob", "false"},       {"num_experts", "127"}};
    uint64_t seen[6];

    for (int i = 0; i < 6; i++) {
        struct slc_spec s, back;
        struct slc_err e = SLC_ERR_INIT;

        cr_assert_eq(parse_with(&s, keys[i][0], keys[i][1], &e), 0, "%s", e.text);
        char *text = slc_spec_text(&s, &e);
        cr_assert_not_null(text);
        cr_assert_eq(slc_spec_parse(&back, text, "text", &e), 0, "%s", e.text);
        cr_assert_eq(memcmp(&s, &back, sizeof(s)), 0, "%s does not come back: %s",
                     keys[i][0], text);
        seen[i] = slc_spec_digest(&s);
        for (int j = 0; j < i; j++)
            cr_assert_neq(seen[i], seen[j]);
        free(text);
    }
}

Test(spec, refuses_by_name)
{
    static const struct {
        const char *key, *value;
        int code;
        const char *says;
    } cases[] = {
        {"model_type", "\"llama\"", SLC_EXIT_UNSUPPORTED, "model_type \"llama\""},
        {"model_type", NULL, SLC_EXIT_INPUT, "\"model_type\" is missing"},
        {"attention_bias", "true", SLC_EXIT_UNSUPPORTED, "attention_bias"},
        {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 4.0}", SLC_EXIT_UNSUPPORTED,
         "rope_scaling"},
        {"rope_parameters", "{\"rope_type\": \"yarn\", \"rope_theta\": 1e6}",
         SLC_EXIT_UNSUPPORTED, "rope_scaling"},
        {"hidden_act", "\"gelu\"", SLC_EXIT_UNSUPPORTED, "hidden_act"},
        {"attention_dropout", "0.1", SLC_EXIT_UNSUPPORTED, "attention_dropout"},
        {"partial_rotary_factor", "0.5", SLC_EXIT_UNSUPPORTED, "partial_rotary_factor"},
        {"quantization_config", "{}", SLC_EXIT_UNSUPPORTED, "quantization_config"},
        {"hidden_size", NULL, SLC_EXIT_INPUT, "\"hidden_size\" is missing"},
        {"hidden_size", "\"big\"", SLC_EXIT_INPUT,
         "\"hidden_size\" must be an integer"},
        {"hidden_size", "-1", SLC_EXIT_INPUT, "hidden size is -1"},
        {"num_experts", "64.5", SLC_EXIT_INPUT, "\"num_experts\""},
        {"num_experts", NULL, SLC_EXIT_INPUT, "\"num_experts\" is missing"},
        {"num_local_experts", "64", SLC_EXIT_INPUT, "differ"},
        {"num_experts_per_tok", "129", SLC_EXIT_INPUT, "experts per token is 129"},
        {"num_key_value_heads", "3", SLC_EXIT_INPUT, "no multiple"},
        {"head_dim", "127", SLC_EXIT_INPUT, "odd"},
        {"num_hidden_layers", "100000", SLC_EXIT_INPUT, "num_hidden_layers"},
        {"mlp_only_layers", "[\"a\"]", SLC_EXIT_INPUT, "mlp_only_layers"},
        {"mlp_only_layers", "3", SLC_EXIT_INPUT, "mlp_only_layers"},
        {"decoder_sparse_step", "0", SLC_EXIT_INPUT, "decoder_sparse_step"},
        {"rope_theta", NULL, SLC_EXIT_INPUT, "rope_theta"},
        {"rope_theta", "0", SLC_EXIT_INPUT, "rope_theta"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slc_spec s = {.L = 77};
        struct slc_err e = SLC_ERR_INIT;

        cr_assert_eq(parse_with(&s, cases[i].key, cases[i].value, &e), -1,
                     "%s: %s was accepted", cases[i].key, cases[i].value);
        cr_assert_eq(e.code, cases[i].code, "%s: %s", cases[i].key, e.text);
        cr_assert(strstr(e.text, cases[i].says), "%s", e.text);
        cr_assert(strstr(e.text, "config.json"), "%s", e.text);
        cr_assert_eq(s.L, 77, "the output was touched");
    }
}

Test(spec, sliding_window_only_when_used)
{
    struct slc_spec s;
    struct slc_err e = SLC_ERR_INIT;
    json_t *c = json_loads(released, 0, NULL);

    json_object_set_new(c, "sliding_window", json_integer(4096));
    char *off = json_dumps(c, 0);
    json_object_set_new(c, "use_sliding_window", json_true());
    char *on = json_dumps(c, 0);
    cr_assert_eq(slc_spec_parse(&s, off, "", &e), 0, "%s", e.text);
    cr_assert_eq(s.window, 0);
    cr_assert_eq(slc_spec_parse(&s, on, "", &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_UNSUPPORTED);
    free(off);
    free(on);
    json_decref(c);
}

Test(spec, loads_file_or_folder)
{
    struct slc_spec a, b;
    struct slc_err e = SLC_ERR_INIT;
    char dir[512], file[600];

    snprintf(dir, sizeof(dir), "%s/tests/data/golden/qwen3_moe-e5k2-released",
             getenv("top_srcdir") ? getenv("top_srcdir") : ".");
    snprintf(file, sizeof(file), "%s/config.json", dir);
    cr_assert_eq(slc_spec_load(&a, dir, &e), 0, "%s", e.text);
    cr_assert_eq(slc_spec_load(&b, file, &e), 0, "%s", e.text);
    cr_assert_eq(memcmp(&a, &b, sizeof(a)), 0);
    cr_assert_eq(a.E, 5);
    cr_assert_eq(slc_spec_load(&a, "/nonexistent", &e), -1);
    cr_assert(strstr(e.text, "/nonexistent"), "%s", e.text);
}

/* Every parameter is covered exactly once by its pieces, in both layouts, and no name
 * is used twice. */
static void check_pieces(const struct slc_spec *s, bool fused)
{
    static const struct {
        enum slc_role role;
        int ndim;
    } roles[] = {{SLC_EMBED, 2},       {SLC_ATTN_NORM, 1}, {SLC_QKV, 2},
                 {SLC_Q_NORM, 1},      {SLC_K_NORM, 1},    {SLC_ATTN_OUT, 2},
                 {SLC_MLP_NORM, 1},    {SLC_ROUTER, 2},    {SLC_EXPERT_UP, 3},
                 {SLC_EXPERT_DOWN, 3}, {SLC_DENSE_UP, 2},  {SLC_DENSE_DOWN, 2},
                 {SLC_FINAL_NORM, 1},  {SLC_HEAD, 2}};
    const int64_t q = s->NQ * s->D, k = s->NK * s->D;
    const int64_t count[] = {s->V * s->H,
                             s->H,
                             (q + 2 * k) * s->H,
                             s->D,
                             s->D,
                             s->H * q,
                             s->H,
                             s->E * s->H,
                             s->E * 2 * s->F * s->H,
                             s->E * s->H * s->F,
                             2 * s->FD * s->H,
                             s->H * s->FD,
                             s->H,
                             s->V * s->H};

    for (size_t r = 0; r < sizeof(roles) / sizeof(roles[0]); r++) {
        struct slc_param p = {.role = roles[r].role, .layer = 7, .ndim = roles[r].ndim};
        struct slc_hf_piece piece;
        int64_t covered = 0;

        p.shape[0] = roles[r].role == SLC_EXPERT_UP || roles[r].role == SLC_EXPERT_DOWN
                         ? s->E
                         : count[r];
        p.shape[1] = p.ndim > 1 ? count[r] / p.shape[0] : 0;
        p.shape[2] = p.ndim > 2 ? 1 : 0;
        if (roles[r].role == SLC_EMBED || roles[r].role == SLC_HEAD ||
            roles[r].role == SLC_FINAL_NORM)
            p.layer = -1;
        for (int64_t i = 0;; i++) {
            if (!(fused ? s->family->fused_piece : s->family->piece)(s, &p, i, &piece))
                break;
            int64_t n = 1;
            for (int d = 0; d < piece.ndim; d++)
                n *= piece.shape[d];
            cr_assert_eq(piece.offset, covered, "%s", piece.name);
            cr_assert_eq(strstr(piece.name, "layers.7.") != NULL, p.layer == 7);
            covered += n;
        }
        cr_assert_eq(covered, count[r], "role %d", roles[r].role);
    }
}

Test(spec, pieces_cover_every_parameter)
{
    struct slc_spec s;
    struct slc_err e = SLC_ERR_INIT;
    struct slc_hf_piece piece;
    struct slc_param up = {.role = SLC_EXPERT_UP, .layer = 2, .ndim = 3};

    cr_assert_eq(slc_spec_parse(&s, released, "", &e), 0, "%s", e.text);
    check_pieces(&s, false);
    check_pieces(&s, true);
    cr_assert(s.family->piece(&s, &up, 2 * 5 + 1, &piece));
    cr_assert_str_eq(piece.name, "model.layers.2.mlp.experts.5.up_proj.weight");
    cr_assert(piece.ndim == 2 && piece.shape[0] == 768 && piece.shape[1] == 2048);
    cr_assert_eq(piece.offset, (5 * 2 + 1) * 768 * 2048);
}
