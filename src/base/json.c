/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <stdlib.h>

#include "base/file.h"

json_t *slc_json_parse(const char *text, size_t len, const char *where, struct slc_err *e)
{
    json_error_t je;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);

    if (!o)
        slc_errf(e, SLC_EXIT_INPUT, "%s line %d column %d: %s", where, je.line, je.column,
                 je.text);
    return o;
}

json_t *slc_json_load(const char *path, size_t max, struct slc_err *e)
{
    char *text;
    size_t len;

    if (slc_file_read(path, max, &text, &len, e) < 0)
        return NULL;
    json_t *o = slc_json_parse(text, len, path, e);
    free(text);
    return o;
}

static int wrong_type(const char *key, const char *want, const char *where,
                      struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" must be %s", where, key, want);
}

static int missing(const char *key, const char *where, struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_INPUT, "%s: \"%s\" is missing", where, key);
}

/* The value, or NULL when absent or null. */
static const json_t *value_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);

    return v && !json_is_null(v) ? v : NULL;
}

int slc_json_get_int(const json_t *o, const char *key, int64_t *out, const char *where,
                     struct slc_err *e)
{
    const json_t *v = value_of(o, key);

    if (!v)
        return 0;
    if (!json_is_integer(v))
        return wrong_type(key, "an integer", where, e);
    *out = json_integer_value(v);
    return 0;
}

int slc_json_need_int(const json_t *o, const char *key, int64_t *out, const char *where,
                      struct slc_err *e)
{
    if (!value_of(o, key))
        return missing(key, where, e);
    return slc_json_get_int(o, key, out, where, e);
}

int slc_json_get_real(const json_t *o, const char *key, double *out, const char *where,
                      struct slc_err *e)
{
    const json_t *v = value_of(o, key);

    if (!v)
        return 0;
    if (!json_is_number(v))
        return wrong_type(key, "a number", where, e);
    *out = json_number_value(v);
    return 0;
}

int slc_json_need_real(const json_t *o, const char *key, double *out, const char *where,
                       struct slc_err *e)
{
    if (!value_of(o, key))
        return missing(key, where, e);
    return slc_json_get_real(o, key, out, where, e);
}

int slc_json_get_bool(const json_t *o, const char *key, bool *out, const char *where,
                      struct slc_err *e)
{
    const json_t *v = value_of(o, key);

    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return wrong_type(key, "true or false", where, e);
    *out = json_is_true(v);
    return 0;
}

int slc_json_get_str(const json_t *o, const char *key, const char **out, const char *where,
                     struct slc_err *e)
{
    const json_t *v = value_of(o, key);

    if (!v)
        return 0;
    if (!json_is_string(v))
        return wrong_type(key, "a string", where, e);
    *out = json_string_value(v);
    return 0;
}

int slc_json_need_str(const json_t *o, const char *key, const char **out, const char *where,
                      struct slc_err *e)
{
    if (!value_of(o, key))
        return missing(key, where, e);
    return slc_json_get_str(o, key, out, where, e);
}
