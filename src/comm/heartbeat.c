/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heartbeat: a thread with a UCX context and worker of its own, so that it beats
 * while the main thread computes or saves. Partners are the ranks at +-2^i: each rank
 * is watched by several, and news reaches all ranks in few hops. Everything below runs
 * in the thread but for the functions of comm_private.h.
 *
 * What decides that a partner is dead, whichever comes first: three missed beats; its
 * process is gone (same machine); UCX lost the connection. The last two wait a moment
 * for a better explanation (BYE, or the cause of its leaving) that is still on its way.
 */
#include "comm/comm_private.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"

#define AM_BEAT 1
#define PARTNERS_MAX 40
#define TICK 0.2       /* seconds between looks at processes */
#define GRACE_LOST 0.3 /* for the explanation of a lost connection */
#define MISSED 2.9     /* beats */
#define LEAVE_MAX 0.5  /* seconds for the last messages */

enum note_kind { NOTE_BEAT = 1, NOTE_FAIL, NOTE_BYE };

struct note {
    uint32_t kind, from;
    struct slc_fail fail; /* a beat: only phase, what the sender is doing */
};

struct partner {
    int rank;
    ucp_ep_h ep;
    double heard;   /* when it last said something */
    double lost_at; /* > 0: UCX or the kernel says it is gone, since then */
    bool bye;
    char phase[32];
    char why[64];
    void *request; /* of the note being sent */
    struct note note;
};

enum { LEFT_NOT, LEFT_GOOD, LEFT_FAILED };

struct slc_heart {
    struct slc_world *w;
    ucp_context_h ctx;
    ucp_worker_h worker;
    int wake_fd, worker_fd;
    pthread_t thread;
    bool running;
    double period;

    atomic_int leave;   /* main wants to go */
    atomic_int left;    /* last words are said, UCX is not touched any more: LEFT_ */
    atomic_int suspect; /* 1 + rank that the data worker lost */
    char suspect_why[64];
    double suspect_at;

    struct partner partners[PARTNERS_MAX];
    int n_partners;
    double next_beat, last_turn;
    double known_at; /* > 0: a failure is known here, since then */
};

/* --- set-up (main thread)
 * ---------------------------------------------------------------- */

static void destroy(struct slc_heart *h)
{
    if (h->worker)
        ucp_worker_destroy(h->worker);
    if (h->ctx)
        ucp_cleanup(h->ctx);
    if (h->wake_fd >= 0)
        close(h->wake_fd);
    free(h);
}

int slc_heart_open(struct slc_world *w, void **address, size_t *len, struct slc_err *e)
{
    ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    struct slc_heart *h = calloc(1, sizeof(*h));
    ucp_address_t *own = NULL;

    if (!h)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the heartbeat");
    h->w = w;
    h->period = w->options.heartbeat_period > 0 ? w->options.heartbeat_period : 1.0;
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->wake_fd < 0) {
        slc_errf(e, SLC_EXIT_SYSTEM, "eventfd: %s", strerror(errno));
        goto err_destroy;
    }
    if (slc_ucx_context(UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, PARTNERS_MAX, &h->ctx, e) <
        0)
        goto err_destroy;
    ucs_status_t rc = ucp_worker_create(h->ctx, &params, &h->worker);
    if (rc == UCS_OK)
        rc = ucp_worker_get_efd(h->worker, &h->worker_fd);
    if (rc == UCS_OK)
        rc = ucp_worker_get_address(h->worker, &own, len);
    if (rc != UCS_OK) {
        slc_ucx_error(e, "UCX for the heartbeat", rc);
        goto err_destroy;
    }
    *address = malloc(*len);
    SLC_ASSERT(*address != NULL);
    memcpy(*address, own, *len);
    ucp_worker_release_address(h->worker, own);
    w->heart = h;
    return 0;

err_destroy:
    destroy(h);
    return -1;
}

static struct partner *find_partner(struct slc_heart *h, int rank)
{
    for (int i = 0; i < h->n_partners; i++)
        if (h->partners[i].rank == rank)
            return &h->partners[i];
    return NULL;
}

static void connection_lost(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct slc_heart *h = arg;

    for (int i = 0; i < h->n_partners; i++) {
        struct partner *p = &h->partners[i];

        if (p->ep != ep || p->lost_at > 0)
            continue;
        p->lost_at = slc_now();
        snprintf(p->why, sizeof(p->why), "connection lost (%s)",
                 ucs_status_string(status));
    }
}

static int add_partner(struct slc_heart *h, int rank, struct slc_err *e)
{
    const struct slc_blob *blob = h->w->peers[rank].blob;
    struct partner *p = &h->partners[h->n_partners];
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)((const char *)(blob + 1) + blob->data_len),
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = connection_lost, .arg = h},
    };

    if (rank == h->w->rank || find_partner(h, rank))
        return 0;
    SLC_ASSERT(h->n_partners < PARTNERS_MAX);
    ucs_status_t rc = ucp_ep_create(h->worker, &params, &p->ep);
    if (rc != UCS_OK)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no UCX connection to rank %d on %s: %s",
                        rank, h->w->peers[rank].host, ucs_status_string(rc));
    p->rank = rank;
    p->heard = slc_now();
    snprintf(p->phase, sizeof(p->phase), "start");
    h->n_partners++;
    return 0;
}

/* --- notes
 * --------------------------------------------------------------------------------- */

static bool reachable(const struct partner *p)
{
    return !p->bye && p->lost_at == 0;
}

/* Has the note to p left? Frees its request. */
static bool note_sent(struct partner *p)
{
    if (p->request && ucp_request_check_status(p->request) != UCS_INPROGRESS) {
        ucp_request_free(p->request);
        p->request = NULL;
    }
    return !p->request;
}

static void send_note(struct partner *p, enum note_kind kind, int from)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_AM_SEND_FLAG_EAGER};
    const struct slc_fail *f = slc_fail_get();

    memset(&p->note, 0, sizeof(p->note));
    p->note.kind = kind;
    p->note.from = (uint32_t)from;
    if (kind == NOTE_FAIL)
        p->note.fail = *f;
    else
        snprintf(p->note.fail.phase, sizeof(p->note.fail.phase), "%s",
                 slc_fail_phase());
    void *request =
        ucp_am_send_nbx(p->ep, AM_BEAT, NULL, 0, &p->note, sizeof(p->note), &param);
    p->request = UCS_PTR_IS_PTR(request) ? request : NULL;
}

/* To every partner that can still hear; one whose last note is stuck is left out. */
static void send_all(struct slc_heart *h, enum note_kind kind)
{
    for (int i = 0; i < h->n_partners; i++) {
        struct partner *p = &h->partners[i];

        if (note_sent(p) && reachable(p))
            send_note(p, kind, h->w->rank);
    }
}

static ucs_status_t receive(void *arg, const void *header, size_t header_length,
                            void *data, size_t length, const ucp_am_recv_param_t *param)
{
    struct slc_heart *h = arg;
    struct note note;
    struct partner *p;

    (void)header;
    (void)header_length;
    (void)param;
    SLC_ASSERT(length == sizeof(note));
    memcpy(&note, data, sizeof(note));
    p = find_partner(h, (int)note.from);
    if (!p)
        return UCS_OK;
    p->heard = slc_now();
    if (note.kind == NOTE_BEAT)
        memcpy(p->phase, note.fail.phase, sizeof(p->phase));
    else if (note.kind == NOTE_BYE)
        p->bye = true;
    else if (note.kind == NOTE_FAIL)
        slc_fail_raise(note.fail.code, note.fail.rank, note.fail.host, note.fail.phase,
                       note.fail.cause);
    return UCS_OK;
}

/* --- judging
 * ---------------------------------------------------------------------------- */

static void declare_dead(struct slc_heart *h, int rank, const char *why)
{
    struct partner *p = find_partner(h, rank);

    slc_fail_raise(SLC_EXIT_PEER, rank, h->w->peers[rank].host,
                   p ? p->phase : "unknown", why);
}

static void judge_partner(struct slc_heart *h, struct partner *p, double now)
{
    const struct slc_peer *peer = &h->w->peers[p->rank];
    char why[128];

    if (p->bye)
        return;
    if (p->lost_at == 0 && peer->same_machine &&
        slc_process_gone(&peer->blob->process)) {
        p->lost_at = now;
        snprintf(p->why, sizeof(p->why), "its process is gone");
    }
    if (p->lost_at > 0 && now - p->lost_at > GRACE_LOST) {
        declare_dead(h, p->rank, p->why);
    } else if (now - p->heard > MISSED * h->period) {
        snprintf(why, sizeof(why), "no sign of life for %.1f s", now - p->heard);
        declare_dead(h, p->rank, why);
    }
}

static void judge(struct slc_heart *h, double now)
{
    int suspect = atomic_load(&h->suspect);

    /* If this process itself stood still (a suspended job), nobody else is to blame. */
    if (now - h->last_turn > h->period)
        for (int i = 0; i < h->n_partners; i++)
            h->partners[i].heard += now - h->last_turn;
    h->last_turn = now;
    for (int i = 0; i < h->n_partners && !slc_fail_known(); i++)
        judge_partner(h, &h->partners[i], now);
    if (suspect && h->suspect_at == 0)
        h->suspect_at = now;
    if (suspect && !slc_fail_known() && now - h->suspect_at > GRACE_LOST) {
        struct partner *p = find_partner(h, suspect - 1);

        if (!p || !p->bye)
            declare_dead(h, suspect - 1, h->suspect_why);
    }
}

/* A hung rank of this machine would outlive the job: end it. */
static void end_hung(struct slc_heart *h)
{
    const struct slc_fail *f = slc_fail_get();

    if (f->code == SLC_EXIT_PEER && f->rank != h->w->rank &&
        h->w->peers[f->rank].same_machine)
        slc_process_kill(&h->w->peers[f->rank].blob->process);
}

/* --- the thread
 * --------------------------------------------------------------------------- */

static void progress(struct slc_heart *h)
{
    while (ucp_worker_progress(h->worker))
        ;
}

static void sleep_until(struct slc_heart *h, double until)
{
    struct pollfd fds[2] = {{.fd = h->worker_fd, .events = POLLIN},
                            {.fd = h->wake_fd, .events = POLLIN}};
    uint64_t count;
    double left = until - slc_now();

    if (left <= 0 || ucp_worker_arm(h->worker) != UCS_OK)
        return;
    poll(fds, 2, (int)(left * 1e3) + 1);
    if ((fds[1].revents & POLLIN) && read(h->wake_fd, &count, sizeof(count)) < 0)
        return;
}

/* Last words; what is not out in LEAVE_MAX is not worth waiting for. */
static void say(struct slc_heart *h, enum note_kind kind)
{
    double until = slc_now() + LEAVE_MAX;
    ucp_request_param_t param = {.op_attr_mask = 0};
    struct slc_wait wait = {0};
    bool waiting = true;

    /* a beat may still be under way to some: the note goes after it */
    while (waiting && slc_now() < until) {
        waiting = false;
        progress(h);
        for (int i = 0; i < h->n_partners; i++) {
            struct partner *p = &h->partners[i];

            if (!reachable(p) || p->note.kind == (uint32_t)kind)
                continue;
            if (note_sent(p))
                send_note(p, kind, h->w->rank);
            else
                waiting = true;
        }
        if (waiting)
            slc_wait_idle(&wait, true);
    }
    void *flush = ucp_worker_flush_nbx(h->worker, &param);
    while (UCS_PTR_IS_PTR(flush) && ucp_request_check_status(flush) == UCS_INPROGRESS &&
           slc_now() < until)
        if (!ucp_worker_progress(h->worker))
            slc_wait_idle(&wait, true);
    if (UCS_PTR_IS_PTR(flush))
        ucp_request_free(flush);
    for (int i = 0; i < h->n_partners; i++)
        while (!note_sent(&h->partners[i]) && slc_now() < until) {
            progress(h);
            slc_wait_idle(&wait, true);
        }
}

/* The failure is told; who is not out of the process by then is ended. */
static void last_resort(struct slc_heart *h)
{
    const struct slc_fail *f = slc_fail_get();
    double left = h->known_at + SLC_FAIL_GRACE - 0.1 - slc_now();

    atomic_store(&h->left, LEFT_FAILED);
    if (left > 0) {
        struct timespec t = {.tv_sec = (time_t)left,
                             .tv_nsec = (long)((left - (double)(time_t)left) * 1e9)};
        nanosleep(&t, NULL);
    }
    slc_die(f->code, "%s", f->cause);
}

static void *run(void *arg)
{
    struct slc_heart *h = arg;

    h->last_turn = slc_now();
    while (!atomic_load(&h->leave)) {
        double now;

        progress(h);
        now = slc_now();
        judge(h, now);
        if (slc_fail_known())
            break;
        if (now >= h->next_beat) {
            send_all(h, NOTE_BEAT);
            h->next_beat = now + h->period;
            progress(h);
        }
        sleep_until(h, h->next_beat < now + TICK ? h->next_beat : now + TICK);
    }
    if (!slc_fail_known()) {
        say(h, NOTE_BYE);
        atomic_store(&h->left, LEFT_GOOD);
        return NULL;
    }
    h->known_at = slc_now();
    say(h, NOTE_FAIL);
    end_hung(h);
    last_resort(h);
    return NULL;
}

int slc_heart_start(struct slc_world *w, struct slc_err *e)
{
    struct slc_heart *h = w->heart;
    ucp_am_handler_param_t param = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = AM_BEAT,
        .cb = receive,
        .arg = h,
    };
    ucs_status_t status = ucp_worker_set_am_recv_handler(h->worker, &param);

    if (status != UCS_OK)
        return slc_ucx_error(e, "ucp_worker_set_am_recv_handler", status);
    for (int step = 1; step < w->size; step *= 2)
        if (add_partner(h, (w->rank + step) % w->size, e) < 0 ||
            add_partner(h, (w->rank - step + w->size) % w->size, e) < 0)
            return -1;
    sigset_t all, old;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&h->thread, NULL, run, h);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no thread for the heartbeat: %s",
                        strerror(rc));
    h->running = true;
    return 0;
}

/* --- called by the main thread
 * ------------------------------------------------------------ */

static void wake(struct slc_heart *h)
{
    uint64_t one = 1;

    if (write(h->wake_fd, &one, sizeof(one)) < 0)
        return; /* full: it is awake */
}

void slc_heart_suspect(struct slc_world *w, int rank, const char *what)
{
    struct slc_heart *h = w->heart;
    int expected = 0;

    if (!h || rank < 0 || atomic_load(&w->closing) || atomic_load(&h->suspect))
        return;
    snprintf(h->suspect_why, sizeof(h->suspect_why), "connection lost (%s)", what);
    if (atomic_compare_exchange_strong(&h->suspect, &expected, rank + 1))
        wake(h);
}

void slc_heart_stop(struct slc_world *w)
{
    struct slc_heart *h = w->heart;
    struct timespec t = {.tv_nsec = 1000000};

    if (!h)
        return;
    if (!h->running) {
        destroy(h);
        w->heart = NULL;
        return;
    }
    atomic_store(&h->leave, 1);
    wake(h);
    double until = slc_now() + 2 * LEAVE_MAX + 0.5;
    while (atomic_load(&h->left) == LEFT_NOT && slc_now() < until)
        nanosleep(&t, NULL);
    if (atomic_load(&h->left) != LEFT_GOOD)
        return; /* the thread stays, to end the process if it does not end itself */
    pthread_join(h->thread, NULL);
    destroy(h);
    w->heart = NULL;
}
