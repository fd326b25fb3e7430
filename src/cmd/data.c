/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "data/corpus.h"

static const char usage[] =
    "sluice data build --out CORPUS.h5 [--tokenizer NAME | --vocab N] [--validation F] "
    "INPUT...";

static int build(int argc, char **argv, struct slc_err *e)
{
    const char *out = NULL, *tokenizer = NULL, *validation = "0", *vocab = "0";
    long long v;
    int n;
    const struct slc_flag flags[] = {
        {"--out", "FILE", "corpus file to write (HDF5)", &out, NULL},
        {"--tokenizer", "NAME", "bytes (the default, unless --vocab is given)", &tokenizer, NULL},
        {"--validation", "F", "last share of the tokens to hold out, 0 to 0.5 (0)",
         &validation, NULL},
        {"--vocab", "N", "all input is {\"ids\": [...]} lines with ids below N; no tokenizer", &vocab,
         NULL},
    };
    struct slc_corpus_build_options o = {.progress = true};

    int rc = slc_flags_parse(argc, argv, usage, flags, 4, &n, e);
    if (rc != 0)
        return rc;
    if (!out || n < 1)
        return slc_errf(e, SLC_EXIT_CONFIG, "give --out and at least one input; usage: %s",
                        usage);
    if (slc_flag_real("--validation", validation, 0, 0.5, &o.validation, e) < 0 ||
        slc_flag_int("--vocab", vocab, 0, INT32_MAX, &v, e) < 0)
        return -1;
    o.out = out;
    o.tokenizer = tokenizer || v > 0 ? tokenizer : "bytes";
    o.vocab = v;
    o.inputs = (const char *const *)argv + 1;
    o.n_inputs = n;
    return slc_corpus_build(&o, e);
}

int slc_cmd_data(int argc, char **argv)
{
    struct slc_err e = SLC_ERR_INIT;
    int rc;

    if (argc > 1 && strcmp(argv[1], "build") == 0)
        rc = build(argc - 1, argv + 1, &e);
    else if (argc > 1 && strcmp(argv[1], "--help") == 0)
        rc = build(2, (char *[]){"build", "--help", NULL}, &e);
    else
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "unknown or missing action; usage: %s", usage);
    return rc < 0 ? slc_cmd_fail("data", &e) : SLC_EXIT_OK;
}
