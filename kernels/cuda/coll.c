/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Collectives on GPU memory by NCCL. The library is looked for when the first group of
 * ranks is made, so that one rank, or a machine without it, does not need it. Shares are
 * as large as the caller cuts them: one reduction or broadcast a share, in one group of
 * calls. The algorithm is fixed, and with it the order of the sum.
 */

#ifdef SLC_HAVE_NCCL

#include <dlfcn.h>
#include <nccl.h>

#define CALLS(X)                                                                       \
    X(GetUniqueId) X(CommInitRank) X(CommDestroy) X(CommAbort) X(CommGetAsyncError)    \
    X(Reduce) X(Broadcast) X(GroupStart) X(GroupEnd) X(GetErrorString) X(GetVersion)

struct slc_coll {
    struct slc_cuda *cuda;
    ncclComm_t comm;
    int size, index;
    struct slc_coll *next;
};

static struct {
    bool tried;
    char why[256]; /* it cannot be used */
#define POINTER(f) __typeof__(nccl##f) *f;
    CALLS(POINTER)
#undef POINTER
} nccl;

static int load(struct slc_err *e)
{
    if (!nccl.tried) {
        void *lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);

        nccl.tried = true;
        setenv("NCCL_ALGO", "Ring", 0); /* read when the first communicator is made */
        if (!lib)
            snprintf(nccl.why, sizeof(nccl.why), "%s", dlerror());
#define FIND(f)                                                                        \
    if (lib && !nccl.why[0]) {                                                         \
        *(void **)&nccl.f = dlsym(lib, "nccl" #f);                                     \
        if (!nccl.f)                                                                   \
            snprintf(nccl.why, sizeof(nccl.why), "libnccl.so.2 has no nccl" #f);       \
    }
        CALLS(FIND)
#undef FIND
    }
    if (!nccl.why[0])
        return 0;
    return slc_errf(e, SLC_EXIT_UNSUPPORTED, "backend cuda: no NCCL: %s", nccl.why);
}

static int error_of(struct slc_err *e, ncclResult_t r, const char *what)
{
    if (r == ncclSuccess)
        return 0;
    return slc_errf(e, r == ncclRemoteError ? SLC_EXIT_PEER : SLC_EXIT_SYSTEM,
                    "backend cuda: NCCL: %s: %s", what, nccl.GetErrorString(r));
}

int slc_cuda_coll_id(struct slc_backend *b, unsigned char id[SLC_COLL_ID],
                     struct slc_err *e)
{
    ncclUniqueId u;

    (void)b;
    _Static_assert(sizeof(u) == SLC_COLL_ID, "NCCL's id");
    if (load(e) != 0 || error_of(e, nccl.GetUniqueId(&u), "no id") != 0)
        return -1;
    memcpy(id, &u, sizeof(u));
    return 0;
}

static int join(struct slc_coll *x, ncclUniqueId id, struct slc_err *e)
{
    const ncclResult_t r = nccl.CommInitRank(&x->comm, x->size, id, x->index);

    if (r == ncclInvalidUsage) /* what NCCL says of two ranks on one GPU */
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "backend cuda: NCCL: a rank on GPU %d cannot join a group: %s; give "
                        "each rank of a node a GPU of its own (--gpus-per-task=1), or set "
                        "parallel.collectives=host",
                        x->cuda->device, nccl.GetErrorString(r));
    return error_of(e, r, "joining a group");
}

struct slc_coll *slc_cuda_coll_create(struct slc_backend *b,
                                      const unsigned char id[SLC_COLL_ID], int size,
                                      int index, struct slc_err *e)
{
    struct slc_cuda *c = (struct slc_cuda *)b;
    struct slc_coll *x = calloc(1, sizeof(*x));
    ncclUniqueId u;

    if (!x) {
        slc_errf(e, SLC_EXIT_SYSTEM, "backend cuda: no memory for a group of ranks");
        return NULL;
    }
    memcpy(&u, id, sizeof(u));
    x->cuda = c;
    x->size = size;
    x->index = index;
    if (load(e) != 0 || join(x, u, e) != 0) {
        free(x);
        return NULL;
    }
    x->next = c->colls;
    c->colls = x;
    return x;
}

void slc_cuda_coll_destroy(struct slc_coll *x)
{
    struct slc_coll **at = &x->cuda->colls;

    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    if (x->comm)
        nccl.CommDestroy(x->comm);
    free(x);
}

static ncclDataType_t type_of(enum slc_dtype t)
{
    return t == SLC_BF16 ? ncclBfloat16 : ncclFloat32;
}

static void run(struct slc_queue *q, struct slc_coll *x, void *buf, const int64_t *off,
                enum slc_dtype dtype, bool reduce)
{
    const cudaStream_t stream = slc_cuda_queue_of(q)->stream;
    struct slc_err e = SLC_ERR_INIT;
    ncclResult_t r = x->comm ? nccl.GroupStart() : ncclInvalidUsage;

    for (int i = 0; i < x->size && r == ncclSuccess; i++) {
        char *share = (char *)buf + (size_t)off[i] * slc_dtype_size(dtype);
        const size_t n = (size_t)(off[i + 1] - off[i]);

        if (n > 0)
            r = reduce ? nccl.Reduce(share, share, n, type_of(dtype), ncclSum, i, x->comm,
                                     stream)
                       : nccl.Broadcast(share, share, n, type_of(dtype), i, x->comm,
                                        stream);
    }
    if (r == ncclSuccess)
        r = nccl.GroupEnd();
    if (error_of(&e, r, reduce ? "reduction" : "broadcast") != 0)
        slc_cuda_fail_text(q, e.code, e.text);
}

void slc_cuda_coll_reduce_scatter(struct slc_queue *q, struct slc_coll *x, void *buf,
                                  const int64_t *off, enum slc_dtype dtype)
{
    run(q, x, buf, off, dtype, true);
}

void slc_cuda_coll_allgatherv(struct slc_queue *q, struct slc_coll *x, void *buf,
                              const int64_t *off, enum slc_dtype dtype)
{
    run(q, x, buf, off, dtype, false);
}

int slc_cuda_coll_poll(struct slc_cuda *c, struct slc_err *e)
{
    for (struct slc_coll *x = c->colls; x; x = x->next) {
        ncclResult_t r = ncclSuccess;

        if (x->comm && nccl.CommGetAsyncError(x->comm, &r) == ncclSuccess &&
            (r == ncclSuccess || r == ncclInProgress))
            continue;
        if (!x->comm)
            continue;
        nccl.CommAbort(x->comm); /* ends its kernels: the stream goes on */
        x->comm = NULL;
        return error_of(e, r != ncclSuccess ? r : ncclInternalError, "a group has failed");
    }
    return 0;
}

void slc_cuda_coll_describe(char *text, size_t len)
{
    int v = 0;

    if (nccl.tried && !nccl.why[0] && nccl.GetVersion(&v) == ncclSuccess)
        snprintf(text, len, ", NCCL %d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    else
        text[0] = '\0';
}

#else

int slc_cuda_coll_id(struct slc_backend *b, unsigned char id[SLC_COLL_ID],
                     struct slc_err *e)
{
    (void)b;
    (void)id;
    return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                    "backend cuda: built without NCCL (configure found no nccl.h)");
}

struct slc_coll *slc_cuda_coll_create(struct slc_backend *b,
                                      const unsigned char id[SLC_COLL_ID], int size,
                                      int index, struct slc_err *e)
{
    (void)id;
    (void)size;
    (void)index;
    slc_cuda_coll_id(b, NULL, e);
    return NULL;
}

void slc_cuda_coll_destroy(struct slc_coll *x)
{
    (void)x;
}

void slc_cuda_coll_reduce_scatter(struct slc_queue *q, struct slc_coll *x, void *buf,
                                  const int64_t *off, enum slc_dtype dtype)
{
    (void)x;
    (void)buf;
    (void)off;
    (void)dtype;
    slc_cuda_fail_text(q, SLC_EXIT_BUG, "built without NCCL");
}

void slc_cuda_coll_allgatherv(struct slc_queue *q, struct slc_coll *x, void *buf,
                              const int64_t *off, enum slc_dtype dtype)
{
    slc_cuda_coll_reduce_scatter(q, x, buf, off, dtype);
}

int slc_cuda_coll_poll(struct slc_cuda *c, struct slc_err *e)
{
    (void)c;
    (void)e;
    return 0;
}

void slc_cuda_coll_describe(char *text, size_t len)
{
    (void)len;
    text[0] = '\0';
}

#endif
