/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of config.json that all families have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/families/common.h"

int slc_family_refuse(const char *where, const char *what, const char *remedy,
                      struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_UNSUPPORTED, "%s: not supported: %s; %s", where, what,
                    remedy);
}

/* -- in ------------------------------------------------------------------------ */

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
            return slc_family_refuse(
                where, "rope_scaling other than \"default\"",
                "remove it to train within the original context length", e);
    }
    if (slc_json_get_real(c, "partial_rotary_factor", &partial, where, e) < 0)
        return -1;
    if (partial != 1)
        return slc_family_refuse(where, "partial_rotary_factor other than 1",
                                 "use a model that rotates whole heads", e);
    if (!(s->rope_theta > 0))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"rope_theta\" is missing (or in \"rope_parameters\")",
                        where);
    return 0;
}

static int refuse_unsupported(const json_t *c, const char *where, struct slc_err *e)
{
    const json_t *quantised = json_object_get(c, "quantization_config");
    const char *act = "silu";
    bool bias = false;
    double dropout = 0;

    if (slc_json_get_str(c, "hidden_act", &act, where, e) < 0 ||
        slc_json_get_bool(c, "attention_bias", &bias, where, e) < 0 ||
        slc_json_get_real(c, "attention_dropout", &dropout, where, e) < 0)
        return -1;
    if (strcmp(act, "silu"))
        return slc_family_refuse(where, "hidden_act other than \"silu\"",
                                 "use a SwiGLU model", e);
    if (bias)
        return slc_family_refuse(where, "attention_bias true",
                                 "use a model without attention biases", e);
    if (dropout != 0)
        return slc_family_refuse(where, "attention_dropout above 0", "set it to 0", e);
    if (quantised && !json_is_null(quantised))
        return slc_family_refuse(where, "quantization_config",
                                 "use the unquantised weights", e);
    return 0;
}

/* One id, or (end of text) a list of them; none where the key is missing or null. */
static int read_ids(const json_t *c, const char *key, int64_t *ids, int max, int *n,
                    const char *where, struct slc_err *e)
{
    const json_t *v = json_object_get(c, key);
    const bool list = json_is_array(v);
    const size_t count = list ? json_array_size(v) : v && !json_is_null(v);

    *n = 0;
    if (count > (size_t)max)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" has %zu ids; at most %d", where,
                        key, count, max);
    for (size_t i = 0; i < count; i++) {
        const json_t *id = list ? json_array_get(v, i) : v;

        if (!json_is_integer(id))
            return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" must be a token id", where,
                            key);
        ids[(*n)++] = json_integer_value(id);
    }
    return 0;
}

static int read_token_ids(struct slc_spec *s, const json_t *c, const char *where,
                          struct slc_err *e)
{
    struct slc_token_ids *t = &s->tokens;

    return read_ids(c, "bos_token_id", &t->bos, 1, &t->n_bos, where, e) < 0 ||
                   read_ids(c, "pad_token_id", &t->pad, 1, &t->n_pad, where, e) < 0 ||
                   read_ids(c, "eos_token_id", t->eos, SLC_MAX_EOS, &t->n_eos, where,
                            e) < 0
               ? -1
               : 0;
}

static int read_heads(struct slc_spec *s, const json_t *c, const char *where,
                      struct slc_err *e)
{
    const json_t *nk = json_object_get(c, "num_key_value_heads");

    if (slc_json_need_int(c, "num_attention_heads", &s->NQ, where, e) < 0)
        return -1;
    s->NK = s->NQ;
    if (!json_is_null(nk) &&
        slc_json_need_int(c, "num_key_value_heads", &s->NK, where, e) < 0)
        return -1;
    if (slc_json_get_int(c, "head_dim", &s->D, where, e) < 0)
        return -1;
    if (!s->D && s->NQ > 0)
        s->D = s->H / s->NQ;
    return 0;
}

int slc_family_read(struct slc_spec *s, const json_t *c, const char *where,
                    struct slc_err *e)
{
    double eps = (double)s->norm_eps;

    if (slc_json_need_int(c, "hidden_size", &s->H, where, e) < 0 ||
        slc_json_need_int(c, "vocab_size", &s->V, where, e) < 0 ||
        slc_json_need_int(c, "num_hidden_layers", &s->L, where, e) < 0 ||
        slc_json_get_int(c, "max_position_embeddings", &s->max_positions, where, e) <
            0 ||
        slc_json_get_real(c, "rms_norm_eps", &eps, where, e) < 0 ||
        slc_json_get_real(c, "initializer_range", &s->init_std, where, e) < 0 ||
        slc_json_get_bool(c, "tie_word_embeddings", &s->tied, where, e) < 0)
        return -1;
    s->norm_eps = (float)eps;
    if (s->L < 1 || s->L > SLC_MAX_LAYERS)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"num_hidden_layers\" is %lld; it must be 1 to %d", where,
                        (long long)s->L, SLC_MAX_LAYERS);
    for (int64_t l = 0; l < s->L; l++)
        s->moe[l] = true;
    return read_heads(s, c, where, e) < 0 || read_rope(s, c, where, e) < 0 ||
                   read_token_ids(s, c, where, e) < 0 ||
                   refuse_unsupported(c, where, e) < 0
               ? -1
               : 0;
}

int slc_family_read_experts(struct slc_spec *s, const json_t *c, const char *width,
                            const char *where, struct slc_err *e)
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
                   slc_json_need_int(c, width, &s->F, where, e) < 0 ||
                   slc_json_get_real(c, "router_aux_loss_coef", &s->aux_coef, where,
                                     e) < 0
               ? -1
               : 0;
}

int slc_family_read_window(const json_t *c, int64_t *window, const char *where,
                           struct slc_err *e)
{
    const json_t *v = json_object_get(c, "sliding_window");

    *window = 0;
    if (!v || json_is_null(v))
        return 0;
    if (slc_json_get_int(c, "sliding_window", window, where, e) < 0)
        return -1;
    if (*window < 1)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: \"sliding_window\" is %lld; it must be 1 or more, or null",
                        where, (long long)*window);
    return 0;
}

/* -- out ----------------------------------------------------------------------- */

double slc_family_shortest(float x)
{
    char text[32];

    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x)
            return strtod(text, NULL);
    }
    return (double)x;
}

/* null where there is none: a key left out has a default of the family's own in
 * Transformers, an id that means nothing in this vocabulary. */
static json_t *ids_json(const int64_t *ids, int n)
{
    json_t *list;

    if (n == 0)
        return json_null();
    if (n == 1)
        return json_integer(ids[0]);
    list = json_array();
    for (int i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

json_t *slc_family_extend(json_t *c, json_t *more)
{
    if (!c || !more || json_object_update(c, more) < 0) {
        json_decref(c);
        c = NULL;
    }
    json_decref(more);
    return c;
}

json_t *slc_family_write(const struct slc_spec *s)
{
    const struct slc_token_ids *t = &s->tokens;
    json_t *c = json_pack(
        "{s:[s], s:s, s:f, s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I}",
        "architectures", s->family->architecture, "model_type", s->family->model_type,
        "attention_dropout", 0.0, "hidden_act", "silu", "hidden_size", (json_int_t)s->H,
        "initializer_range", s->init_std, "max_position_embeddings",
        (json_int_t)s->max_positions, "num_attention_heads", (json_int_t)s->NQ,
        "num_experts_per_tok", (json_int_t)s->K, "num_hidden_layers", (json_int_t)s->L,
        "num_key_value_heads", (json_int_t)s->NK, "vocab_size", (json_int_t)s->V);
    /* Both spellings of RoPE: Transformers 4 and 5 each read their own. */
    json_t *more = json_pack(
        "{s:f, s:f, s:f, s:b, s:{s:s, s:f}, s:o, s:o, s:o}", "rms_norm_eps",
        slc_family_shortest(s->norm_eps), "rope_theta", s->rope_theta,
        "router_aux_loss_coef", s->aux_coef, "tie_word_embeddings", (int)s->tied,
        "rope_parameters", "rope_type", "default", "rope_theta", s->rope_theta,
        "bos_token_id", ids_json(&t->bos, t->n_bos), "pad_token_id",
        ids_json(&t->pad, t->n_pad), "eos_token_id", ids_json(t->eos, t->n_eos));

    return slc_family_extend(c, more);
}
