/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice bench checkpoint: what a file system gives to a checkpoint. In turn, for the same
 * bytes from the same ranks: plain writes (buffered and O_DIRECT, both with fsync), a save;
 * plain reads (buffered and O_DIRECT), a load, a verification, all with the page cache
 * emptied of the file before; memcpy. One JSON line a figure: medians over the rounds, the
 * share of the better plain rate and of memcpy. Everything is removed at the end.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "cmd/bench.h"
#include "cmd/cmd.h"
#include "store/agree.h"
#include "store/checkpoint.h"

static const char usage[] =
    "[srun --mpi=pmix -n N] sluice bench checkpoint [--dir DIR] [--mib N] [--rounds N]";

#define TENSORS 32
#define CHUNK ((size_t)8 << 20) /* of a plain transfer */
#define PAGE 4096
#define ROUNDS_MAX 64

enum figure { WRITE, WRITE_DIRECT, SAVE, READ, READ_DIRECT, LOAD, READ_ALONE, VERIFY, COPY, FIGURES };

struct bench {
    struct slc_world *w;
    struct slc_group *g; /* NULL: alone */
    int rank, ranks;
    char dir[3072], file[3200], state[3300];
    int64_t bytes;          /* of all ranks */
    int64_t mine, from;     /* this rank's part of the plain file */
    char *data, *other;     /* [mine] each, aligned to a page */
    struct slc_ckpt_tensor tensors[TENSORS];
    struct slc_ckpt_extent extents[TENSORS];
    int64_t at[TENSORS];    /* where the extent's bytes begin in data */
    long long rounds;
    bool no_direct;         /* the file system has no O_DIRECT */
    double t[FIGURES][ROUNDS_MAX];
};

static volatile sig_atomic_t interrupted;

static void interrupt(int signal)
{
    interrupted = signal;
}

/* -- the data ------------------------------------------------------------------------ */

/* Every tensor is cut evenly over the ranks, at multiples of 1024 elements as training does. */
static void lay_out(struct bench *x)
{
    const int64_t n = x->bytes / TENSORS / 4;
    int64_t at = 0;

    for (int i = 0; i < TENSORS; i++) {
        const int64_t a = n / 1024 * x->rank / x->ranks * 1024;
        const int64_t b = n / 1024 * (x->rank + 1) / x->ranks * 1024;

        x->extents[i] = (struct slc_ckpt_extent){a, b - a};
        x->tensors[i] = (struct slc_ckpt_tensor){.dtype = SLC_F32,
                                                 .ndim = 1,
                                                 .shape = {n},
                                                 .extents = &x->extents[i],
                                                 .n_extents = b > a};
        snprintf(x->tensors[i].name, sizeof(x->tensors[i].name), "weights/bench.%d", i);
        x->at[i] = at;
        at += (b - a) * 4;
    }
    x->mine = at;
}

static int make_data(struct bench *x, struct slc_err *e)
{
    lay_out(x);
    x->data = aligned_alloc(PAGE, (size_t)x->mine + PAGE);
    x->other = aligned_alloc(PAGE, (size_t)x->mine + PAGE);
    if (!x->data || !x->other)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for two times %lld bytes; give a smaller --mib",
                        (long long)x->mine);
    uint64_t *v = (uint64_t *)x->data;
    for (int64_t i = 0; i < x->mine / 8; i++)
        v[i] = ((uint64_t)i + ((uint64_t)x->rank << 40)) * 0x9e3779b97f4a7c15ull;
    memset(x->other, 0, (size_t)x->mine);
    return 0;
}

static char *element(struct bench *x, char *base, int i, int64_t start)
{
    return base + x->at[i] + (start - x->extents[i].start) * 4;
}

static int give(void *ctx, int i, int64_t start, int64_t count, void *buf, struct slc_err *e)
{
    (void)e;
    memcpy(buf, element(ctx, ((struct bench *)ctx)->data, i, start), (size_t)count * 4);
    return 0;
}

static int take(void *ctx, int i, int64_t start, int64_t count, void *buf, struct slc_err *e)
{
    (void)e;
    memcpy(element(ctx, ((struct bench *)ctx)->other, i, start), buf, (size_t)count * 4);
    return 0;
}

/* -- one transfer each; collective, timed by measure() ------------------------------------ */

/* Leave nothing of a file in the page cache, so that a read comes from where it is stored. */
static int forget(const char *path, struct slc_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", path, strerror(errno));
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return 0;
}

static int plain_write(struct bench *x, int direct, struct slc_err *e)
{
    int rc = 0, fd = open(x->file, O_WRONLY | O_CLOEXEC | direct);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", x->file, strerror(errno));
    if (fallocate(fd, 0, x->from, x->mine) < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "%s: %s", x->file, strerror(errno));
    for (int64_t at = 0; rc == 0 && at < x->mine; at += (int64_t)CHUNK) {
        size_t n = (size_t)(x->mine - at) < CHUNK ? (size_t)(x->mine - at) : CHUNK;
        rc = slc_pwrite_all(fd, x->data + at, n, x->from + at, x->file, e);
    }
    if (rc == 0 && fsync(fd) < 0)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot fsync %s: %s", x->file, strerror(errno));
    close(fd);
    return rc;
}

static int plain_read(struct bench *x, int direct, int64_t from, int64_t bytes, bool keep,
                      struct slc_err *e)
{
    int rc = 0, fd = open(x->file, O_RDONLY | O_CLOEXEC | direct);

    if (fd < 0)
        return slc_errf(e, SLC_EXIT_SYSTEM, "cannot open %s: %s", x->file, strerror(errno));
    for (int64_t at = 0; rc == 0 && at < bytes; at += (int64_t)CHUNK) {
        size_t n = (size_t)(bytes - at) < CHUNK ? (size_t)(bytes - at) : CHUNK;
        rc = slc_pread_all(fd, x->other + (keep ? at : 0), n, from + at, x->file, e);
    }
    close(fd);
    return rc;
}

static int save(struct bench *x, struct slc_err *e)
{
    struct slc_ckpt_state s = {.step = 1,
                               .config = (char *)"{}",
                               .run_file = (char *)"",
                               .versions = (char *)"sluice bench checkpoint"};

    return slc_ckpt_save(x->g, x->dir, 1, &s, x->tensors, TENSORS, give, x, NULL, e);
}

static int transfer(struct bench *x, enum figure f, struct slc_err *e)
{
    char path[3400];

    snprintf(path, sizeof(path), "%s/checkpoints/step-00000001", x->dir);
    switch (f) {
    case WRITE: return plain_write(x, 0, e);
    case WRITE_DIRECT: return plain_write(x, O_DIRECT, e);
    case SAVE: return save(x, e);
    case READ: return plain_read(x, 0, x->from, x->mine, true, e);
    case READ_DIRECT: return plain_read(x, O_DIRECT, x->from, x->mine, true, e);
    case LOAD: return slc_ckpt_load(x->g, path, x->tensors, TENSORS, take, x, NULL, e);
    case READ_ALONE: return x->rank ? 0 : plain_read(x, 0, 0, x->bytes, false, e);
    case VERIFY: return x->rank ? 0 : slc_ckpt_verify(path, e) == 0 ? 0 : -1;
    default: memcpy(x->other, x->data, (size_t)x->mine); return 0;
    }
}

/* -- rounds ------------------------------------------------------------------------------ */

/* Before a transfer, untimed: an empty file to write, or one that is in no cache. */
static int prepare(struct bench *x, enum figure f, struct slc_err *e)
{
    int rc = 0, fd;

    if (x->rank != 0)
        return 0;
    if (f == WRITE || f == WRITE_DIRECT) {
        unlink(x->file);
        fd = open(x->file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            return slc_errf(e, SLC_EXIT_SYSTEM, "cannot create %s: %s", x->file, strerror(errno));
        close(fd);
    } else if (f == LOAD || f == VERIFY) {
        rc = forget(x->state, e);
    } else if (f == READ || f == READ_DIRECT || f == READ_ALONE) {
        rc = forget(x->file, e);
    }
    return rc;
}

/* All ranks leave alike when one was told to. */
static int check_interrupt(struct bench *x, struct slc_err *e)
{
    int64_t any = interrupted;

    if (x->g && slc_allreduce_max(x->g, &any, e) < 0)
        return -1;
    return any ? slc_errf(e, SLC_EXIT_AGAIN, "ended by signal %lld", (long long)any) : 0;
}

static bool skipped(const struct bench *x, enum figure f)
{
    return x->no_direct && (f == WRITE_DIRECT || f == READ_DIRECT);
}

static int measure(struct bench *x, enum figure f, int round, struct slc_err *e)
{
    if (skipped(x, f))
        return 0;
    if (check_interrupt(x, e) < 0 || slc_agree(x->g, prepare(x, f, e), e) < 0)
        return -1;
    if (f == LOAD)
        memset(x->other, 0, (size_t)x->mine);
    if (x->g && slc_barrier(x->g, e) < 0)
        return -1;
    double t = slc_now();
    if (slc_agree(x->g, transfer(x, f, e), e) < 0)
        return -1;
    x->t[f][round] = slc_now() - t;
    int rc = 0;
    if ((f == LOAD || f == READ) && memcmp(x->other, x->data, (size_t)x->mine) != 0)
        rc = slc_errf(e, SLC_EXIT_DIFFERS, "what was read is not what was written");
    return slc_agree(x->g, rc, e);
}

/* Does the file system take O_DIRECT? Known on rank 0, told to all. */
static int probe_direct(struct bench *x, struct slc_err *e)
{
    int64_t no = 0;

    if (x->rank == 0) {
        int fd = open(x->file, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);
        no = fd < 0 || pwrite(fd, x->data, PAGE, 0) != PAGE;
        if (fd >= 0)
            close(fd);
        unlink(x->file);
        if (no)
            slc_info("bench", "%s: no O_DIRECT here; plain transfers are buffered only", x->dir);
    }
    if (x->g && slc_allreduce_max(x->g, &no, e) < 0)
        return -1;
    x->no_direct = no;
    return 0;
}

static void print(struct bench *x, const char *what, enum figure f, enum figure plain,
                  enum figure direct)
{
    const int n = (int)x->rounds;
    const double gb = (double)x->bytes / 1e9, copy = gb / slc_bench_median(x->t[COPY], n);
    const double rate = gb / slc_bench_median(x->t[f], n);
    double buffered = gb / slc_bench_median(x->t[plain], n), unbuffered = 0;

    if (direct != plain && !skipped(x, direct))
        unbuffered = gb / slc_bench_median(x->t[direct], n);
    const double limit = buffered > unbuffered ? buffered : unbuffered;
    /* sorted by now: the slowest round is the last */
    printf("{\"benchmark\": \"checkpoint\", \"what\": \"%s\", \"ranks\": %d, \"mib\": %lld, "
           "\"rounds\": %d, \"gb_per_s\": %.3f, \"gb_per_s_min\": %.3f, \"gb_per_s_max\": %.3f, "
           "\"plain_gb_per_s\": %.3f, ",
           what, x->ranks, (long long)(x->bytes >> 20), n, rate, gb / x->t[f][n - 1],
           gb / x->t[f][0], buffered);
    if (unbuffered > 0)
        printf("\"direct_gb_per_s\": %.3f, ", unbuffered);
    printf("\"percent_of_plain\": %.1f, \"memcpy_gb_per_s\": %.3f, \"percent_of_memcpy\": %.1f}\n",
           100 * rate / limit, copy, 100 * rate / copy);
}

static int rounds(struct bench *x, struct slc_err *e)
{
    if (probe_direct(x, e) < 0)
        return -1;
    for (int round = 0; round < x->rounds; round++)
        for (int f = 0; f < FIGURES; f++)
            if (measure(x, (enum figure)f, round, e) < 0)
                return -1;
    if (x->rank != 0)
        return 0;
    print(x, "save", SAVE, WRITE, WRITE_DIRECT);
    print(x, "load", LOAD, READ, READ_DIRECT);
    print(x, "verify", VERIFY, READ_ALONE, READ_ALONE);
    return 0;
}

/* -- the folder -------------------------------------------------------------------------- */

/* Rank 0 makes a folder of its own under dir and tells the others. */
static int make_folder(struct bench *x, const char *dir, struct slc_err *e)
{
    int rc = 0;

    if (x->rank == 0) {
        if (snprintf(x->dir, sizeof(x->dir), "%s/sluice-bench-XXXXXX", dir) >= (int)sizeof(x->dir))
            rc = slc_errf(e, SLC_EXIT_CONFIG, "--dir is too long");
        else if (!mkdtemp(x->dir))
            rc = slc_errf(e, SLC_EXIT_SYSTEM, "cannot make a folder in %s: %s", dir, strerror(errno));
        if (rc < 0)
            x->dir[0] = '\0';
    }
    if (slc_agree(x->g, rc, e) < 0 ||
        (x->g && slc_broadcast(x->g, x->dir, sizeof(x->dir), 0, e) < 0))
        return -1;
    snprintf(x->file, sizeof(x->file), "%s/plain", x->dir);
    snprintf(x->state, sizeof(x->state), "%s/checkpoints/step-00000001/state.h5", x->dir);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int in_folder(struct bench *x, const char *dir, struct slc_err *e)
{
    if (slc_agree(x->g, make_data(x, e), e) < 0)
        return -1;
    /* Parts follow each other in the plain file. */
    int64_t *all = calloc((size_t)x->ranks, sizeof(*all));
    int rc = all ? 0 : slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", x->ranks);
    if (slc_agree(x->g, rc, e) < 0 ||
        (x->g && slc_allgather(x->g, &x->mine, all, sizeof(*all), e) < 0)) {
        free(all);
        return -1;
    }
    for (int r = 0; r < x->rank; r++)
        x->from += all[r];
    free(all);
    if (make_folder(x, dir, e) < 0)
        return -1;
    rc = slc_run_lock(x->g, x->dir, e);
    if (rc == 0) {
        rc = rounds(x, e);
        slc_run_unlock(x->g, x->dir);
    }
    if (x->rank == 0 && nftw(x->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) < 0)
        slc_warn("bench", "%s could not be removed: %s", x->dir, strerror(errno));
    return rc;
}

static int run(struct bench *x, const char *dir, struct slc_err *e)
{
    const struct slc_world_options o = {.allow_tcp = false};
    int rc = 0;

    x->w = slc_world_create(&o, e);
    if (!x->w)
        return -1;
    x->rank = slc_world_rank(x->w);
    x->ranks = slc_world_size(x->w);
    if (x->ranks > 1) {
        int *members = calloc((size_t)x->ranks, sizeof(*members));
        for (int r = 0; members && r < x->ranks; r++)
            members[r] = r;
        x->g = members ? slc_group_create(x->w, members, x->ranks, e) : NULL;
        free(members);
        rc = x->g ? 0 : -1;
    }
    /* A rank has at least a page of every tensor. */
    if (rc == 0 && x->bytes / TENSORS / PAGE < x->ranks)
        rc = slc_errf(e, SLC_EXIT_CONFIG, "--mib %lld is too little for %d ranks",
                      (long long)(x->bytes >> 20), x->ranks);
    if (rc == 0)
        rc = in_folder(x, dir, e);
    free(x->data);
    free(x->other);
    slc_group_destroy(x->g);
    slc_world_destroy(x->w);
    return rc;
}

int slc_bench_checkpoint(int argc, char **argv)
{
    static struct bench x;
    struct slc_err e = SLC_ERR_INIT;
    const char *dir = ".", *mib = "512", *rounds_text = "5";
    long long n_mib;
    int n;
    const struct slc_flag flags[] = {
        {"--dir", "DIR", "where to write: a folder on the file system in question (.)", &dir, NULL},
        {"--mib", "N", "MiB of all ranks together (512)", &mib, NULL},
        {"--rounds", "N", "medians of so many (5)", &rounds_text, NULL},
    };
    int rc = slc_flags_parse(argc, argv, usage, flags, 3, &n, &e);

    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && n > 0)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "unknown argument %s; usage: %s", argv[1], usage);
    if (rc < 0 || slc_flag_int("--mib", mib, 1, 1 << 24, &n_mib, &e) < 0 ||
        slc_flag_int("--rounds", rounds_text, 1, ROUNDS_MAX, &x.rounds, &e) < 0)
        return slc_cmd_fail("bench checkpoint", &e);
    x.bytes = n_mib << 20;
    struct sigaction act = {.sa_handler = interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
    return run(&x, dir, &e) < 0 ? slc_cmd_fail("bench checkpoint", &e) : SLC_EXIT_OK;
}
