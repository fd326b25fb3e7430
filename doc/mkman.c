/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what is made of the option table: sluice-run(5), its frame being here, or, with
 * an argument, lists for completion: `keys`, `choices` (a key and its values a line).
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "config/options.h"

static const char head[] =
    ".TH SLUICE-RUN 5 \"\" \"" PACKAGE_STRING "\" \"File formats\"\n"
    ".SH NAME\n"
    "sluice\\-run \\- run file of sluice train\n"
    ".SH DESCRIPTION\n"
    "A run file says what\n"
    ".BR \"sluice train\" \" (see \" sluice (1))\n"
    "trains, on what and how. It is YAML: sections, and in each of them keys with one value.\n"
    "Any key may also be given on the command line, after the run file, as\n"
    ".IR section . key = value ,\n"
    "which wins over the file.\n"
    ".PP\n"
    "A key that does not exist, stands twice, or has a value of the wrong type or out of its\n"
    "range is an error that names the file, the line and the column, and the nearest known\n"
    "key. Relative paths start at the working directory. The file as resolved, with all\n"
    "defaults, is stored as\n"
    ".I run.yaml\n"
    "in the run folder and in every checkpoint;\n"
    ".B sluice config\n"
    "prints it.\n"
    ".SH KEYS\n";

static const char tail[] =
    ".SH EXAMPLE\n"
    ".nf\n"
    "model:\n"
    "  config: quickstart.json\n"
    "data:\n"
    "  corpus: corpus.h5\n"
    "  sequence: 128\n"
    "run:\n"
    "  dir: run\n"
    "train:\n"
    "  steps: 300\n"
    "  global_batch: 16\n"
    "  micro_batch: 4\n"
    "parallel:\n"
    "  ep: 4\n"
    ".fi\n"
    ".SH SEE ALSO\n"
    ".BR sluice (1)\n";

static void print_keys(void)
{
    for (int i = 0; i < slc_option_count; i++)
        printf("%s.%s\n", slc_option_table[i].section, slc_option_table[i].key);
}

static void print_choices(void)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *o = &slc_option_table[i];
        const char *words = o->type == SLC_OPT_BOOL ? "true|false" : o->choices;
        if (!words)
            continue;
        printf("%s.%s ", o->section, o->key);
        for (; *words; words++)
            putchar(*words == '|' ? ' ' : *words);
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "keys")) {
        print_keys();
    } else if (argc > 1 && !strcmp(argv[1], "choices")) {
        print_choices();
    } else {
        fputs(head, stdout);
        slc_options_man(stdout);
        fputs(tail, stdout);
    }
    return fflush(stdout) != 0 || ferror(stdout);
}
