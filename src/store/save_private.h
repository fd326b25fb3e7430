/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_SAVE_PRIVATE_H
#define SLC_STORE_SAVE_PRIVATE_H

#include <limits.h>

#include "store/agree.h"
#include "store/checkpoint.h"
#include "store/manifest.h"
#include "store/plan.h"

/* One save, shared by checkpoint_save.c (the protocol), save_data.c (every rank's
 * bytes) and save_commit.c (member 0's proof and rename). */
#define SLC_SAVE_BUFFER (4 * SLC_CKPT_BLOCK)
#define SLC_SAVE_TAG_FRAGMENT 0x51c0001u
#define SLC_SAVE_TAG_CRCS 0x51c0002u

/* What member 0 tells the others about the file it made. */
struct slc_made {
    char tmp[4096], path[4096]; /* folder under way, its final name */
    int64_t bytes;
    uint64_t inode;
};

struct slc_save {
    struct slc_group *g;
    const char *run_dir;
    const struct slc_ckpt_state *state;
    const struct slc_ckpt_tensor *t;
    int n, me, size;
    slc_ckpt_move_f *read;
    void *ctx;
    struct slc_plan plan;
    struct slc_made made;
    int64_t *offsets; /* [n] where the tensors are in state.h5 */
    int fd;
    bool committed; /* member 0: the final name is there and durable */
    unsigned char *buf;    /* [SLC_SAVE_BUFFER] */
    uint32_t *crcs;        /* of this rank's pieces, in plan order */
    struct slc_manifest m; /* member 0: under way */
    uint32_t *blocks;      /* member 0: [m.n_blocks] */
    uint32_t *all, **from; /* member 0: pieces of all ranks, where each rank's are */
};

/* File of the folder under way. */
int slc_save_path(const struct slc_save *s, const char *name, char path[PATH_MAX],
                  struct slc_err *e);
/* Pieces (CRCs) of a member. */
int64_t slc_save_pieces(const struct slc_save *s, int rank);

/* Collective: every rank's bytes are in the file, on disk, or all ranks fail. */
int slc_save_data(struct slc_save *s, struct slc_err *e);
/* Collective: the CRCs of all ranks on member 0, joined to blocks and tensors. */
int slc_save_collect(struct slc_save *s, struct slc_err *e);
/* Member 0: blocks.crc, manifest.json, rename. */
int slc_save_commit(struct slc_save *s, struct slc_err *e);

#endif
