/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_HF_MAP_H
#define SLC_STORE_HF_MAP_H

#include "model/param.h"
#include "store/safetensors.h"

/*
 * Where each parameter's elements are in the tensors of a Hugging Face folder. Opening
 * proves that every tensor is there, has the shape the model wants, and that every
 * element of every parameter comes from exactly one place.
 */
struct slc_hf_source {
    int64_t offset, count; /* elements of the parameter */
    int tensor;
};

struct slc_hf_map {
    struct slc_st *st;
    const struct slc_params *ps;
    struct slc_hf_param {
        struct slc_hf_source *s; /* ascending, contiguous, covers the parameter */
        int n;
    } * of; /* [ps->n] */
};

/* ps: borrowed, the inventory is enough. Tensors that belong to no parameter are named
 * in one warning. */
int slc_hf_map_open(struct slc_hf_map *m, const char *dir, const struct slc_spec *s,
                    const struct slc_params *ps, struct slc_err *e);
void slc_hf_map_close(struct slc_hf_map *m);
/* Elements [start, start+count) of the global array of parameter i, widened to fp32. */
int slc_hf_map_read(struct slc_hf_map *m, int i, int64_t start, int64_t count,
                    float *out, struct slc_err *e);

#endif
