/* SPDX-License-Identifier: Apache-2.0 */
#include "store/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "store/reader.h"
#include "store/state_file.h"

/* Counts and prints defects; the checks go on as far as what is proven allows. */
struct findings {
    const char *dir;
    int n;
};

static void report(void *ctx, const char *line)
{
    struct findings *f = ctx;

    printf("%s: %s\n", f->dir, line);
    f->n++;
}

static void report_err(struct findings *f, const struct slc_err *e)
{
    printf("%s\n", e->text);
    f->n++;
}

/* Nothing else in the folder: what is not listed is not proven. */
static int check_names(struct findings *f, struct slc_err *e)
{
    static const char *const known[] = {".", "..", "state.h5", "manifest.json",
                                        "blocks.crc"};
    DIR *d = opendir(f->dir);
    struct dirent *x;
    char line[PATH_MAX];

    if (!d)
        return slc_errf(e, SLC_EXIT_INPUT, "cannot open checkpoint %s: %s", f->dir,
                        strerror(errno));
    while ((x = readdir(d))) {
        size_t i = 0;
        while (i < 5 && strcmp(known[i], x->d_name))
            i++;
        if (i == 5) {
            snprintf(line, sizeof(line), "%s does not belong to a checkpoint",
                     x->d_name);
            report(f, line);
        }
    }
    closedir(d);
    return 0;
}

/* Every block, and every tensor's CRC from its blocks. */
static int check_data(struct findings *f, struct slc_reader *r, struct slc_err *e)
{
    struct slc_err bad = SLC_ERR_INIT;
    int64_t bytes;

    for (int i = 0; i < r->m.n; i++) {
        const struct slc_ckpt_entry *x = &r->m.t[i].entry;
        uint32_t crc = 0;
        for (int64_t k = 0; k < slc_manifest_blocks(x->bytes); k++) {
            if (!slc_reader_block(r, i, k, &bytes, &bad)) {
                if (bad.code == SLC_EXIT_SYSTEM)
                    return slc_errf(e, bad.code, "%s", bad.text);
                report_err(f, &bad);
            }
            crc = slc_crc32c_combine(crc, r->blocks[r->m.t[i].block + k],
                                     (uint64_t)bytes);
        }
        if (crc != x->crc) {
            char line[160];
            snprintf(line, sizeof(line), "tensor %s: its CRC is not that of its blocks",
                     x->name);
            report(f, line);
        }
    }
    return 0;
}

/* blocks.crc and state.h5, each as far as the other allows. */
static int check_files(struct findings *f, struct slc_reader *r, struct slc_err *e)
{
    struct slc_err bad = SLC_ERR_INIT;
    char path[PATH_MAX];
    int lines;

    if (slc_reader_load_blocks(f->dir, &r->m, &r->blocks, &bad) < 0)
        report_err(f, &bad);
    if (slc_reader_check_metadata(f->dir, &r->m, &bad) < 0) {
        report_err(f, &bad);
    } else {
        snprintf(path, sizeof(path), "%s/state.h5", f->dir);
        lines = slc_state_file_walk(path, &r->m, report, f, &bad);
        if (lines < 0)
            report_err(f, &bad);
    }
    if (!r->blocks || slc_reader_open_data(r, f->dir, &bad) < 0)
        return 0; /* said already: no CRCs to compare with, or no file */
    return check_data(f, r, e);
}

int slc_ckpt_verify(const char *path, struct slc_err *e)
{
    struct findings f = {.dir = path};
    struct slc_err bad = SLC_ERR_INIT;
    struct slc_reader r = {.fd = -1, .in_buf = -1};
    char *text = NULL;
    size_t len;
    int rc = 0;

    if (check_names(&f, e) < 0)
        return -1;
    if (slc_reader_load_manifest(path, &text, &len, &r.m, &bad) < 0)
        report_err(&f, &bad);
    else
        rc = check_files(&f, &r, e);
    free(text);
    slc_reader_close(&r);
    if (rc == 0 && f.n)
        rc = slc_errf(e, SLC_EXIT_DIFFERS, "%s: %d defect%s", path, f.n,
                      f.n == 1 ? "" : "s");
    return rc;
}
