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

/* Checkpoint to folder, released layout, fp32 or bf16. */
int slc_hf_export(const char *ckpt, const char *out_dir, enum slc_dtype dtype,
                  struct slc_err *e);
/* Folder to a checkpoint (step 0, weights only) under run_dir. */
int slc_hf_import(const char *dir, const char *run_dir, struct slc_err *e);

#endif
