/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_CHECKPOINT_H
#define SLC_STORE_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/err.h"
#include "comm/group.h"

/*
 * Checkpoints: RUN/checkpoints/step-NNNNNNNN/ with state.h5, manifest.json, blocks.crc.
 * One HDF5 dataset per logical tensor in its global shape; every rank writes its own
 * extents with pwrite; a manifest proves every byte; one rename commits. Any number of
 * ranks, any ep, loads it. Protocol: doc/format.md.
 *
 * A group g that is NULL means alone, in every call below.
 */
struct slc_ckpt_extent {
    int64_t start, count; /* elements of the flattened global tensor */
};
/* A tensor of the checkpoint, the same list in the same order on all ranks; only the
 * extents differ. To save: extents of all ranks cover the tensor exactly once. To
 * load: any extents (overlap between ranks is fine). */
struct slc_ckpt_tensor {
    char name[96]; /* "weights/layers.3.experts.up", "adamw.m/...", "adamw.v/..." */
    enum slc_dtype dtype;
    int ndim;
    int64_t shape[4];
    const struct slc_ckpt_extent *extents;
    int n_extents;
};
/* Moves elements between tensor i of the list and buf, in pieces that lie inside one
 * extent. A save reads into buf, in no particular order, a few elements twice; a load
 * writes from buf and leaves it as it is. buf is aligned for the elements. */
typedef int slc_ckpt_move_f(void *ctx, int tensor, int64_t start, int64_t count,
                            void *buf, struct slc_err *e);

/* Small state: counters and texts, written by rank 0, read by all. */
struct slc_ckpt_state {
    int64_t step, updates, samples, tokens, skipped;
    uint64_t seed, spec_digest, corpus_digest;
    double best_validation; /* 0: never validated */
    char *config;   /* config.json text */
    char *run_file; /* resolved run file */
    char *versions; /* sluice and library versions, one line */
};
void slc_ckpt_state_release(struct slc_ckpt_state *s);

struct slc_ckpt_report {
    double seconds;
    int64_t bytes; /* written or read by all ranks */
};

/* Lock the run folder for this incarnation (run.lock): refuses a folder in live use
 * (SLC_EXIT_BUSY), takes over from the dead. Collective. */
int slc_run_lock(struct slc_group *g, const char *run_dir, struct slc_err *e);
void slc_run_unlock(struct slc_group *g, const char *run_dir);

/* Save; collective. The run folder must be locked (slc_run_lock). On failure (disk
 * full,
 * ...) nothing named step-* appears, older ones stay, -1 on all ranks alike. A folder
 * of this step that is there already is replaced. Afterwards the newest `keep`
 * checkpoints up to this step stay, older ones go, and what dead incarnations left is
 * swept. */
int slc_ckpt_save(struct slc_group *g, const char *run_dir, int keep,
                  const struct slc_ckpt_state *s, const struct slc_ckpt_tensor *t,
                  int n, slc_ckpt_move_f *read, void *ctx, struct slc_ckpt_report *r,
                  struct slc_err *e);

/* The newest checkpoint under run_dir that proves itself (metadata, manifest, sizes;
 * data blocks are proven while loading). path empty when there is none at all; damaged
 * ones are passed over with one warning line each. Collective; g NULL: alone. */
int slc_ckpt_find(struct slc_group *g, const char *run_dir, char path[4096],
                  struct slc_err *e);
/* The same, older than the checkpoint `than` (a path that slc_ckpt_find gave): where to
 * go on when loading that one failed with SLC_EXIT_CHECKPOINT, because a data block of
 * it is damaged. */
int slc_ckpt_find_older(struct slc_group *g, const char *run_dir, const char *than,
                        char path[4096], struct slc_err *e);
/* Small state alone. */
int slc_ckpt_read_state(struct slc_group *g, const char *path, struct slc_ckpt_state *s,
                        struct slc_err *e);
/* Load the extents of the list; every block read is checked (a bad one:
 * SLC_EXIT_CHECKPOINT, naming file, tensor and byte). A tensor missing from the file or
 * of another shape is an SLC_EXIT_INPUT error naming it. Tensors of the file that are
 * not in the list are left alone. Collective. */
int slc_ckpt_load(struct slc_group *g, const char *path,
                  const struct slc_ckpt_tensor *t, int n, slc_ckpt_move_f *write,
                  void *ctx, struct slc_ckpt_report *r, struct slc_err *e);

/* Prove every byte of one checkpoint folder; one line per defect to stdout. 0 only if
 * perfect, else SLC_EXIT_DIFFERS with the number of defects. Alone. */
int slc_ckpt_verify(const char *path, struct slc_err *e);

/* What a checkpoint holds, from its manifest. */
struct slc_ckpt_entry {
    char name[96];
    enum slc_dtype dtype;
    int ndim;
    int64_t shape[4], bytes;
    uint32_t crc; /* CRC-32C of the whole tensor */
};
int slc_ckpt_list(const char *path, struct slc_ckpt_entry **list, int *n,
                  struct slc_err *e);

#endif
