/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_FOLDER_H
#define SLC_STORE_FOLDER_H

#include <stdint.h>

#include "base/err.h"

/*
 * RUN/checkpoints: its step-NNNNNNNN folders, and the ones under way, step-*.tmp.
 */
#define SLC_STEP_NAME 32 /* bytes of "step-NNNNNNNN" and more digits if it must be */

/* Steps of all committed folders, descending; *steps malloc'ed. No folder at all: 0. */
int slc_folder_steps(const char *run_dir, int64_t **steps, int *n, struct slc_err *e);
/* "RUN/checkpoints/step-NNNNNNNN" + suffix. */
int slc_folder_path(const char *run_dir, int64_t step, const char *suffix,
                    char path[4096], struct slc_err *e);

/* A folder with files but no folders in it; missing is fine. */
int slc_folder_remove(const char *path, struct slc_err *e);
/* Everything step-*.tmp: what dead incarnations left. */
void slc_folder_sweep(const char *run_dir);
/* Keep the newest `keep` good checkpoints up to `step`, remove the older ones. */
void slc_folder_keep(const char *run_dir, int64_t step, int keep);

#endif
