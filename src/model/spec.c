/* SPDX-License-Identifier: Apache-2.0 */
#include "model/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/rng.h"

#define CONFIG_MAX (16u << 20)

extern const struct slc_family slc_family_mixtral, slc_family_olmoe, slc_family_qwen3_moe;

const struct slc_family *const slc_families[] = {
    &slc_family_mixtral, &slc_family_olmoe, &slc_family_qwen3_moe, NULL};

static void list_families(char *text, size_t len)
{
    size_t n = 0;

    text[0] = 0;
    for (int i = 0; slc_families[i] && n < len; i++)
        n += (size_t)snprintf(text + n, len - n, "%s%s", i ? ", " : "",
                              slc_families[i]->model_type);
}

static const struct slc_family *find_family(const json_t *config, const char *where,
                                            struct slc_err *e)
{
    const char *type;
    char known[128];

    if (slc_json_need_str(config, "model_type", &type, where, e) < 0)
        return NULL;
    for (int i = 0; slc_families[i]; i++)
        if (!strcmp(slc_families[i]->model_type, type))
            return slc_families[i];
    list_families(known, sizeof(known));
    slc_errf(e, SLC_EXIT_UNSUPPORTED,
             "%s: not supported: model_type \"%.60s\"; use a model of: %s", where, type,
             known);
    return NULL;
}

static int check_range(const char *what, int64_t value, int64_t min, int64_t max,
                       const char *where, struct slc_err *e)
{
    if (value >= min && value <= max)
        return 0;
    return slc_errf(e, SLC_EXIT_INPUT, "%s: %s is %lld; it must be %lld to %lld", where,
                    what, (long long)value, (long long)min, (long long)max);
}

static bool any_moe(const struct slc_spec *s, bool moe)
{
    for (int64_t i = 0; i < s->L; i++)
        if (s->moe[i] == moe)
            return true;
    return false;
}

/* What must hold whatever the family. The upper bounds keep every product of two sizes
 * inside 64 bits. */
static int check_spec(const struct slc_spec *s, const char *where, struct slc_err *e)
{
    const int64_t big = 1 << 24;

    if (check_range("the number of layers", s->L, 1, SLC_MAX_LAYERS, where, e) < 0 ||
        check_range("the hidden size", s->H, 1, big, where, e) < 0 ||
        check_range("the number of query heads", s->NQ, 1, 65536, where, e) < 0 ||
        check_range("the number of key heads", s->NK, 1, s->NQ, where, e) < 0 ||
        check_range("the head width", s->D, 2, 65536, where, e) < 0 ||
        check_range("the vocabulary", s->V, 1, 1 << 30, where, e) < 0)
        return -1;
    if (s->NQ % s->NK)
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: %lld query heads are no multiple of %lld key heads", where,
                        (long long)s->NQ, (long long)s->NK);
    if (s->D % 2)
        return slc_errf(e, SLC_EXIT_INPUT, "%s: the head width %lld is odd", where,
                        (long long)s->D);
    if (any_moe(s, true) &&
        (check_range("the number of experts", s->E, 1, 65536, where, e) < 0 ||
         check_range("the number of experts per token", s->K, 1, s->E, where, e) < 0 ||
         check_range("the expert width", s->F, 1, big, where, e) < 0))
        return -1;
    if (any_moe(s, false) &&
        check_range("the width of dense layers", s->FD, 1, big, where, e) < 0)
        return -1;
    if (!(s->norm_eps > 0) || !(s->rope_theta > 0))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s: the norm's epsilon and rope_theta must be above 0", where);
    return 0;
}

static int read_config(struct slc_spec *s, const json_t *config, const char *where,
                       struct slc_err *e)
{
    struct slc_spec read = {0};

    if (!json_is_object(config))
        return slc_errf(e, SLC_EXIT_INPUT, "%s: not a JSON object", where);
    read.family = find_family(config, where, e);
    if (!read.family || read.family->read(&read, config, where, e) < 0 ||
        check_spec(&read, where, e) < 0)
        return -1;
    *s = read;
    return 0;
}

int slc_spec_load(struct slc_spec *s, const char *path, struct slc_err *e)
{
    char file[4096];
    struct stat st;
    const char *slash = "";

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        slash = "/config.json";
    if (snprintf(file, sizeof(file), "%s%s", path, slash) >= (int)sizeof(file))
        return slc_errf(e, SLC_EXIT_INPUT, "the path of the model is too long");
    json_t *config = slc_json_load(file, CONFIG_MAX, e);
    if (!config)
        return -1;
    int rc = read_config(s, config, file, e);
    json_decref(config);
    return rc;
}

char *slc_spec_text(const struct slc_spec *s, struct slc_err *e)
{
    json_t *config = s->family->write(s);
    char *text = config ? json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;

    json_decref(config);
    if (!text)
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the model's config.json");
    return text;
}

int slc_spec_parse(struct slc_spec *s, const char *text, const char *where,
                   struct slc_err *e)
{
    json_t *config = slc_json_parse(text, strlen(text), where, e);

    if (!config)
        return -1;
    int rc = read_config(s, config, where, e);
    json_decref(config);
    return rc;
}

uint64_t slc_spec_digest(const struct slc_spec *s)
{
    const int64_t n[] = {s->L,    s->H,      s->NQ,      s->NK,     s->D,
                         s->V,    s->E,      s->K,       s->F,      s->FD,
                         s->tied, s->renorm, s->qk_norm, s->window, any_moe(s, true)};
    char text[1024 + SLC_MAX_LAYERS];
    size_t at = (size_t)snprintf(text, sizeof(text), "%s %.17g %.9g %.9g",
                                 s->family->model_type, s->rope_theta,
                                 (double)s->norm_eps, (double)s->clip_qkv);

    for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, " %lld", (long long)n[i]);
    for (int64_t i = 0; i < s->L; i++)
        text[at++] = s->moe[i] ? 'm' : 'd';
    return slc_hash64(text, at);
}
