/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_HF_H
#define SLC_STORE_HF_H

#include "model/param.h"

/*
 * Hugging Face folders (config.json + safetensors), in and out, one parameter piece at
 * a time, so memory does not grow with the model.
 */

/* Fill this rank's weights from a folder: released (per-expert) and fused layouts.
 * Every element must be covered; tensors that belong to no parameter are named in one
 * warning. */
int slc_hf_load(const char *dir, struct slc_params *ps, const struct slc_spec *s,
                struct slc_queue *q, struct slc_err *e);

/* Checkpoint to folder: released layout (one tensor per expert and projection), fp32 or bf16,
 * and config.json. out_dir must not be there, or be empty; it appears whole. Every block
 * read is proven. */
int slc_hf_export(const char *ckpt, const char *out_dir, enum slc_dtype dtype,
                  struct slc_err *e);
/* Folder to a checkpoint under run_dir: step 0, weights alone in fp32 (bf16 widens exactly).
 * run_dir must have no checkpoints yet. */
int slc_hf_import(const char *dir, const char *run_dir, struct slc_err *e);

#endif
