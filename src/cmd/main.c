/* SPDX-License-Identifier: Apache-2.0 */
/* The sluice command: looks up the subcommand in one table and runs it. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "base/start.h"
#include "cmd/cmd.h"
#include "cmd/waiting.h"
#include "config/options.h"

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
    return SLC_EXIT_OK;
}

static int cmd_help(int argc, char **argv);

static const struct command commands[] = {
    {"train", "train a model as a run file says", slc_cmd_train},
    {"config", "the resolved run file, or one value of it", slc_cmd_config},
    {"data", "build a corpus file from text", slc_cmd_data},
    {"ckpt", "list, prove, export and import checkpoints", slc_cmd_ckpt},
    {"score", "loss and log-probabilities of given text", slc_cmd_score},
    {"generate", "continue a text", slc_cmd_generate},
    {"tokenize", "token ids of a file", slc_cmd_tokenize},
    {"doctor", "what this node offers and what will not work", slc_cmd_doctor},
    {"bench", "measure products, attention, the token exchange", slc_cmd_bench},
    {"version", "print the version", cmd_version},
    {"help", "list the commands", cmd_help},
};
enum { COMMANDS = sizeof(commands) / sizeof(*commands) };

static int cmd_help(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("usage: sluice COMMAND [ARGUMENTS]\n"
         "       sluice COMMAND --help\n\n"
         "Trains Mixture-of-Experts language models as Slurm jobs.\n\n"
         "commands:");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].doc);
    return SLC_EXIT_OK;
}

static int unknown(const char *name)
{
    const char *known[COMMANDS];

    for (int i = 0; i < COMMANDS; i++)
        known[i] = commands[i].name;
    const char *near = slc_nearest(name, known, COMMANDS);
    if (near)
        fprintf(stderr, "sluice: unknown command %s; did you mean %s?\n", name, near);
    else
        fprintf(stderr, "sluice: unknown command %s; sluice --help lists them\n", name);
    return SLC_EXIT_CONFIG;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "help";

    if (!strcmp(name, "--version"))
        name = "version";
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(name, commands[i].name) != 0)
            continue;
        if (commands[i].run == slc_cmd_train || commands[i].run == slc_cmd_bench) {
            slc_wait_passively(argv);
            slc_start_begin();
        }
        return commands[i].run(argc - 1, argv + 1);
    }
    return unknown(name);
}
