/* SPDX-License-Identifier: Apache-2.0 */
/* sluice doctor: what this node offers a training job, and what will not work. */
#include "config.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <H5public.h>
#include <dlfcn.h>
#include <ucp/api/ucp.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/probe_fs.h"
#include "comm/window.h"

static const char usage[] = "sluice doctor [--dir D]";

static int problems;

static void ok(const char *what, const char *value)
{
    printf("  ok    %-22s %s\n", what, value);
}

static void bad(const char *what, const char *value, const char *remedy)
{
    printf("  BAD   %-22s %s\n        %s\n", what, value, remedy);
    problems++;
}

static void note(const char *what, const char *value, const char *remedy)
{
    printf("  note  %-22s %s\n        %s\n", what, value, remedy);
}

static void check_cpu(void)
{
    char text[256];
    cpu_set_t set;
    long total = sysconf(_SC_NPROCESSORS_ONLN);
    int mine = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;

    snprintf(text, sizeof(text), "%d of %ld cores are granted here", mine, total);
    ok("cores", text);
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        note("instructions", "no AVX2", "matrix products will be slow on this CPU");
    else if (!__builtin_cpu_supports("avx512f"))
        ok("instructions", "AVX2");
    else
        ok("instructions", "AVX-512");
}

static void check_memory(void)
{
    char text[256];
    struct statvfs shm;
    struct rlimit lock;
    double total = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);

    snprintf(text, sizeof(text), "%.1f GiB", total / (1 << 30));
    ok("memory", text);
    if (statvfs("/dev/shm", &shm) == 0) {
        double free_shm = (double)shm.f_bavail * (double)shm.f_frsize;
        snprintf(text, sizeof(text), "%.1f GiB free", free_shm / (1 << 30));
        if (free_shm < 64.0 * (1 << 20))
            bad("shared memory", text,
                "windows between ranks of a node live in /dev/shm: remount it larger");
        else
            ok("shared memory", text);
    } else {
        bad("shared memory", "/dev/shm is missing", "mount a tmpfs on /dev/shm");
    }
    if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur != RLIM_INFINITY) {
        snprintf(text, sizeof(text), "%.1f MiB may be locked",
                 (double)lock.rlim_cur / (1 << 20));
        note("memlock limit", text,
             "InfiniBand needs `ulimit -l unlimited` (slurmd: LimitMEMLOCK=infinity)");
    }
}

static void check_slurm(void)
{
    const char *job = getenv("SLURM_JOB_ID"), *tasks = getenv("SLURM_NTASKS");

    if (!job) {
        note("Slurm", "not inside a job",
             "run `srun --mpi=pmix sluice doctor` to see what a job's ranks see");
        return;
    }
    if (getenv("PMIX_NAMESPACE"))
        ok("PMIx", "the launcher serves it");
    else if (tasks && atoi(tasks) > 1)
        bad("PMIx", "this step was started without it", "use srun --mpi=pmix");
    /* Debian's plugin opens this link, which only libpmix-dev installs. */
    void *lib = dlopen("libpmix.so.2", RTLD_LAZY | RTLD_LOCAL);
    if (lib) {
        ok("PMIx library", "libpmix.so.2");
        dlclose(lib);
    } else {
        bad("PMIx library", dlerror(), "install libpmix2 and libpmix-dev on every node");
    }
}

static void check_libraries(void)
{
    char text[128];
    unsigned a, b, c;

    ok("UCX", ucp_get_version_string());
    H5get_libversion(&a, &b, &c);
    snprintf(text, sizeof(text), "%u.%u.%u", a, b, c);
    ok("HDF5", text);
    if (getenv("UCX_TLS"))
        note("UCX_TLS", getenv("UCX_TLS"),
             "set by the environment; leave it unset unless you mean to limit transports");
}

static void check_backends(void)
{
    static const char *const names[] = {"cpu", "cuda"};
    const struct slc_backend_options o = {0};

    for (int i = 0; i < 2; i++) {
        struct slc_err e = SLC_ERR_INIT;
        struct slc_backend *b = slc_backend_open(names[i], &o, &e);
        char text[256];

        if (!b) {
            note(names[i], e.text, "run.device of this name will not work here");
            continue;
        }
        slc_backend_describe(b, text, sizeof(text));
        ok(names[i], text);
        slc_backend_close(b);
    }
}

#define PATH_RANKS 64 /* as many talk to each other here; an expert group rarely is larger */
#define PATH_ROWS 16  /* ranks whose own choices are printed */

/* The path of the token exchange between neighbouring ranks, by a window like its own. */
static int check_paths(struct slc_world *w, struct slc_err *e)
{
    const int size = slc_world_size(w), first = slc_world_rank(w) / PATH_RANKS * PATH_RANKS;
    int members[PATH_RANKS], n = 0, rc = -1;
    char line[256], **rows = calloc((size_t)size, sizeof(*rows));
    struct slc_group *g = NULL;
    struct slc_window *win = NULL;

    while (n < PATH_RANKS && first + n < size) {
        members[n] = first + n;
        n++;
    }
    if (!rows) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %d ranks", size);
        goto out;
    }
    if (!(g = slc_group_create(w, members, n, e)) ||
        !(win = slc_window_create(g, 4096, e)) ||
        slc_world_paths(w, line, sizeof(line), rows, e) < 0)
        goto out;
    rc = 0;
    if (slc_world_rank(w) == 0)
        ok("exchange", line);
    if (slc_world_rank(w) == 0 && strstr(line, "message (tcp)") &&
        getenv("UCX_TCP_RX_SEG_SIZE"))
        ok("UCX_TCP_RX_SEG_SIZE", getenv("UCX_TCP_RX_SEG_SIZE"));
    for (int r = 0; slc_world_rank(w) == 0 && r < size && r < PATH_ROWS; r++)
        printf("        rank %-3d on %-12s %s\n", r, slc_world_host(w, r), rows[r]);
out:
    slc_window_destroy(win);
    slc_group_destroy(g);
    for (int r = 0; rows && r < size; r++)
        free(rows[r]);
    free(rows);
    return rc;
}

/* Ranks, nodes, transports, and the file system if asked; needs all ranks of the step. */
static int check_world(const char *dir, struct slc_err *e)
{
    struct slc_world_options o = {.allow_tcp = true};
    struct slc_world *w = slc_world_create(&o, e);
    int rc = 0;

    if (!w)
        return -1;
    slc_log_init(slc_world_rank(w), slc_world_size(w));
    if (slc_world_rank(w) == 0) {
        char text[64];
        snprintf(text, sizeof(text), "%d on %d nodes", slc_world_size(w),
                 slc_world_nodes(w));
        ok("ranks", text);
        ok("transports", slc_world_transports(w));
        if (slc_world_shares_cores(w))
            note("cores", "ranks of this node share cores",
                 "give each rank its own with --cpus-per-task");
    }
    if (slc_world_size(w) > 1)
        rc = check_paths(w, e);
    if (rc == 0 && dir)
        rc = slc_probe_fs(w, dir, e);
    slc_world_destroy(w);
    return rc;
}

int slc_cmd_doctor(int argc, char **argv)
{
    const char *dir = NULL, *rank = getenv("PMIX_RANK");
    struct slc_err e = SLC_ERR_INIT;
    int n;
    const struct slc_flag flags[] = {
        {"--dir", "D", "probe the file system of folder D (under srun: from all nodes)",
         &dir, NULL},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 1, &n, &e);
    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && n > 0)
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "unknown argument %s; usage: %s", argv[1], usage);
    if (rc < 0)
        return slc_cmd_fail("doctor", &e);
    if (!rank || atoi(rank) == 0) {
        char host[256] = "";
        gethostname(host, sizeof(host) - 1);
        printf("%s on %s\n", PACKAGE_STRING, host);
        check_cpu();
        check_memory();
        check_slurm();
        check_libraries();
        check_backends();
        fflush(stdout);
    }
    if (check_world(dir, &e) < 0)
        return slc_cmd_fail("doctor", &e);
    return problems ? SLC_EXIT_SYSTEM : SLC_EXIT_OK;
}
