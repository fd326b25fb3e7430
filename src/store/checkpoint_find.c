/* SPDX-License-Identifier: Apache-2.0 */
#include "store/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/agree.h"
#include "store/folder.h"
#include "store/reader.h"

/* Everything but the data blocks. */
static int prove(const char *path, struct slc_err *e)
{
    struct slc_manifest m;
    uint32_t *blocks = NULL;
    char *text;
    size_t len;
    int rc;

    if (slc_reader_load_manifest(path, &text, &len, &m, e) < 0)
        return -1;
    rc = slc_reader_load_blocks(path, &m, &blocks, e);
    if (rc == 0)
        rc = slc_reader_check_metadata(path, &m, e);
    free(blocks);
    free(text);
    slc_manifest_release(&m);
    return rc;
}

/* Newest proven one below step `limit`. */
static int find(const char *run_dir, int64_t limit, char path[4096], struct slc_err *e)
{
    struct slc_err bad = SLC_ERR_INIT;
    int64_t *steps;
    int n, seen = 0, rc = 0;

    path[0] = '\0';
    if (slc_folder_steps(run_dir, &steps, &n, e) < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        if (steps[i] >= limit)
            continue;
        seen++;
        if (slc_folder_path(run_dir, steps[i], "", path, e) < 0) {
            rc = -1;
            break;
        }
        if (prove(path, &bad) == 0)
            break;
        slc_warn("store", "passing over a checkpoint: %s", bad.text);
        path[0] = '\0';
    }
    free(steps);
    if (rc == 0 && seen && !path[0])
        rc = slc_errf(
            e, SLC_EXIT_CHECKPOINT,
            "none of the %d checkpoints in %s/checkpoints could be proven; the "
            "last: %.300s",
            seen, run_dir, bad.text);
    return rc;
}

static int find_below(struct slc_group *g, const char *run_dir, int64_t limit,
                      char path[4096], struct slc_err *e)
{
    int rc = slc_agree_index(g) == 0 ? find(run_dir, limit, path, e) : 0;

    if (slc_agree(g, rc, e) < 0)
        return -1;
    if (slc_agree_size(g) > 1)
        return slc_broadcast(g, path, 4096, 0, e);
    return 0;
}

int slc_ckpt_find(struct slc_group *g, const char *run_dir, char path[4096],
                  struct slc_err *e)
{
    return find_below(g, run_dir, INT64_MAX, path, e);
}

int slc_ckpt_find_older(struct slc_group *g, const char *run_dir, const char *than,
                        char path[4096], struct slc_err *e)
{
    const char *name = strstr(than, "step-");

    for (const char *next = name; next; next = strstr(next + 1, "step-"))
        name = next;
    return find_below(g, run_dir, name ? strtoll(name + 5, NULL, 10) : INT64_MAX, path,
                      e);
}
