/* SPDX-License-Identifier: Apache-2.0 */
/* sluice ckpt: look at checkpoints, prove them, and turn them into Hugging Face folders
 * and back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cmd/cmd.h"
#include "store/folder.h"
#include "store/hf.h"
#include "store/reader.h"

/* One `sluice ckpt VERB`; run gets its arguments and returns 0 / -1. */
struct verb {
    const char *name, *usage;
    int n_args;
    int (*run)(char **args, struct slc_err *e);
};

static bool as_json;
static const char *dtype_text;

/* -- which checkpoint ---------------------------------------------------------- */

static bool is_run_folder(const char *path)
{
    char sub[4096];
    struct stat st;

    return snprintf(sub, sizeof(sub), "%s/checkpoints", path) < (int)sizeof(sub) &&
           stat(sub, &st) == 0 && S_ISDIR(st.st_mode);
}

/* A step-NNNNNNNN folder as it is; a run folder means its newest proven one. */
static int resolve(const char *path, char out[4096], struct slc_err *e)
{
    if (!is_run_folder(path)) {
        if (access(path, F_OK) < 0)
            return slc_errf(e, SLC_EXIT_INPUT, "there is no %s", path);
        if (snprintf(out, 4096, "%s", path) >= 4096)
            return slc_errf(e, SLC_EXIT_INPUT, "path is too long: %s", path);
        return 0;
    }
    if (slc_ckpt_find(NULL, path, out, e) < 0)
        return -1;
    if (!out[0])
        return slc_errf(e, SLC_EXIT_CHECKPOINT, "%s has no checkpoint", path);
    return 0;
}

/* -- ls ------------------------------------------------------------------------- */

static int list_one(const char *run_dir, int64_t step, struct slc_err *e)
{
    struct slc_err bad = SLC_ERR_INIT;
    struct slc_manifest m;
    char path[4096], *text;
    size_t len;

    if (slc_folder_path(run_dir, step, "", path, e) < 0)
        return -1;
    if (slc_reader_load_manifest(path, &text, &len, &m, &bad) < 0) {
        printf("%12lld  damaged: %s\n", (long long)step, bad.text);
        return 0;
    }
    free(text);
    printf("%12lld  %14lld  %10.1f  %8d  %5d  %s\n", (long long)step,
           (long long)m.state.tokens, (double)m.file_bytes / 1e6, m.n, m.world, path);
    slc_manifest_release(&m);
    return 0;
}

static int run_ls(char **args, struct slc_err *e)
{
    int64_t *steps;
    int n, rc = 0;

    if (!is_run_folder(args[0]))
        return slc_errf(e, SLC_EXIT_INPUT,
                        "%s is not a run folder: it has no checkpoints", args[0]);
    if (slc_folder_steps(args[0], &steps, &n, e) < 0)
        return -1;
    printf("%12s  %14s  %10s  %8s  %5s  %s\n", "step", "tokens", "MB", "tensors",
           "ranks", "path");
    for (int i = n - 1; i >= 0 && rc == 0; i--)
        rc = list_one(args[0], steps[i], e);
    free(steps);
    return rc;
}

/* -- info ------------------------------------------------------------------------ */

static void print_tensor(const struct slc_ckpt_entry *x)
{
    char shape[96];
    int at = 0;

    for (int d = 0; d < x->ndim; d++)
        at += snprintf(shape + at, sizeof(shape) - (size_t)at, "%s%lld", d ? ", " : "",
                       (long long)x->shape[d]);
    printf("%-40s  %-5s  [%s]%*s  %08x\n", x->name, slc_dtype_name(x->dtype),
           at ? shape : "", 24 - at, "", x->crc);
}

/* The manifest is JSON already. */
static int print_file(const char *dir, struct slc_err *e)
{
    char path[4200];

    snprintf(path, sizeof(path), "%s/manifest.json", dir);
    json_t *o = slc_json_load(path, (size_t)4 << 30, e);
    if (!o)
        return -1;
    int rc = json_dumpf(o, stdout, 0);
    json_decref(o);
    putchar('\n');
    return rc < 0 ? slc_errf(e, SLC_EXIT_SYSTEM, "cannot print %s", path) : 0;
}

static int run_info(char **args, struct slc_err *e)
{
    char path[4096], *text;
    struct slc_manifest m;
    size_t len;

    if (resolve(args[0], path, e) < 0 ||
        slc_reader_load_manifest(path, &text, &len, &m, e) < 0)
        return -1;
    free(text);
    int rc = 0;
    if (as_json) {
        rc = print_file(path, e);
    } else {
        const struct slc_ckpt_state *s = &m.state;
        printf("%s\nstep %lld, %lld updates, %lld skipped, %lld rows, %lld tokens\n",
               path, (long long)s->step, (long long)s->updates, (long long)s->skipped,
               (long long)s->samples, (long long)s->tokens);
        printf("saved by %d rank%s, %s\n", m.world, m.world == 1 ? "" : "s",
               *s->versions ? s->versions : "by import");
        if (s->best_validation > 0)
            printf("best validation loss %.6g\n", s->best_validation);
        printf("%d tensors, %.1f MB\n\n", m.n, (double)m.file_bytes / 1e6);
        for (int i = 0; i < m.n; i++)
            print_tensor(&m.t[i].entry);
    }
    slc_manifest_release(&m);
    return rc;
}

/* -- verify, export, import -------------------------------------------------------- */

static int verify_one(const char *path, struct slc_err *e)
{
    double started = slc_now();
    struct stat st;
    char file[4200];

    if (slc_ckpt_verify(path, e) < 0)
        return -1;
    snprintf(file, sizeof(file), "%s/state.h5", path);
    double mb = stat(file, &st) == 0 ? (double)st.st_size / 1e6 : 0;
    printf("%s: every byte proven, %.1f MB in %.2f s\n", path, mb, slc_now() - started);
    return 0;
}

/* All checkpoints of a run folder; the first error is returned, the others are printed.
 */
static int verify_run(const char *run_dir, struct slc_err *e)
{
    struct slc_err one = SLC_ERR_INIT;
    int64_t *steps;
    char path[4096];
    int n, rc = 0;

    if (slc_folder_steps(run_dir, &steps, &n, e) < 0)
        return -1;
    if (n == 0)
        rc = slc_errf(e, SLC_EXIT_CHECKPOINT, "%s has no checkpoint", run_dir);
    for (int i = n - 1; i >= 0; i--) {
        if (slc_folder_path(run_dir, steps[i], "", path, &one) == 0 &&
            verify_one(path, &one) == 0)
            continue;
        if (rc == 0 && e)
            *e = one;
        rc = -1;
    }
    free(steps);
    return rc;
}

static int run_verify(char **args, struct slc_err *e)
{
    if (is_run_folder(args[0]))
        return verify_run(args[0], e);
    return verify_one(args[0], e);
}

static int run_export(char **args, struct slc_err *e)
{
    enum slc_dtype dtype = SLC_F32;
    char path[4096];
    double started = slc_now();

    if (dtype_text && !strcmp(dtype_text, "bf16"))
        dtype = SLC_BF16;
    else if (dtype_text && strcmp(dtype_text, "fp32"))
        return slc_errf(e, SLC_EXIT_CONFIG, "--dtype is fp32 or bf16, not %s",
                        dtype_text);
    if (resolve(args[0], path, e) < 0 || slc_hf_export(path, args[1], dtype, e) < 0)
        return -1;
    printf("%s: exported to %s in %.2f s\n", path, args[1], slc_now() - started);
    return 0;
}

static int run_import(char **args, struct slc_err *e)
{
    double started = slc_now();

    if (slc_hf_import(args[0], args[1], e) < 0)
        return -1;
    printf("%s: imported to %s/checkpoints/step-00000000 in %.2f s\n", args[0], args[1],
           slc_now() - started);
    return 0;
}

static const struct verb verbs[] = {
    {"ls", "ls RUN", 1, run_ls},
    {"info", "info CHECKPOINT [--json]", 1, run_info},
    {"verify", "verify CHECKPOINT|RUN", 1, run_verify},
    {"export", "export CHECKPOINT DIR [--dtype fp32|bf16]", 2, run_export},
    {"import", "import DIR RUN", 2, run_import},
};
enum { VERBS = sizeof(verbs) / sizeof(*verbs) };

static const char usage[] =
    "sluice ckpt VERB ARGUMENTS\n\n"
    "  ls RUN                   the checkpoints of a run folder\n"
    "  info CHECKPOINT          what a checkpoint holds\n"
    "  verify CHECKPOINT|RUN    prove every byte; exit 0 only if all are proven\n"
    "  export CHECKPOINT DIR    to a Hugging Face folder (safetensors and "
    "config.json)\n"
    "  import DIR RUN           a Hugging Face folder to step 0 of a run folder\n\n"
    "CHECKPOINT is a step-NNNNNNNN folder, or a run folder: then its newest proven "
    "one.";

int slc_cmd_ckpt(int argc, char **argv)
{
    static const struct slc_flag flags[] = {
        {"--json", NULL, "info: the manifest as one line of JSON", NULL, &as_json},
        {"--dtype", "TYPE", "export: fp32 (default) or bf16", &dtype_text, NULL},
    };
    struct slc_err e = SLC_ERR_INIT;
    int n, rc = slc_flags_parse(argc, argv, usage, flags, 2, &n, &e);

    if (rc > 0)
        return SLC_EXIT_OK;
    if (rc == 0 && n == 0)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "what to do? sluice ckpt --help lists it");
    for (int i = 0; i < VERBS && rc == 0; i++) {
        if (strcmp(argv[1], verbs[i].name))
            continue;
        if (n - 1 != verbs[i].n_args)
            rc = slc_errf(&e, SLC_EXIT_CONFIG, "usage: sluice ckpt %s", verbs[i].usage);
        else
            rc = verbs[i].run(argv + 2, &e);
        return rc < 0 ? slc_cmd_fail("ckpt", &e) : SLC_EXIT_OK;
    }
    if (rc == 0)
        slc_errf(&e, SLC_EXIT_CONFIG,
                 "unknown verb %s; it is ls, info, verify, export or import", argv[1]);
    return slc_cmd_fail("ckpt", &e);
}
