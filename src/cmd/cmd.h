/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CMD_CMD_H
#define SLC_CMD_CMD_H

#include <stdbool.h>

#include "base/err.h"

/* One file per subcommand; each gets argv from its own name on and returns an exit code of
 * base/exit.h. */
int slc_cmd_train(int argc, char **argv);
int slc_cmd_config(int argc, char **argv);
int slc_cmd_data(int argc, char **argv);
int slc_cmd_ckpt(int argc, char **argv);
int slc_cmd_score(int argc, char **argv);
int slc_cmd_generate(int argc, char **argv);
int slc_cmd_tokenize(int argc, char **argv);
int slc_cmd_doctor(int argc, char **argv);
int slc_cmd_bench(int argc, char **argv);

/*
 * Command-line flags of one command: a table parsed by slc_flags_parse. A flag takes a value
 * (--name VALUE or --name=VALUE) unless it is a switch. `--help` prints usage and the
 * table and makes slc_flags_parse return 1.
 */
struct slc_flag {
    const char *name;    /* "--out" */
    const char *value;   /* what to call the value in help; NULL: a switch */
    const char *doc;
    const char **text;   /* set to the value */
    bool *given;         /* set to true (may be NULL) */
};
/* Positional arguments are moved to the front of argv[1..]; their number goes to *n_args.
 * 0: go on; 1: help was printed; -1: error in e (unknown flag, missing value). */
int slc_flags_parse(int argc, char **argv, const char *usage, const struct slc_flag *flags,
                    int n_flags, int *n_args, struct slc_err *e);
/* Parse a whole decimal number in [min, max]; error names the flag. */
int slc_flag_int(const char *flag, const char *text, long long min, long long max,
                 long long *out, struct slc_err *e);
int slc_flag_real(const char *flag, const char *text, double min, double max, double *out,
                  struct slc_err *e);
/* Print "sluice: command: text" on stderr and return the code. */
int slc_cmd_fail(const char *command, const struct slc_err *e);

#endif
