/* SPDX-License-Identifier: Apache-2.0 */
/* The sluice command: looks up the subcommand in one table and runs it. */
#include "config.h"

#include <stdio.h>
#include <string.h>

/* One subcommand. run gets argv from its own name on and returns the exit code. */
struct command {
    const char *name;
    const char *doc;
    int (*run)(int argc, char **argv);
};

static int cmd_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts(PACKAGE_STRING);
    return 0;
}

static int cmd_help(int argc, char **argv);

static const struct command commands[] = {
    {"version", "print the version", cmd_version},
    {"help", "list the commands", cmd_help},
};

static int cmd_help(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("usage: sluice COMMAND [ARGUMENTS]\n"
         "       sluice COMMAND --help\n\n"
         "Trains Mixture-of-Experts language models as Slurm jobs.\n\n"
         "commands:");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].doc);
    return 0;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";
    if (!strcmp(name, "--version"))
        name = "version";
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(name, commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "sluice: unknown command %s; sluice --help lists them\n", name);
    return 78;
}
