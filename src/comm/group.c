/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/comm_private.h"
#include "comm/bulk.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

uint64_t slc_group_tag(uint16_t id, int kind, int src, uint32_t number)
{
    /* ids start at 1; id 0 is the exchange of ids while a group is made */
    return (uint64_t)(2 * id + kind) << 48 | (uint64_t)(uint16_t)src << 32 | number;
}

static int start(struct slc_world *w, int rank, void *request, void **out,
                 struct slc_err *e)
{
    *out = NULL;
    if (UCS_PTR_IS_ERR(request))
        return slc_peer_lost(w, rank, ucs_status_string(UCS_PTR_STATUS(request)), e);
    *out = request;
    return 0;
}

static int tag_send(struct slc_world *w, int rank, uint64_t tag, const void *buf,
                    size_t bytes, void **request, struct slc_err *e)
{
    ucp_request_param_t param = {.op_attr_mask = 0};
    ucp_ep_h ep = slc_peer_ep(w, rank, e);

    *request = NULL;
    if (!ep)
        return -1;
    return start(w, rank, ucp_tag_send_nbx(ep, buf, bytes, tag, &param), request, e);
}

static int tag_recv(struct slc_world *w, int rank, uint64_t tag, void *buf,
                    size_t bytes, void **request, struct slc_err *e)
{
    /* No immediate completion: a shorter or longer message is found by its status. */
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FLAG_NO_IMM_CMPL};

    return start(w, rank, ucp_tag_recv_nbx(w->worker, buf, bytes, tag, ~0ull, &param),
                 request, e);
}

int slc_group_isend(struct slc_group *g, int to, int kind, uint32_t number,
                    const void *buf, size_t bytes, void **request, struct slc_err *e)
{
    return tag_send(g->w, g->members[to],
                    slc_group_tag(g->ids[to], kind, g->index, number), buf, bytes,
                    request, e);
}

int slc_group_irecv(struct slc_group *g, int from, int kind, uint32_t number, void *buf,
                    size_t bytes, void **request, struct slc_err *e)
{
    return tag_recv(g->w, g->members[from], slc_group_tag(g->id, kind, from, number),
                    buf, bytes, request, e);
}

int slc_group_wait(struct slc_group *g, void **requests, int n, struct slc_err *e)
{
    struct slc_wait wait = {0};
    ucs_status_t bad = UCS_OK;

    for (int i = 0; i < n; i++) {
        ucs_status_t rc = UCS_OK;

        if (!requests[i])
            continue;
        while ((rc = ucp_request_check_status(requests[i])) == UCS_INPROGRESS)
            if (slc_wait_step(g->w, &wait, e) < 0)
                goto err_cancel;
        ucp_request_free(requests[i]);
        requests[i] = NULL;
        if (rc != UCS_OK)
            bad = rc;
    }
    if (bad == UCS_ERR_MESSAGE_TRUNCATED)
        SLC_BUG("ranks called the same collective with different sizes");
    /* The endpoint's own error callback knows which peer it was. */
    return bad == UCS_OK ? 0 : slc_peer_lost(g->w, -1, ucs_status_string(bad), e);

err_cancel:
    for (int i = 0; i < n; i++)
        if (requests[i])
            ucp_request_cancel(g->w->worker, requests[i]);
    return -1;
}

int slc_group_setup_gather(struct slc_group *g, uint32_t number, void *items,
                           size_t each, struct slc_err *e)
{
    struct slc_world *w = g->w;
    char *turned = calloc((size_t)g->size, each), *all = items;
    size_t own = (size_t)g->index;
    int rc = -1;

    if (!turned)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a group of %d", g->size);
    memcpy(turned, all + own * each, each);
    for (int have = 1; have < g->size; have *= 2) {
        int n = have < g->size - have ? have : g->size - have;
        int to = g->members[(g->index - have + g->size) % g->size];
        int from = g->members[(g->index + have) % g->size];
        uint32_t step = number ^ (uint32_t)have;
        void *requests[2] = {NULL, NULL};

        if (tag_recv(w, from, slc_group_tag(0, 0, from, step),
                     turned + (size_t)have * each, each * (size_t)n, &requests[0],
                     e) < 0 ||
            tag_send(w, to, slc_group_tag(0, 0, w->rank, step), turned,
                     each * (size_t)n, &requests[1], e) < 0 ||
            slc_group_wait(g, requests, 2, e) < 0)
            goto out;
    }
    for (int i = 0; i < g->size; i++)
        memcpy(all + (size_t)((g->index + i) % g->size) * each,
               turned + (size_t)i * each, each);
    rc = 0;
out:
    free(turned);
    return rc;
}

struct card {
    uint64_t hash; /* of the member list: groups made in different orders show here */
    uint64_t id;
};

static int exchange_ids(struct slc_group *g, struct slc_err *e)
{
    uint64_t hash = slc_hash64(g->members, sizeof(int) * (size_t)g->size);
    struct card *cards = calloc((size_t)g->size, sizeof(*cards));

    if (!cards)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a group of %d", g->size);
    cards[g->index] = (struct card){hash, g->id};
    int rc = slc_group_setup_gather(g, (uint32_t)hash, cards, sizeof(*cards), e);
    for (int i = 0; rc == 0 && i < g->size; i++) {
        if (cards[i].hash != hash)
            SLC_BUG("group members differ between ranks");
        g->ids[i] = (uint16_t)cards[i].id;
    }
    free(cards);
    return rc;
}

static int take_id(struct slc_world *w, struct slc_group *g, struct slc_err *e)
{
    for (int i = 0; i < w->n_groups; i++)
        if (!w->groups[i]) {
            w->groups[i] = g;
            g->id = (uint16_t)(i + 1);
            return 0;
        }
    if (w->n_groups >= 0x7ffe)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED, "not supported: more than %d groups",
                        w->n_groups);
    struct slc_group **more =
        realloc(w->groups, sizeof(*more) * (size_t)(w->n_groups + 1));
    if (!more)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a group");
    w->groups = more;
    w->groups[w->n_groups++] = g;
    g->id = (uint16_t)w->n_groups;
    return 0;
}

struct slc_group *slc_group_create(struct slc_world *w, const int *members, int size,
                                   struct slc_err *e)
{
    struct slc_group *g = calloc(1, sizeof(*g));

    SLC_ASSERT(size > 0 && size <= w->size);
    if (!g)
        goto err_memory;
    g->w = w;
    g->size = size;
    g->index = -1;
    g->ops = &slc_coll_host;
    g->members = malloc(sizeof(int) * (size_t)size);
    g->ids = calloc((size_t)size, sizeof(*g->ids));
    g->requests = calloc(2 * (size_t)size, sizeof(*g->requests));
    g->shares = calloc((size_t)size + 1, sizeof(*g->shares));
    g->small = malloc(SLC_SUM_SMALL);
    g->addends = calloc((size_t)size, sizeof(*g->addends));
    if (!g->shares || !g->small || !g->addends || !g->members || !g->ids || !g->requests)
        goto err_memory;
    memcpy(g->members, members, sizeof(int) * (size_t)size);
    for (int i = 0; i < size; i++) {
        SLC_ASSERT(i == 0 || members[i] > members[i - 1]);
        if (members[i] == w->rank)
            g->index = i;
    }
    SLC_ASSERT(g->index >= 0);
    if (take_id(w, g, e) < 0 || (size > 1 && exchange_ids(g, e) < 0)) {
        slc_group_destroy(g);
        return NULL;
    }
    return g;

err_memory:
    slc_group_destroy(g);
    slc_errf(e, SLC_EXIT_SYSTEM, "no memory for a group of %d", size);
    return NULL;
}

void slc_group_destroy(struct slc_group *g)
{
    if (!g)
        return;
    slc_bulk_destroy(g->bulk);
    if (g->id)
        g->w->groups[g->id - 1] = NULL;
    free(g->members);
    free(g->ids);
    free(g->requests);
    free(g->shares);
    free(g->small);
    free(g->addends);
    free(g);
}

int slc_group_size(const struct slc_group *g)
{
    return g->size;
}

int slc_group_index(const struct slc_group *g)
{
    return g->index;
}

int slc_group_member(const struct slc_group *g, int index)
{
    return g->members[index];
}

struct slc_world *slc_group_world(const struct slc_group *g)
{
    return g->w;
}

int slc_send(struct slc_group *g, int to, uint32_t tag, const void *buf, size_t bytes,
             struct slc_err *e)
{
    void *request;

    SLC_ASSERT(to != g->index);
    if (slc_group_isend(g, to, SLC_TAG_P2P, tag, buf, bytes, &request, e) < 0)
        return -1;
    return slc_group_wait(g, &request, 1, e);
}

int slc_recv(struct slc_group *g, int from, uint32_t tag, void *buf, size_t bytes,
             struct slc_err *e)
{
    void *request;

    SLC_ASSERT(from != g->index);
    if (slc_group_irecv(g, from, SLC_TAG_P2P, tag, buf, bytes, &request, e) < 0)
        return -1;
    return slc_group_wait(g, &request, 1, e);
}
