/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_KERNELS_CUDA_SDPA_GRAPH_H
#define SLC_KERNELS_CUDA_SDPA_GRAPH_H

#include "kernels/cuda/sdpa.h"

/* An operation graph of cuDNN while it is built, and the descriptors that it is made of. */

#define SLC_SDPA_DESCRIPTORS 160

typedef cudnnBackendDescriptor_t desc;

struct tensor {
    desc d;
    int64_t dim[4], stride[4];
};

struct graph {
    const struct slc_sdpa_shape *s;
    desc made[SLC_SDPA_DESCRIPTORS], op[64];
    int n_made, n_op;
    int64_t next_uid;
    cudnnStatus_t status; /* of the first call that failed */
    bool uses[SLC_SDPA_ARRAYS];
    /* tensors used by several nodes */
    struct tensor array[SLC_SDPA_ARRAYS];
};

static inline void check(struct graph *g, cudnnStatus_t s)
{
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = s;
}

static inline desc make(struct graph *g, cudnnBackendDescriptorType_t type)
{
    desc d = NULL;

    if (g->n_made == SLC_SDPA_DESCRIPTORS) {
        check(g, CUDNN_STATUS_INTERNAL_ERROR);
        return NULL;
    }
    check(g, cudnnBackendCreateDescriptor(type, &d));
    if (d)
        g->made[g->n_made++] = d;
    return d;
}

static inline void set(struct graph *g, desc d, cudnnBackendAttributeName_t name,
                       cudnnBackendAttributeType_t type, int64_t n, const void *value)
{
    check(g, cudnnBackendSetAttribute(d, name, type, n, value));
}

static inline void set_desc(struct graph *g, desc d, cudnnBackendAttributeName_t name,
                            desc value)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

/* Adds the nodes of the shape g->s. */
void slc_sdpa_graph_build(struct graph *g);

#endif
