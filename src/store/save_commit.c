/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/save_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/log.h"
#include "store/failpoint.h"
#include "store/folder.h"
#include "store/reader.h"
#include "store/run_lock.h"

/* -- collecting the CRCs ----------------------------------------------------- */

/* Pieces of all ranks, in the plan's order, become blocks; blocks become tensors. */
static void join_crcs(struct slc_save *s, uint32_t **from)
{
    int64_t begin, end;

    for (int i = 0; i < s->n; i++) {
        struct slc_manifest_tensor *t = &s->m.t[i];
        for (int64_t k = s->plan.first[i]; k < s->plan.first[i + 1]; k++) {
            int rank = s->plan.spans[k].rank;
            int64_t pieces = slc_plan_pieces(&s->plan, i, k);
            for (int64_t j = 0; j < pieces; j++) {
                slc_plan_piece(&s->plan, i, k, j, &begin, &end);
                uint32_t *block = &s->blocks[t->block + begin / SLC_CKPT_BLOCK];
                uint32_t crc = *from[rank]++;
                *block = begin % SLC_CKPT_BLOCK
                             ? slc_crc32c_combine(*block, crc, (uint64_t)(end - begin))
                             : crc;
                t->entry.crc =
                    slc_crc32c_combine(t->entry.crc, crc, (uint64_t)(end - begin));
            }
        }
    }
}

static int collect_on_root(struct slc_save *s, struct slc_err *e)
{
    int64_t total = 0;

    for (int r = 0; r < s->size; r++) {
        int64_t n = slc_save_pieces(s, r);
        s->from[r] = s->all + total;
        if (r == s->me)
            memcpy(s->from[r], s->crcs, (size_t)n * sizeof(*s->all));
        else if (n && slc_recv(s->g, r, SLC_SAVE_TAG_CRCS, s->from[r],
                               (size_t)n * sizeof(*s->all), e) < 0)
            return -1;
        total += n;
    }
    join_crcs(s, s->from);
    return 0;
}

static int make_manifest(struct slc_save *s, struct slc_err *e)
{
    struct slc_manifest *m = &s->m;
    int64_t pieces = 0;

    m->t = calloc((size_t)s->n + 1, sizeof(*m->t));
    m->n = s->n;
    m->world = s->size;
    m->file_bytes = s->made.bytes;
    for (int i = 0; m->t && i < s->n; i++) {
        struct slc_ckpt_entry *x = &m->t[i].entry;
        memcpy(x->name, s->t[i].name, sizeof(x->name));
        memcpy(x->shape, s->t[i].shape, sizeof(x->shape));
        x->dtype = s->t[i].dtype;
        x->ndim = s->t[i].ndim;
        x->bytes = slc_tensor_bytes(&s->t[i]);
        m->t[i].offset = s->offsets[i];
        m->t[i].block = m->n_blocks;
        m->n_blocks += slc_manifest_blocks(x->bytes);
    }
    s->blocks = calloc((size_t)m->n_blocks + 1, sizeof(*s->blocks));
    for (int r = 0; r < s->size; r++)
        pieces += slc_save_pieces(s, r);
    s->all = malloc(((size_t)pieces + 1) * sizeof(*s->all));
    s->from = malloc((size_t)s->size * sizeof(*s->from));
    if (!m->t || !s->blocks || !s->all || !s->from)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a manifest");
    return slc_ckpt_state_copy(&m->state, s->state, e);
}

int slc_save_collect(struct slc_save *s, struct slc_err *e)
{
    int64_t n = slc_save_pieces(s, s->me);
    int rc = s->me == 0 ? make_manifest(s, e) : 0;

    if (slc_agree(s->g, rc, e) < 0)
        return -1;
    if (s->me == 0)
        return collect_on_root(s, e);
    return n ? slc_send(s->g, 0, SLC_SAVE_TAG_CRCS, s->crcs,
                        (size_t)n * sizeof(*s->crcs), e)
             : 0;
}

/* -- committing ----------------------------------------------------------------- */

static int write_blocks(struct slc_save *s, struct slc_err *e)
{
    size_t len = SLC_CKPT_BLOCKS_HEADER + 4 * (size_t)s->m.n_blocks;
    unsigned char *data = malloc(len);
    char path[PATH_MAX];
    int rc = -1;

    if (!data)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for blocks.crc");
    memcpy(data, "sluice01", 8);
    for (int i = 0; i < 8; i++)
        data[8 + i] = (unsigned char)((uint64_t)s->m.n_blocks >> (8 * i));
    for (int64_t k = 0; k < s->m.n_blocks; k++)
        for (int i = 0; i < 4; i++)
            data[SLC_CKPT_BLOCKS_HEADER + 4 * k + i] =
                (unsigned char)(s->blocks[k] >> (8 * i));
    s->m.blocks_crc = slc_crc32c(0, data, len);
    if (slc_save_path(s, "blocks.crc", path, e) == 0)
        rc = slc_file_replace(path, data, len, e);
    free(data);
    return rc;
}

static int write_manifest(struct slc_save *s, struct slc_err *e)
{
    char path[PATH_MAX], *text = NULL;
    size_t len;
    int rc = -1;

    if (slc_save_path(s, "state.h5", path, e) < 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", path,
                        strerror(errno));
    rc = slc_reader_metadata_crc(fd, path, &s->m, &s->m.metadata_crc, e);
    close(fd);
    if (rc < 0 || !(text = slc_manifest_text(&s->m, &len, e)))
        return -1;
    rc = slc_save_path(s, "manifest.json", path, e);
    if (rc == 0)
        rc = slc_file_replace(path, text, len, e);
    free(text);
    return rc;
}

/* The final name appears whole. A folder of this step that is there already (a damaged
 * one that a resume passed over) changes places with ours and goes. */
static int rename_folder(struct slc_save *s, struct slc_err *e)
{
    if (renameat2(AT_FDCWD, s->made.tmp, AT_FDCWD, s->made.path, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno == EEXIST && renameat2(AT_FDCWD, s->made.tmp, AT_FDCWD, s->made.path,
                                     RENAME_EXCHANGE) == 0) {
        slc_failpoint("save:exchanged");
        if (slc_folder_remove(s->made.tmp, e) < 0)
            slc_warn("store", "%s", e ? e->text : s->made.tmp);
        return 0;
    }
    if (errno == EINVAL || errno == ENOSYS) { /* flags this file system does not know */
        char old[4096];
        if (slc_folder_path(s->run_dir, s->state->step, ".old.tmp", old, e) < 0)
            return -1;
        rename(s->made.path, old);
        if (rename(s->made.tmp, s->made.path) == 0) {
            slc_folder_remove(old, NULL);
            return 0;
        }
    }
    return slc_errf(e, SLC_EXIT_SYSTEM, "cannot rename %s to %s: %s", s->made.tmp,
                    s->made.path, strerror(errno));
}

/* A hint for people; slc_ckpt_find never reads it. */
static void write_latest(const struct slc_save *s)
{
    char path[PATH_MAX], line[64];
    struct slc_err e = SLC_ERR_INIT;
    int n = snprintf(line, sizeof(line), "step-%08lld\n", (long long)s->state->step);

    if (snprintf(path, sizeof(path), "%s/checkpoints/latest", s->run_dir) >= PATH_MAX)
        return;
    if (slc_file_replace(path, line, (size_t)n, &e) < 0)
        slc_warn("store", "%s", e.text);
}

int slc_save_commit(struct slc_save *s, struct slc_err *e)
{
    char dir[PATH_MAX];

    snprintf(dir, sizeof(dir), "%s/checkpoints", s->run_dir);
    if (write_blocks(s, e) < 0)
        return -1;
    slc_failpoint("save:blocks");
    if (write_manifest(s, e) < 0 || slc_fsync_dir(s->made.tmp, e) < 0)
        return -1;
    slc_failpoint("save:manifest");
    if (slc_run_lock_check(s->run_dir, e) < 0 || rename_folder(s, e) < 0)
        return -1;
    slc_failpoint("save:renamed");
    if (slc_fsync_dir(dir, e) < 0) {
        rename(s->made.path, s->made.tmp);
        return -1;
    }
    slc_failpoint("save:committed");
    write_latest(s);
    slc_failpoint("save:latest");
    return 0;
}
