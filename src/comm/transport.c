/* SPDX-License-Identifier: Apache-2.0 */
/* The data worker: context, endpoints, waiting. */
#include "comm/comm_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"

int slc_ucx_error(struct slc_err *e, const char *what, ucs_status_t status)
{
    return slc_errf(e, SLC_EXIT_SYSTEM, "%s: %s", what, ucs_status_string(status));
}

/* Does UCX_TLS allow one of these n transports? UCX warns about settings of others. */
static bool tls_allows(const char *const *names, size_t n)
{
    const char *tls = getenv("UCX_TLS");
    char list[512], *save = NULL;
    bool negated, named = false;

    if (!tls || !*tls)
        return true;
    negated = tls[0] == '^';
    snprintf(list, sizeof(list), "%s", tls + negated);
    for (char *t = strtok_r(list, ",", &save); t; t = strtok_r(NULL, ",", &save))
        for (size_t i = 0; i < n; i++)
            if (strcmp(t[0] == '\\' ? t + 1 : t, names[i]) == 0)
                named = true;
    return named != negated;
}

static bool tls_has_shared_memory(void)
{
    static const char *const names[] = {"all",   "shm",  "sm",   "mm",
                                        "posix", "sysv", "xpmem"};

    return tls_allows(names, sizeof(names) / sizeof(names[0]));
}

void slc_ucx_prepare(void)
{
    static const char *const names[] = {"all", "tcp"};

    /* One read brings a whole chunk of a window: 64 KiB, the default, takes up to twice as
     * long, and 272 KiB, with room for what goes along with a chunk of rows, 5 %. By the environment, because the way to name
     * it to ucp_config_modify differs between versions. */
    if (tls_allows(names, 2))
        setenv("UCX_TCP_RX_SEG_SIZE", "256K", 0);
}

int slc_ucx_context(uint64_t features, int ranks, ucp_context_h *ctx, struct slc_err *e)
{
    ucp_config_t *config = NULL;
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_ESTIMATED_NUM_EPS,
        .features = features,
        .estimated_num_eps = (size_t)ranks,
    };
    ucs_status_t rc = ucp_config_read(NULL, NULL, &config);

    if (rc != UCS_OK)
        return slc_ucx_error(e, "ucp_config_read", rc);
    /* Else peer error handling turns shared memory into TCP without a word. */
    if (tls_has_shared_memory())
        rc = ucp_config_modify(config, "MM_ERROR_HANDLING", "y");
    if (rc == UCS_OK)
        rc = ucp_config_modify(config, "KEEPALIVE_INTERVAL", "1s");
    if (rc == UCS_OK)
        rc = ucp_init(&params, config, ctx);
    ucp_config_release(config);
    return rc == UCS_OK ? 0
                        : slc_ucx_error(e,
                                        "UCX does not start (see UCX_TLS, "
                                        "UCX_NET_DEVICES)",
                                        rc);
}

int slc_transport_open(struct slc_world *w, struct slc_err *e)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    uint64_t features = UCP_FEATURE_TAG | UCP_FEATURE_RMA | UCP_FEATURE_AM;

    if (slc_ucx_context(features, w->size, &w->ctx, e) < 0)
        return -1;
    ucs_status_t rc = ucp_worker_create(w->ctx, &params, &w->worker);
    if (rc != UCS_OK) {
        ucp_cleanup(w->ctx);
        w->ctx = NULL;
        return slc_ucx_error(e, "ucp_worker_create", rc);
    }
    return slc_windows_open(w, e);
}

static void close_endpoint(struct slc_world *w, struct slc_peer *peer)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = 0};
    double until = slc_now() + 0.5;
    struct slc_wait wait = {0};
    void *request = ucp_ep_close_nbx(peer->ep, &param);

    peer->ep = NULL;
    if (!UCS_PTR_IS_PTR(request))
        return;
    while (ucp_request_check_status(request) == UCS_INPROGRESS && slc_now() < until)
        if (!ucp_worker_progress(w->worker))
            slc_wait_idle(&wait, true);
    ucp_request_free(request);
}

void slc_transport_close(struct slc_world *w)
{
    if (!w->ctx)
        return;
    for (int r = 0; w->peers && r < w->size; r++)
        if (w->peers[r].ep)
            close_endpoint(w, &w->peers[r]);
    ucp_worker_destroy(w->worker);
    ucp_cleanup(w->ctx);
    w->ctx = NULL;
}

static void endpoint_failed(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct slc_world *w = arg;

    if (atomic_load(&w->closing))
        return;
    for (int r = 0; r < w->size; r++)
        if (w->peers[r].ep == ep) {
            w->peers[r].dead = true;
            slc_heart_suspect(w, r, ucs_status_string(status));
        }
}

void slc_ucx_lanes(ucp_ep_h ep, char *lanes, size_t size, bool *has_put)
{
    char *text = NULL, name[32];
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    lanes[0] = '\0';
    *has_put = false;
    if (!f)
        return;
    ucp_ep_print_info(ep, f);
    fclose(f);
    *has_put = strstr(text, "put[") != NULL;
    /* "#   lane[0]:  3:sysv/memory.0 md[2] ..." */
    for (char *p = strstr(text, "lane["); p; p = strstr(p + 1, "lane[")) {
        char *colon = strchr(p, ':');

        if (!colon || sscanf(colon + 1, " %*d:%31[^/]", name) != 1 ||
            strstr(lanes, name))
            continue;
        snprintf(lanes + strlen(lanes), size - strlen(lanes), "%s%s",
                 lanes[0] ? "+" : "", name);
    }
    free(text);
}

/* Names of shared-memory transports; anything else on one node went past memory. */
static bool lanes_are_tcp(const char *lanes)
{
    return strcmp(lanes, "tcp") == 0;
}

ucp_ep_h slc_peer_ep(struct slc_world *w, int rank, struct slc_err *e)
{
    struct slc_peer *peer = &w->peers[rank];
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)(peer->blob + 1),
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = endpoint_failed, .arg = w},
    };
    bool has_put;

    if (peer->dead) {
        slc_peer_lost(w, rank, "connection lost", e);
        return NULL;
    }
    if (peer->ep)
        return peer->ep;
    ucs_status_t rc = ucp_ep_create(w->worker, &params, &peer->ep);
    if (rc != UCS_OK) {
        peer->ep = NULL;
        slc_errf(e, SLC_EXIT_SYSTEM,
                 "no UCX connection from rank %d on %s to rank %d on "
                 "%s: %s (see UCX_TLS, UCX_NET_DEVICES)",
                 w->rank, w->peers[w->rank].host, rank, peer->host,
                 ucs_status_string(rc));
        return NULL;
    }
    slc_ucx_lanes(peer->ep, peer->lanes, sizeof(peer->lanes), &has_put);
    peer->path =
        has_put && !strstr(peer->lanes, "tcp") ? SLC_PATH_PUT : SLC_PATH_MESSAGE;
    if (peer->node == w->node && lanes_are_tcp(peer->lanes) && !w->options.allow_tcp) {
        slc_errf(e, SLC_EXIT_CONFIG,
                 "ranks %d and %d of node %s would talk over TCP: let "
                 "UCX use shared memory (UCX_TLS, size of /dev/shm), or set "
                 "parallel.allow_tcp=true",
                 w->rank, rank, peer->host);
        return NULL;
    }
    return peer->ep;
}

int slc_peer_lost(struct slc_world *w, int rank, const char *what, struct slc_err *e)
{
    struct slc_wait wait = {0};

    slc_heart_suspect(w, rank, what);
    while (slc_wait_step(w, &wait, e) == 0)
        ;
    return -1;
}

int slc_request_wait(struct slc_world *w, void *request, int rank, struct slc_err *e)
{
    struct slc_wait wait = {0};
    ucs_status_t rc;

    if (request == NULL)
        return 0;
    if (UCS_PTR_IS_ERR(request))
        return slc_peer_lost(w, rank, ucs_status_string(UCS_PTR_STATUS(request)), e);
    while ((rc = ucp_request_check_status(request)) == UCS_INPROGRESS)
        if (slc_wait_step(w, &wait, e) < 0) {
            ucp_request_cancel(w->worker, request);
            return -1;
        }
    ucp_request_free(request);
    return rc == UCS_OK ? 0 : slc_peer_lost(w, rank, ucs_status_string(rc), e);
}
