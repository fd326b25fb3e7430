/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cmd.h"
#include "config/options.h"

static void print_help(const char *usage, const struct slc_flag *flags, int n)
{
    printf("usage: %s\n\n", usage);
    for (int i = 0; i < n; i++) {
        char left[48];
        snprintf(left, sizeof(left), "%s%s%s", flags[i].name, flags[i].value ? " " : "",
                 flags[i].value ? flags[i].value : "");
        printf("  %-26s %s\n", left, flags[i].doc);
    }
    printf("  %-26s %s\n", "--help", "this text");
}

static const struct slc_flag *find(const struct slc_flag *flags, int n, const char *arg,
                                   size_t len)
{
    for (int i = 0; i < n; i++)
        if (strlen(flags[i].name) == len && strncmp(flags[i].name, arg, len) == 0)
            return &flags[i];
    return NULL;
}

static int unknown(const char *arg, const struct slc_flag *flags, int n, struct slc_err *e)
{
    const char *known[32];

    for (int i = 0; i < n && i < 32; i++)
        known[i] = flags[i].name;
    const char *near = slc_nearest(arg, known, n < 32 ? n : 32);
    if (near)
        return slc_errf(e, SLC_EXIT_CONFIG, "unknown flag %s; did you mean %s?", arg, near);
    return slc_errf(e, SLC_EXIT_CONFIG, "unknown flag %s; --help lists the flags", arg);
}

int slc_flags_parse(int argc, char **argv, const char *usage, const struct slc_flag *flags,
                    int n_flags, int *n_args, struct slc_err *e)
{
    int n = 0;

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0') {
            argv[1 + n++] = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--help") == 0) {
            print_help(usage, flags, n_flags);
            return 1;
        }
        const char *eq = strchr(argv[i], '=');
        size_t len = eq ? (size_t)(eq - argv[i]) : strlen(argv[i]);
        const struct slc_flag *f = find(flags, n_flags, argv[i], len);
        if (!f)
            return unknown(argv[i], flags, n_flags, e);
        if (f->given)
            *f->given = true;
        if (!f->value && eq)
            return slc_errf(e, SLC_EXIT_CONFIG, "%s takes no value", f->name);
        if (!f->value)
            continue;
        if (!eq && i + 1 >= argc)
            return slc_errf(e, SLC_EXIT_CONFIG, "%s needs a value: %s", f->name, f->value);
        *f->text = eq ? eq + 1 : argv[++i];
    }
    *n_args = n;
    return 0;
}

int slc_flag_int(const char *flag, const char *text, long long min, long long max,
                 long long *out, struct slc_err *e)
{
    char *end;

    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max)
        return slc_errf(e, SLC_EXIT_CONFIG, "%s: '%s' is not a whole number from %lld to %lld",
                        flag, text, min, max);
    *out = v;
    return 0;
}

int slc_flag_real(const char *flag, const char *text, double min, double max, double *out,
                  struct slc_err *e)
{
    char *end;

    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !(v >= min && v <= max))
        return slc_errf(e, SLC_EXIT_CONFIG, "%s: '%s' is not a number from %g to %g", flag,
                        text, min, max);
    *out = v;
    return 0;
}

int slc_cmd_fail(const char *command, const struct slc_err *e)
{
    fprintf(stderr, "sluice: %s: %s\n", command, e->text);
    return e->code;
}
