/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints by several ranks; the scripts beside it start it.
 *
 *   ranks save RUN STEP SEED CUT     lock, save, unlock; 80 + code of a refused save
 *   ranks load PATH SEED CUT         load and compare every element
 *   ranks find RUN SEED CUT          find, prove all data, load; prints the folder's
 * name ranks crcs PATH                  one line a tensor ranks bench RUN MIB GB/s of
 * save and load, beside plain pwrite and pread
 *
 * SAMPLE_FAIL_RANK=r: the read function of rank r fails. With -DSLC_FAILPOINTS (the
 * program `victim`) SLUICE_FAIL_AT=POINT[:RANK[:COUNT]] kills at the COUNTth passing.
 */
#include "config.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "comm/check.h"
#include "comm/group.h"
#include "store/sample.h"

static struct slc_err e = SLC_ERR_INIT;
static struct slc_world *world;
static struct slc_group *all;
static int me, size;

#ifdef SLC_FAILPOINTS
#include "store/failpoint.h"

void slc_failpoint_hit(const char *name)
{
    static int passed;
    const char *want = getenv("SLUICE_FAIL_AT");
    size_t n = strlen(name);
    int rank = 0, count = 1;

    if (!want || strncmp(want, name, n) || (want[n] && want[n] != ':'))
        return;
    sscanf(want + n, ":%d:%d", &rank, &count);
    if (rank == me && ++passed == count)
        raise(SIGKILL);
}
#endif

static void start(void)
{
    struct slc_world_options o = {.heartbeat_period = 0.3};

    world = slc_world_create(&o, &e);
    NEED(world);
    me = slc_world_rank(world);
    size = slc_world_size(world);
    slc_log_init(me, size);
    int *members = calloc((size_t)size, sizeof(int));
    for (int i = 0; i < size; i++)
        members[i] = i;
    all = slc_group_create(world, members, size, &e);
    NEED(all);
    free(members);
}

/* Bytes this process handed to write calls so far. */
static long written(void)
{
    long n = 0;
    char line[128];
    FILE *f = fopen("/proc/self/io", "r");

    while (f && fgets(line, sizeof(line), f))
        sscanf(line, "wchar: %ld", &n);
    if (f)
        fclose(f);
    return n;
}

static int refused(void)
{
    if (me == 0 || getenv("SAMPLE_EVERY_RANK_SAYS"))
        fprintf(stderr, "rank %d: %s\n", me, e.text);
    return e.code;
}

static int save(const char *run, int64_t step, uint64_t seed, enum sample_cut cut)
{
    struct sample s;
    struct slc_ckpt_report r;
    const char *fail = getenv("SAMPLE_FAIL_RANK");
    int64_t own = 0;

    sample_init(&s, seed, 12);
    sample_cut(&s, cut, me, size);
    s.state.step = step;
    s.fail_after = fail && atoi(fail) == me ? 3 : 0;
    if (slc_run_lock(all, run, &e) < 0)
        return refused();
    long before = written();
    int rc = slc_ckpt_save(all, run, 2, &s.state, s.t, SAMPLE_TENSORS, sample_read, &s,
                           &r, &e);
    slc_run_unlock(all, run);
    for (int i = 0; i < SAMPLE_TENSORS; i++)
        for (int x = 0; x < s.t[i].n_extents; x++)
            own += s.t[i].extents[x].count * (int64_t)slc_dtype_size(s.t[i].dtype);
    sample_release(&s);
    if (rc < 0)
        return refused();
    CHECK(written() - before >= own * 9 / 10); /* every rank writes what is its own */
    return 0;
}

static int load(const char *path, uint64_t seed, enum sample_cut cut)
{
    struct slc_ckpt_state state;
    struct sample s;

    if (slc_ckpt_read_state(all, path, &state, &e) < 0)
        return refused();
    CHECK(state.samples == 640 && state.spec_digest == seed);
    slc_ckpt_state_release(&state);
    sample_init(&s, seed, 12);
    sample_cut(&s, cut, me, size);
    int rc = slc_ckpt_load(all, path, s.t, SAMPLE_TENSORS, sample_write, &s, NULL, &e);
    CHECK(rc < 0 || (s.wrong == 0 && s.moved == sample_elements(&s)));
    sample_release(&s);
    return rc < 0 ? refused() : 0;
}

/* As a job that starts: any proven checkpoint will do, its step says its seed. */
static int find(const char *run, uint64_t seed, enum sample_cut cut)
{
    char path[4096];

    if (slc_ckpt_find(all, run, path, &e) < 0)
        return refused();
    if (!path[0]) {
        puts("none");
        return 0;
    }
    int64_t step = strtoll(strrchr(path, '-') + 1, NULL, 10);
    int rc = load(path, seed + (uint64_t)step, cut);
    if (rc == 0 && me == 0) {
        CHECK(slc_ckpt_verify(path, &e) == 0);
        puts(strrchr(path, '/') + 1);
    }
    return rc;
}

static int crcs(const char *path)
{
    struct slc_ckpt_entry *list;
    int n;

    OK(slc_ckpt_list(path, &list, &n, &e));
    for (int i = 0; i < n && me == 0; i++)
        printf("%s %lld %08x\n", list[i].name, (long long)list[i].bytes, list[i].crc);
    free(list);
    return 0;
}

/* -- speed ----------------------------------------------------------------------------
 */

static float *pool;
static int64_t pool_start;

static int copy_out(void *ctx, int i, int64_t start, int64_t count, void *buf,
                    struct slc_err *err)
{
    (void)ctx, (void)i, (void)err;
    memcpy(buf, pool + (start - pool_start), (size_t)count * 4);
    return 0;
}

static int copy_in(void *ctx, int i, int64_t start, int64_t count, void *buf,
                   struct slc_err *err)
{
    (void)ctx, (void)i, (void)err;
    memcpy(pool + (start - pool_start), buf, (size_t)count * 4);
    return 0;
}

static double plain(const char *path, int64_t bytes, bool writing)
{
    double t;
    int fd = open(path, writing ? O_RDWR | O_CREAT : O_RDONLY, 0666);

    CHECK(fd >= 0);
    OK(slc_barrier(all, &e));
    t = slc_now();
    for (int64_t at = 0; at < bytes; at += 4 << 20) {
        size_t n = bytes - at < 4 << 20 ? (size_t)(bytes - at) : 4 << 20;
        if (writing)
            OK(slc_pwrite_all(fd, (char *)pool + at, n, pool_start * 4 + at, path, &e));
        else
            OK(slc_pread_all(fd, (char *)pool + at, n, pool_start * 4 + at, path, &e));
    }
    CHECK(!writing || fsync(fd) == 0);
    OK(slc_barrier(all, &e));
    t = slc_now() - t;
    close(fd);
    return t;
}

static int bench(const char *run, int64_t mib)
{
    struct slc_ckpt_state state = {.step = 1};
    struct slc_ckpt_report w, r;
    struct slc_ckpt_extent x;
    struct slc_ckpt_tensor t = {.name = "weights/all",
                                .dtype = SLC_F32,
                                .ndim = 1,
                                .extents = &x,
                                .n_extents = 1};
    char path[4096];

    t.shape[0] = mib << 18;
    x.start = pool_start = t.shape[0] * me / size;
    x.count = t.shape[0] * (me + 1) / size - x.start;
    pool = malloc((size_t)x.count * 4);
    for (int64_t k = 0; k < x.count; k++)
        pool[k] = (float)k;
    OK(slc_run_lock(all, run, &e));
    for (int i = 0; i < 5; i++) {
        /* as a save does, a new file before the old one goes */
        snprintf(path, sizeof(path), "%s/plain.%d", run, i);
        double pw = plain(path, x.count * 4, true);
        double pr = plain(path, x.count * 4, false);
        snprintf(path, sizeof(path), "%s/plain.%d", run, i - 1);
        unlink(path);
        OK(slc_ckpt_save(all, run, 1, &state, &t, 1, copy_out, NULL, &w, &e));
        OK(slc_ckpt_find(all, run, path, &e));
        OK(slc_ckpt_load(all, path, &t, 1, copy_in, NULL, &r, &e));
        double gb = (double)(mib << 20) * 1e-9;
        if (me == 0)
            printf("%d ranks, %lld MiB: pwrite+fsync %.2f GB/s, save %.2f GB/s; pread "
                   "%.2f "

                   "GB/s, load %.2f GB/s\n",
                   size, (long long)mib, gb / pw, gb / w.seconds, gb / pr,
                   gb / r.seconds);
    }
    slc_run_unlock(all, run);
    free(pool);
    return 0;
}

int main(int argc, char **argv)
{
    int rc = 2;

    start();
    if (argc == 6 && !strcmp(argv[1], "save"))
        rc = save(argv[2], atoll(argv[3]), (uint64_t)atoll(argv[4]),
                  (enum sample_cut)atoi(argv[5]));
    else if (argc == 5 && !strcmp(argv[1], "load"))
        rc = load(argv[2], (uint64_t)atoll(argv[3]), (enum sample_cut)atoi(argv[4]));
    else if (argc == 5 && !strcmp(argv[1], "find"))
        rc = find(argv[2], (uint64_t)atoll(argv[3]), (enum sample_cut)atoi(argv[4]));
    else if (argc == 3 && !strcmp(argv[1], "crcs"))
        rc = crcs(argv[2]);
    else if (argc == 4 && !strcmp(argv[1], "bench"))
        rc = bench(argv[2], atoll(argv[3]));
    slc_group_destroy(all);
    slc_world_destroy(world);
    return rc;
}
