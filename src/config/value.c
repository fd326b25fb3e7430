/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/options_private.h"

const char *slc_option_type_name(enum slc_option_type type)
{
    static const char *const names[] = {"text", "an integer", "a number", "true or false"};

    return names[type];
}

static int wrong_type(const struct slc_option *opt, const char *text, bool quoted,
                      const char *where, struct slc_err *e)
{
    const char *q = quoted ? "\"" : "";

    return slc_errf(e, SLC_EXIT_CONFIG, "%s: %s.%s must be %s, not %s%.60s%s", where,
                    opt->section, opt->key, slc_option_type_name(opt->type), q, text, q);
}

static int out_of_range(const struct slc_option *opt, const char *text, const char *where,
                        struct slc_err *e)
{
    return slc_errf(e, SLC_EXIT_CONFIG, "%s: %s.%s must be from %.*g to %.*g, not %.60s",
                    where, opt->section, opt->key, slc_option_digits(opt), opt->min,
                    slc_option_digits(opt), opt->max, text);
}

/* Decimal digits only: no blanks, no hexadecimal, no names such as inf. */
static bool is_number(const char *s, bool real)
{
    const char *allowed = real ? "0123456789.eE+-" : "0123456789+-";

    return *s && strspn(s, allowed) == strlen(s) && strpbrk(s, "0123456789");
}

static int set_int(int64_t *out, const struct slc_option *opt, const char *text,
                   const char *where, struct slc_err *e)
{
    char *end;

    if (!is_number(text, false))
        return wrong_type(opt, text, false, where, e);
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end)
        return wrong_type(opt, text, false, where, e);
    if (errno == ERANGE || (double)v < opt->min || (double)v > opt->max)
        return out_of_range(opt, text, where, e);
    *out = v;
    return 0;
}

static int set_real(double *out, const struct slc_option *opt, const char *text,
                    const char *where, struct slc_err *e)
{
    char *end;

    if (!is_number(text, true))
        return wrong_type(opt, text, false, where, e);
    double v = strtod(text, &end);
    if (*end)
        return wrong_type(opt, text, false, where, e);
    if (!isfinite(v) || v < opt->min || v > opt->max)
        return out_of_range(opt, text, where, e);
    *out = v;
    return 0;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);

    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, text, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return n > 0;
    return false;
}

/* Length of the UTF-8 sequence at p, 0 if it is none (RFC 3629). */
static int utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    int n = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
            : (p[0] & 0xf0) == 0xe0       ? 3
            : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                          : 0;
    for (int i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

static int set_text(char **out, const struct slc_option *opt, const char *text,
                    const char *where, struct slc_err *e)
{
    if (opt->choices && !is_choice(opt->choices, text))
        return slc_errf(e, SLC_EXIT_CONFIG, "%s: %s.%s must be one of %s, not '%.60s'",
                        where, opt->section, opt->key, opt->choices, text);
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int n = utf8_length(p);
        if (n == 0)
            return slc_errf(e, SLC_EXIT_CONFIG,
                            "%s: %s.%s is not valid UTF-8; give a name that is", where,
                            opt->section, opt->key);
        p += n;
    }
    char *copy = strdup(text);
    if (!copy)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for option %s.%s", opt->section,
                        opt->key);
    free(*out);
    *out = copy;
    return 0;
}

int slc_option_set(struct slc_options *o, const struct slc_option *opt, const char *text,
                   bool quoted, const char *where, struct slc_err *e)
{
    void *at = (char *)o + opt->offset;

    if (quoted && opt->type != SLC_OPT_STR)
        return wrong_type(opt, text, quoted, where, e);
    switch (opt->type) {
    case SLC_OPT_STR:
        return set_text(at, opt, text, where, e);
    case SLC_OPT_INT:
        return set_int(at, opt, text, where, e);
    case SLC_OPT_REAL:
        return set_real(at, opt, text, where, e);
    case SLC_OPT_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return wrong_type(opt, text, quoted, where, e);
        *(bool *)at = text[0] == 't';
        return 0;
    }
    SLC_BUG("option type %d", opt->type);
}
