/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "config/options_private.h"

static bool starts_section(int i)
{
    return i == 0 || strcmp(slc_option_table[i].section, slc_option_table[i - 1].section);
}

/* What a value may be: "an integer, 0 to 10" or "cpu, ref or cuda". */
static void print_domain(FILE *out, const struct slc_option *opt)
{
    if (opt->choices) {
        for (const char *p = opt->choices; *p; p++) {
            if (*p == '|')
                fputs(strchr(p + 1, '|') ? ", " : " or ", out);
            else
                fputc(*p, out);
        }
        return;
    }
    fputs(slc_option_type_name(opt->type), out);
    if (opt->type == SLC_OPT_INT || opt->type == SLC_OPT_REAL)
        fprintf(out, ", %.*g to %.*g", slc_option_digits(opt), opt->min,
                slc_option_digits(opt), opt->max);
}

/* roff text: a minus is a minus, a backslash is one, a leading dot is no request. */
static void print_roff(FILE *out, const char *s)
{
    if (*s == '.' || *s == '\'')
        fputs("\\&", out);
    for (; *s; s++) {
        if (*s == '-')
            fputs("\\-", out);
        else if (*s == '\\')
            fputs("\\e", out);
        else
            fputc(*s, out);
    }
}

void slc_options_man(FILE *out)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (starts_section(i))
            fprintf(out, ".SS %s\n", opt->section);
        fprintf(out, ".TP\n.B %s.%s\n", opt->section, opt->key);
        print_roff(out, opt->doc);
        fputs("\n.br\n", out);
        print_domain(out, opt);
        if (!opt->def)
            fputs("; must be given.\n", out);
        else if (!*opt->def)
            fputs("; empty by default.\n", out);
        else {
            fputs("; default ", out);
            print_roff(out, opt->def);
            fputs(".\n", out);
        }
    }
}

/* Words of s in lines of at most `width`, each indented. */
static void print_wrapped(FILE *out, const char *s, int indent, int width)
{
    int at = 0;

    while (*s) {
        int n = (int)strcspn(s, " ");
        if (at > 0 && at + 1 + n > width) {
            fputc('\n', out);
            at = 0;
        }
        at += at == 0 ? fprintf(out, "%*s", indent, "") : fprintf(out, " ");
        at += fprintf(out, "%.*s", n, s);
        s += n;
        s += strspn(s, " ");
    }
    fputc('\n', out);
}

void slc_options_help(FILE *out)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        if (starts_section(i))
            fprintf(out, "%s%s:\n", i ? "\n" : "", opt->section);
        fprintf(out, "  %s=", opt->key);
        if (opt->def)
            fprintf(out, "%s  (", opt->def);
        else
            fputs("...  (must be given; ", out);
        print_domain(out, opt);
        fputs(")\n", out);
        print_wrapped(out, opt->doc, 6, 78);
    }
}
