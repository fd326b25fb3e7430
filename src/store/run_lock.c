/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "store/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "store/agree.h"
#include "store/checkpoint.h"

struct owner {
    char job[32], host[64], boot[40], nonce[20];
    int64_t restart, pid;
};

static struct {
    int fd; /* holds flock; 0: nothing is held (never a descriptor of ours) */
    char path[PATH_MAX];
    struct owner me;
    pthread_t beat;
    pthread_mutex_t mutex;
    pthread_cond_t stop_now;
    bool stop;
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* -- who owns it ---------------------------------------------------------------- */

static void describe_me(struct owner *o)
{
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
    uint64_t r = 0;
    char *boot = NULL;
    size_t len;

    memset(o, 0, sizeof(*o));
    snprintf(o->job, sizeof(o->job), "%.31s", job ? job : "");
    o->restart = restart ? atoll(restart) : 0;
    gethostname(o->host, sizeof(o->host) - 1);
    if (slc_file_read("/proc/sys/kernel/random/boot_id", 4096, &boot, &len, NULL) == 0)
        snprintf(o->boot, sizeof(o->boot), "%.36s", boot);
    free(boot);
    o->pid = getpid();
    if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
        r = (uint64_t)time(NULL) << 32 ^ (uint64_t)getpid();
    snprintf(o->nonce, sizeof(o->nonce), "%016llx", (unsigned long long)r);
}

static char *owner_text(const struct owner *o)
{
    json_t *j = json_pack("{s:s, s:I, s:s, s:s, s:I, s:s}", "job", o->job, "restart",
                          (json_int_t)o->restart, "host", o->host, "boot", o->boot,
                          "pid", (json_int_t)o->pid, "nonce", o->nonce);
    char *text = json_dumps(j, 0);

    json_decref(j);
    return text;
}

static void copy_text(const json_t *j, const char *key, char *to, size_t size)
{
    const char *text = json_string_value(json_object_get(j, key));

    snprintf(to, size, "%s", text ? text : "");
}

/* What the file says; all empty if it says nothing that can be read. */
static void read_owner(const char *path, struct owner *o)
{
    json_t *j = slc_json_load(path, 65536, NULL);

    memset(o, 0, sizeof(*o));
    copy_text(j, "job", o->job, sizeof(o->job));
    copy_text(j, "host", o->host, sizeof(o->host));
    copy_text(j, "boot", o->boot, sizeof(o->boot));
    copy_text(j, "nonce", o->nonce, sizeof(o->nonce));
    o->restart = json_integer_value(json_object_get(j, "restart"));
    o->pid = json_integer_value(json_object_get(j, "pid"));
    json_decref(j);
}

static int busy(const char *path, const struct owner *o, struct slc_err *e)
{
    return slc_errf(
        e, SLC_EXIT_BUSY,
        "%s: the run folder is in use by %s%s on %s, process %lld; wait for it "
        "to end or choose another run.dir",
        path, *o->job ? "job " : "a process", o->job, o->host, (long long)o->pid);
}

/* -- alive? --------------------------------------------------------------------- */

static double touched(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* opening refreshes what NFS cached */
    double t = -1;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0)
        t = (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec;
    close(fd);
    return t;
}

/* Watch the file for three beats; clocks of nodes are never compared. */
static bool beats(const char *path, const struct owner *o)
{
    double first = touched(path);
    struct timespec nap = {.tv_sec = 1};

    slc_info("store", "%s: waiting %d s to see whether its owner on %s is alive", path,
             3 * SLC_RUN_LOCK_BEAT, o->host);
    for (int i = 0; i < 3 * SLC_RUN_LOCK_BEAT; i++) {
        nanosleep(&nap, NULL);
        if (touched(path) != first)
            return true;
    }
    return false;
}

/* May the file at path, whose inode fd has open, be taken over? */
static int judge(const char *path, int fd, const struct owner *me, struct slc_err *e)
{
    struct owner o;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;

    read_owner(path, &o);
    if (*me->job && !strcmp(o.job, me->job) && o.restart < me->restart) {
        slc_warn("store", "%s: taken over from an earlier start of job %s on %s", path,
                 o.job, o.host);
        return 0;
    }
    if (locked)
        return busy(path, &o, e);
    if (*o.boot && strcmp(o.boot, me->boot) && beats(path, &o))
        return busy(path, &o, e);
    slc_info("store", "%s: taken over from process %lld on %s, which is gone", path,
             (long long)o.pid, o.host);
    return 0;
}

/* -- taking --------------------------------------------------------------------- */

/* Put our file in the place of the one that is there, if its owner is gone. 1: somebody
 * else changed the place meanwhile, look again. */
static int replace(const char *tmp, const char *path, const struct owner *me,
                   struct slc_err *e)
{
    struct stat open_st, path_st;
    int fd = open(path, O_RDWR | O_CLOEXEC), rc;

    if (fd < 0)
        return errno == ENOENT ? 1
                               : slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s",
                                          path, strerror(errno));
    rc = judge(path, fd, me, e);
    if (rc == 0 && (fstat(fd, &open_st) < 0 || stat(path, &path_st) < 0 ||
                    open_st.st_ino != path_st.st_ino))
        rc = 1;
    if (rc == 0 && rename(tmp, path) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot replace %s: %s", path,
                      strerror(errno));
    close(fd);
    return rc;
}

static int put_in_place(const char *tmp, const char *path, const struct owner *me,
                        struct slc_err *e)
{
    for (int tries = 0; tries < 10; tries++) {
        if (link(tmp, path) == 0) {
            unlink(tmp);
            return 0;
        }
        if (errno != EEXIST && access(path, F_OK) < 0) {
            /* a file system without hard links */
            if (rename(tmp, path) == 0)
                return 0;
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", path,
                            strerror(errno));
        }
        int rc = replace(tmp, path, me, e);
        if (rc <= 0)
            return rc;
    }
    return slc_errf(e, SLC_EXIT_BUSY,
                    "%s: several jobs start in this run folder at once", path);
}

static void *keep_touching(void *unused)
{
    struct timespec until;

    (void)unused;
    pthread_mutex_lock(&held.mutex);
    while (!held.stop) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += SLC_RUN_LOCK_BEAT;
        if (pthread_cond_timedwait(&held.stop_now, &held.mutex, &until) == ETIMEDOUT)
            futimens(held.fd, NULL);
    }
    pthread_mutex_unlock(&held.mutex);
    return NULL;
}

static int start_beat(struct slc_err *e)
{
    pthread_condattr_t attr;
    sigset_t all, old;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&held.stop_now, &attr);
    pthread_condattr_destroy(&attr);
    held.stop = false;
    sigfillset(&all); /* signals belong to the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&held.beat, NULL, keep_touching, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot start a thread: %s", strerror(rc));
    return 0;
}

int slc_run_lock_take(const char *run_dir, struct slc_err *e)
{
    char tmp[PATH_MAX];
    struct owner me;

    if (held.fd)
        return slc_errf(e, SLC_EXIT_BUG, "this process holds %s already", held.path);
    if (slc_mkdirs(run_dir, e) < 0)
        return -1;
    describe_me(&me);
    if (snprintf(held.path, sizeof(held.path), "%s/run.lock", run_dir) >= PATH_MAX ||
        snprintf(tmp, sizeof(tmp), "%s.%s.tmp", held.path, me.nonce) >= PATH_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG, "path is too long: %s", run_dir);
    char *text = owner_text(&me);
    int fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 || !text) {
        slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", tmp, strerror(errno));
        goto err_close;
    }
    flock(fd, LOCK_EX | LOCK_NB); /* ours alone; where flock is missing, beats decide */
    if (slc_pwrite_all(fd, text, strlen(text), 0, tmp, e) < 0 ||
        put_in_place(tmp, held.path, &me, e) < 0)
        goto err_unlink;
    free(text);
    held.fd = fd;
    held.me = me;
    if (start_beat(e) == 0)
        return 0;
    held.fd = 0;
    unlink(held.path);
    close(fd);
    return -1;

err_unlink:
    unlink(tmp);
err_close:
    if (fd >= 0)
        close(fd);
    free(text);
    return -1;
}

void slc_run_lock_drop(const char *run_dir)
{
    if (!held.fd)
        return;
    pthread_mutex_lock(&held.mutex);
    held.stop = true;
    pthread_cond_signal(&held.stop_now);
    pthread_mutex_unlock(&held.mutex);
    pthread_join(held.beat, NULL);
    pthread_cond_destroy(&held.stop_now);
    if (slc_run_lock_check(run_dir, NULL) == 0)
        unlink(held.path);
    close(held.fd);
    held.fd = 0;
}

int slc_run_lock_check(const char *run_dir, struct slc_err *e)
{
    char path[PATH_MAX];
    struct owner o;

    snprintf(path, sizeof(path), "%s/run.lock", run_dir);
    if (!held.fd || strcmp(path, held.path))
        return slc_errf(e, SLC_EXIT_BUG, "%s is not locked by this process", run_dir);
    read_owner(path, &o);
    if (strcmp(o.nonce, held.me.nonce))
        return slc_errf(
            e, SLC_EXIT_BUSY,
            "%s: the run folder now belongs to %s%s on %s; this incarnation "
            "must not write there any more",
            path, *o.job ? "job " : "another process", o.job,
            *o.host ? o.host : "an unknown node");
    return 0;
}

const char *slc_run_lock_nonce(void)
{
    return held.fd ? held.me.nonce : "";
}

/* -- collective ------------------------------------------------------------------ */

int slc_run_lock(struct slc_group *g, const char *run_dir, struct slc_err *e)
{
    int taken = slc_agree_index(g) == 0 ? slc_run_lock_take(run_dir, e) : 0;
    int rc = slc_agree(g, taken, e);

    if (rc < 0 && taken == 0)
        slc_run_unlock(g, run_dir);
    return rc;
}

void slc_run_unlock(struct slc_group *g, const char *run_dir)
{
    if (slc_agree_index(g) == 0)
        slc_run_lock_drop(run_dir);
}
