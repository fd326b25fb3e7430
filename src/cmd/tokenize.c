/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "cmd/cmd.h"
#include "data/tokenizer.h"

static const char usage[] = "sluice tokenize [--tokenizer bytes] FILE";

static int print_ids(const char *path, const char *name, struct slc_err *e)
{
    struct slc_tokenizer *t = slc_tokenizer_open(name, e);
    int32_t *ids = NULL;
    char *text = NULL;
    size_t len;
    int rc = -1;

    if (!t || slc_file_read(path, (size_t)1 << 30, &text, &len, e) < 0)
        goto out;
    int64_t n = slc_tokenizer_encode(t, text, len, NULL, 0);
    ids = malloc((size_t)(n ? n : 1) * sizeof(*ids));
    if (!ids) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld tokens", (long long)n);
        goto out;
    }
    slc_tokenizer_encode(t, text, len, ids, n);
    printf("{\"ids\": [");
    for (int64_t i = 0; i < n; i++)
        printf("%s%d", i ? ", " : "", ids[i]);
    printf("]}\n");
    rc = 0;
out:
    free(ids);
    free(text);
    slc_tokenizer_close(t);
    return rc;
}

int slc_cmd_tokenize(int argc, char **argv)
{
    const char *name = "bytes";
    struct slc_err e = SLC_ERR_INIT;
    int n;
    const struct slc_flag flags[] = {
        {"--tokenizer", "NAME", "bytes (default)", &name, NULL},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 1, &n, &e);
    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && n != 1)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "give one file; usage: %s", usage);
    if (rc == 0)
        rc = print_ids(argv[1], name, &e);
    return rc < 0 ? slc_cmd_fail("tokenize", &e) : SLC_EXIT_OK;
}
