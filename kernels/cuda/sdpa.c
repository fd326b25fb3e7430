/* SPDX-License-Identifier: Apache-2.0 */
#ifdef SLC_HAVE_CUDNN

#include <string.h>

#include "kernels/cuda/sdpa_graph.h"

static desc operation_graph(struct graph *g, cudnnHandle_t handle)
{
    desc og = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);

    set(g, og, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_op,
        g->op);
    if (handle)
        set(g, og, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    check(g, cudnnBackendFinalize(og));
    return og;
}

/* The engine configuration that the heuristics put first. */
static desc first_config(struct graph *g, desc og, desc device)
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    desc heur = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    desc config = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    int64_t n = 0;

    set_desc(g, heur, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, og);
    set(g, heur, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (device)
        set_desc(g, heur, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device);
    check(g, cudnnBackendFinalize(heur));
    if (g->status != CUDNN_STATUS_SUCCESS)
        return NULL;
    check(g, cudnnBackendGetAttribute(heur, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                      CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &config));
    if (n < 1)
        check(g, CUDNN_STATUS_NOT_SUPPORTED);
    return config;
}

static void finish_plan(struct graph *g, struct slc_sdpa_plan *p, desc config,
                        cudnnHandle_t handle, desc device)
{
    int64_t n = 0;

    check(g, cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
                                          &p->plan));
    set_desc(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (handle)
        set(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    if (device)
        set_desc(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device);
    check(g, cudnnBackendFinalize(p->plan));
    check(g, cudnnBackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                      CUDNN_TYPE_INT64, 1, &n, &p->workspace));
}

int slc_sdpa_plan_make(struct slc_sdpa_plan *p, const struct slc_sdpa_shape *s,
                       cudnnHandle_t handle, cudnnBackendDescriptor_t device,
                       struct slc_err *e)
{
    struct graph g = {.s = s, .next_uid = 100, .status = CUDNN_STATUS_SUCCESS};
    char text[200];

    memset(p, 0, sizeof(*p));
    slc_sdpa_graph_build(&g);
    desc og = operation_graph(&g, handle);
    desc config = g.status == CUDNN_STATUS_SUCCESS ? first_config(&g, og, device) : NULL;
    if (g.status == CUDNN_STATUS_SUCCESS)
        finish_plan(&g, p, config, handle, device);
    memcpy(p->uses, g.uses, sizeof(p->uses));
    for (int i = g.n_made - 1; i >= 0; i--)
        cudnnBackendDestroyDescriptor(g.made[i]);
    if (g.status == CUDNN_STATUS_SUCCESS)
        return 0;
    slc_sdpa_plan_release(p);
    cudnnGetLastErrorString(text, sizeof(text));
    return slc_errf(e, SLC_EXIT_UNSUPPORTED, "cuDNN has no attention for this shape: %s: %s",
                    cudnnGetErrorString(g.status), text);
}

void slc_sdpa_plan_release(struct slc_sdpa_plan *p)
{
    if (p->plan)
        cudnnBackendDestroyDescriptor(p->plan);
    p->plan = NULL;
}

cudnnStatus_t slc_sdpa_plan_run(const struct slc_sdpa_plan *p, cudnnHandle_t handle,
                                void *const arrays[SLC_SDPA_ARRAYS], void *workspace)
{
    int64_t uid[SLC_SDPA_ARRAYS], n = 0;
    void *pointer[SLC_SDPA_ARRAYS];
    cudnnBackendDescriptor_t pack;
    cudnnStatus_t s = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
                                                   &pack);

    if (s != CUDNN_STATUS_SUCCESS)
        return s;
    for (int i = 1; i < SLC_SDPA_ARRAYS; i++)
        if (p->uses[i]) {
            uid[n] = i;
            pointer[n++] = arrays[i];
        }
    s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                 CUDNN_TYPE_VOID_PTR, n, pointer);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS,
                                     CUDNN_TYPE_INT64, n, uid);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendSetAttribute(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE,
                                     CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendFinalize(pack);
    if (s == CUDNN_STATUS_SUCCESS)
        s = cudnnBackendExecute(handle, p->plan, pack);
    cudnnBackendDestroyDescriptor(pack);
    return s;
}

#endif
