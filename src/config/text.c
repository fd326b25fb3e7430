/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config/options_private.h"

/* Code point of the UTF-8 sequence at *p (known to be valid), moving *p behind it. */
static uint32_t code_point(const unsigned char **p)
{
    uint32_t c = *(*p)++;
    int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;

    if (more)
        c &= 0x3fu >> more;
    while (more-- > 0)
        c = c << 6 | (*(*p)++ & 0x3fu);
    return c;
}

/* In double quotes; all but printable ASCII escaped, so that nothing is folded. */
static void print_quoted(FILE *out, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;

    fputc('"', out);
    while (*p) {
        uint32_t c = code_point(&p);
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", (int)c);
        else if (c >= 0x20 && c < 0x7f)
            fputc((int)c, out);
        else if (c < 0x100)
            fprintf(out, "\\x%02" PRIx32, c);
        else if (c < 0x10000)
            fprintf(out, "\\u%04" PRIx32, c);
        else
            fprintf(out, "\\U%08" PRIx32, c);
    }
    fputc('"', out);
}

/* The shortest text that reads back as the same double. */
static void print_real(FILE *out, double v)
{
    char s[40];

    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof(s), "%.*g", digits, v);
        if (strtod(s, NULL) == v)
            break;
    }
    fputs(s, out);
}

static void print_value(FILE *out, const struct slc_options *o, const struct slc_option *opt)
{
    const void *at = (const char *)o + opt->offset;

    switch (opt->type) {
    case SLC_OPT_STR:
        print_quoted(out, *(char *const *)at);
        break;
    case SLC_OPT_INT:
        fprintf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case SLC_OPT_REAL:
        print_real(out, *(const double *)at);
        break;
    case SLC_OPT_BOOL:
        fputs(*(const bool *)at ? "true" : "false", out);
        break;
    }
}

char *slc_options_text(const struct slc_options *o)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return NULL;
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (i == 0 || strcmp(opt->section, opt[-1].section))
            fprintf(out, "%s:\n", opt->section);
        fprintf(out, "  %s: ", opt->key);
        print_value(out, o, opt);
        fputc('\n', out);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

char *slc_options_get(const struct slc_options *o, const char *name, struct slc_err *e)
{
    const char *dot = strchr(name, '.');
    char section[64] = "", *text = NULL;
    size_t len;

    if (dot && (size_t)(dot - name) < sizeof(section))
        memcpy(section, name, (size_t)(dot - name));
    const struct slc_option *opt = slc_option_find(section, dot ? dot + 1 : name);
    if (!opt) {
        char advice[160];
        slc_option_advice(section, dot ? dot + 1 : name, advice, sizeof(advice));
        slc_errf(e, SLC_EXIT_CONFIG, "unknown option %s; %s", name, advice);
        return NULL;
    }
    if (opt->type == SLC_OPT_STR)
        return strdup(*(char *const *)((const char *)o + opt->offset));
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    print_value(out, o, opt);
    fclose(out);
    return text;
}
