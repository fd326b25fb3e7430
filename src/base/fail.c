/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fail.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

static struct {
    pthread_mutex_t lock; /* held by the one thread that fills `fail`, and for folder */
    atomic_bool known;
    atomic_bool printed;
    struct slc_fail fail;
    int self_rank;
    char self_host[64];
    char folder[PATH_MAX]; /* "" : nowhere */
    bool started;
    struct stat old; /* reason.json of an earlier run; st_ino 0: none */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic(const char *) phase = "start";

/* One line, whatever a library put into its text. */
static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from ? from : "");
    for (char *p = to; *p; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
}

void slc_fail_set_self(int rank, const char *host)
{
    pthread_mutex_lock(&state.lock);
    state.self_rank = rank;
    copy(state.self_host, sizeof(state.self_host), host);
    pthread_mutex_unlock(&state.lock);
}

static void reason_path(char path[PATH_MAX + 16])
{
    snprintf(path, PATH_MAX + 16, "%s/reason.json", state.folder);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* There is a reason.json that was not there when this run began. */
static bool reason_is_ours(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && !same_file(&st, &state.old);
}

/* A job that has started must not be judged by an earlier one's end. */
static void remove_old(void)
{
    char path[PATH_MAX + 16];

    if (!state.started || state.self_rank != 0 || !state.old.st_ino)
        return;
    reason_path(path);
    if (!reason_is_ours(path))
        unlink(path);
}

void slc_fail_set_folder(const char *run_dir)
{
    char path[PATH_MAX + 16];

    pthread_mutex_lock(&state.lock);
    copy(state.folder, sizeof(state.folder), run_dir);
    reason_path(path);
    if (!state.folder[0] || stat(path, &state.old) < 0)
        memset(&state.old, 0, sizeof(state.old));
    remove_old();
    pthread_mutex_unlock(&state.lock);
}

void slc_fail_started(void)
{
    pthread_mutex_lock(&state.lock);
    state.started = true;
    remove_old();
    pthread_mutex_unlock(&state.lock);
}

void slc_fail_set_phase(const char *name)
{
    atomic_store_explicit(&phase, name, memory_order_relaxed);
}

const char *slc_fail_phase(void)
{
    return atomic_load_explicit(&phase, memory_order_relaxed);
}

bool slc_fail_raise(int code, int rank, const char *host, const char *phase_name,
                    const char *cause)
{
    bool first = false;

    pthread_mutex_lock(&state.lock);
    if (!atomic_load(&state.known)) {
        struct slc_fail *f = &state.fail;

        f->code = code;
        f->rank = rank;
        copy(f->host, sizeof(f->host), host);
        copy(f->phase, sizeof(f->phase), phase_name);
        copy(f->cause, sizeof(f->cause), cause);
        atomic_store_explicit(&state.known, true, memory_order_release);
        first = true;
    }
    pthread_mutex_unlock(&state.lock);
    return first;
}

bool slc_fail_known(void)
{
    return atomic_load_explicit(&state.known, memory_order_relaxed);
}

const struct slc_fail *slc_fail_get(void)
{
    return atomic_load_explicit(&state.known, memory_order_acquire) ? &state.fail
                                                                    : NULL;
}

bool slc_fail_reporter(void)
{
    const struct slc_fail *f = slc_fail_get();

    if (!f)
        return false;
    if (f->code == SLC_EXIT_PEER)
        return state.self_rank == (f->rank == 0 ? 1 : 0);
    return state.self_rank == f->rank;
}

void slc_fail_print(void)
{
    const struct slc_fail *f = slc_fail_get();

    if (slc_fail_reporter() && !atomic_exchange(&state.printed, true))
        slc_error("fail", "rank %d on %s, in %s: %s", f->rank, f->host, f->phase,
                  f->cause);
}

int slc_fail_check(struct slc_err *e)
{
    const struct slc_fail *f;

    if (!slc_fail_known())
        return 0;
    f = slc_fail_get();
    slc_errf(e, f->code, "rank %d on %s failed in %s: %s", f->rank, f->host, f->phase,
             f->cause);
    if (e)
        e->rank = f->rank;
    return -1;
}

/* link() instead of rename(): of several ranks writing at once the first wins. */
static int publish(const char *tmp, const char *path, struct slc_err *e)
{
    int rc = link(tmp, path);

    if (rc < 0 && errno == EEXIST && reason_is_ours(path))
        return 0;
    if (rc < 0 && rename(tmp, path) < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot write %s: %s", path,
                        strerror(errno));
    return 0;
}

/* A text cut inside a character, or a path in another encoding, is not UTF-8. */
static json_t *text_value(const char *text)
{
    json_t *o = json_string(text);
    char ascii[sizeof(state.fail.cause)];

    if (o)
        return o;
    copy(ascii, sizeof(ascii), text);
    for (char *p = ascii; *p; p++)
        if ((unsigned char)*p >= 0x7f)
            *p = '?';
    return json_string(ascii);
}

int slc_fail_write_reason(struct slc_err *e)
{
    const struct slc_fail *f = slc_fail_get();
    char path[PATH_MAX + 16], tmp[PATH_MAX + 128], when[32];
    time_t now = time(NULL);
    struct tm tm;

    if (!f || !state.folder[0])
        return 0;
    reason_path(path);
    if (reason_is_ours(path))
        return 0;
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    json_t *o =
        json_pack("{s:i, s:i, s:o, s:o, s:o, s:s}", "code", f->code, "rank", f->rank,
                  "host", text_value(f->host), "phase", text_value(f->phase), "cause",
                  text_value(f->cause), "time", when);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (!text)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot put the cause into %s", path);
    snprintf(tmp, sizeof(tmp), "%s.%s.%ld", path, state.self_host, (long)getpid());
    int rc = slc_file_replace(tmp, text, strlen(text), e);
    free(text);
    if (rc == 0) {
        rc = publish(tmp, path, e);
        unlink(tmp);
    }
    return rc;
}

void slc_die(int code, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    slc_fail_raise(code, state.self_rank, state.self_host, slc_fail_phase(), text);
    slc_fail_print();
    slc_fail_write_reason(NULL);
    _exit(code);
}
