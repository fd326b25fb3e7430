/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"

#include <stdlib.h>
#include <string.h>

#include "config/options_private.h"

const struct slc_option *slc_option_find(const char *section, const char *key)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (!strcmp(opt->section, section) && !strcmp(opt->key, key))
            return opt;
    }
    return NULL;
}

bool slc_option_has_section(const char *section)
{
    for (int i = 0; i < slc_option_count; i++)
        if (!strcmp(slc_option_table[i].section, section))
            return true;
    return false;
}

/* Keys of a section (NULL: the sections themselves), each once; returns how many. */
static int words(const char *section, const char *out[SLC_OPTION_MAX])
{
    int n = 0;

    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (section && !strcmp(opt->section, section))
            out[n++] = opt->key;
        if (!section && (i == 0 || strcmp(opt->section, opt[-1].section)))
            out[n++] = opt->section;
    }
    return n;
}

static const struct slc_option *same_key(const char *key)
{
    for (int i = 0; i < slc_option_count; i++)
        if (!strcmp(slc_option_table[i].key, key))
            return &slc_option_table[i];
    return NULL;
}

/* The option whose key is nearest, whatever its section. */
static const struct slc_option *nearest_key(const char *key)
{
    const char *keys[SLC_OPTION_MAX];

    for (int i = 0; i < slc_option_count; i++)
        keys[i] = slc_option_table[i].key;
    const char *near = slc_nearest(key, keys, slc_option_count);
    return near ? same_key(near) : NULL;
}

void slc_option_advice(const char *section, const char *key, char *text, size_t len)
{
    const char *known[SLC_OPTION_MAX];
    bool has = slc_option_has_section(section);
    const char *near = has && key ? NULL : slc_nearest(section, known, words(NULL, known));
    const struct slc_option *opt = key ? same_key(key) : same_key(section);

    if (key && near && slc_option_find(near, key)) {
        snprintf(text, len, "did you mean %s.%s?", near, key);
        return;
    }
    if (!key && near) {
        snprintf(text, len, "did you mean %s?", near);
        return;
    }
    if (!opt && key && has && (near = slc_nearest(key, known, words(section, known)))) {
        snprintf(text, len, "did you mean %s.%s?", section, near);
        return;
    }
    if (!opt && key)
        opt = nearest_key(key);
    if (opt) {
        snprintf(text, len, "did you mean %s.%s?", opt->section, opt->key);
        return;
    }
    int n = words(has ? section : NULL, known);
    int at = snprintf(text, len, "known %s:", has ? "keys" : "sections");
    for (int i = 0; i < n && (size_t)at < len; i++)
        at += snprintf(text + at, len - (size_t)at, " %s", known[i]);
}

static int set_defaults(struct slc_options *o, struct slc_err *e)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (opt->def &&
            slc_option_set(o, opt, opt->def, opt->type == SLC_OPT_STR, "default", e) < 0)
            return -1;
    }
    return 0;
}

static int set_override(struct slc_options *o, const char *text, bool *given,
                        struct slc_err *e)
{
    char name[128], advice[256];
    const char *eq = strchr(text, '=');
    size_t n = eq ? (size_t)(eq - text) : strlen(text);

    if (n >= sizeof(name))
        n = sizeof(name) - 1;
    memcpy(name, text, n);
    name[n] = '\0';
    char *dot = strchr(name, '.');
    if (!eq || !dot)
        return slc_errf(e, SLC_EXIT_CONFIG, "argument '%.60s' is not section.key=value",
                        text);
    *dot = '\0';
    const struct slc_option *opt = slc_option_find(name, dot + 1);
    if (!opt) {
        slc_option_advice(name, dot + 1, advice, sizeof(advice));
        return slc_errf(e, SLC_EXIT_CONFIG, "argument '%.60s': unknown key %s.%s; %s", text,
                        name, dot + 1, advice);
    }
    given[opt - slc_option_table] = true;
    return slc_option_set(o, opt, eq + 1, false, "command line", e);
}

int slc_options_load(struct slc_options *o, const char *path, char *const *overrides, int n,
                     struct slc_err *e)
{
    bool given[SLC_OPTION_MAX] = {false};

    memset(o, 0, sizeof(*o));
    if (set_defaults(o, e) < 0)
        goto err_release;
    if (path && slc_options_read_file(o, path, given, e) < 0)
        goto err_release;
    for (int i = 0; i < n; i++)
        if (set_override(o, overrides[i], given, e) < 0)
            goto err_release;
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (!opt->def && !given[i]) {
            slc_errf(e, SLC_EXIT_CONFIG, "%s: %s.%s must be given: %s",
                     path ? path : "command line", opt->section, opt->key, opt->doc);
            goto err_release;
        }
    }
    return 0;

err_release:
    slc_options_release(o);
    return -1;
}

void slc_options_release(struct slc_options *o)
{
    for (int i = 0; i < slc_option_count; i++)
        if (slc_option_table[i].type == SLC_OPT_STR)
            free(*(char **)((char *)o + slc_option_table[i].offset));
    memset(o, 0, sizeof(*o));
}
