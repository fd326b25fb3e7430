/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "cmd/cmd.h"
#include "config/options.h"

static const char usage[] = "sluice config [--get section.key] RUN.yaml [section.key=value ...]";

static int print_options(const char *get, int argc, char **argv, struct slc_err *e)
{
    struct slc_options o = {0};

    if (slc_options_load(&o, argv[0], argv + 1, argc - 1, e) < 0)
        return -1;
    char *text = get ? slc_options_get(&o, get, e) : slc_options_text(&o);
    slc_options_release(&o);
    if (!text)
        return e->code ? -1 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the run file");
    printf("%s%s", text, get ? "\n" : "");
    free(text);
    return 0;
}

int slc_cmd_config(int argc, char **argv)
{
    const char *get = NULL;
    struct slc_err e = SLC_ERR_INIT;
    int n;
    const struct slc_flag flags[] = {
        {"--get", "NAME", "print the value of this key only", &get, NULL},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 1, &n, &e);
    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && n < 1)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "no run file; usage: %s", usage);
    if (rc == 0)
        rc = print_options(get, n, argv + 1, &e);
    return rc < 0 ? slc_cmd_fail("config", &e) : SLC_EXIT_OK;
}
