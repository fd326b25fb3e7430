/* SPDX-License-Identifier: Apache-2.0 */
/*
 * N ranks on this machine through the PMIx server API, without Slurm: a launcher for
 * tests. It forks, answers fences and reaps; as under Slurm, a rank that dies before it
 * closed its PMIx session takes the others along.
 *
 *   launch -n N [--nodes M] [-t SECONDS] [-v] [--kill RANK@SECONDS] [--stop
 * RANK@SECONDS]
 *          [--env RANK:NAME=VALUE] PROGRAM [ARGUMENTS]
 *
 *   --nodes M  ranks say they are on M nodes (SLURMD_NODENAME=node0, node1, ...)
 *   -t S       after S seconds kill what is left and exit 124 (default 120)
 *   -v         tell how and when each rank ended
 *   --kill, --stop  send SIGKILL or SIGSTOP to a rank so long after the start
 *
 * Exit code: the highest of the ranks' (128 + signal for a killed one).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <ftw.h>
#include <pmix.h>
#include <pmix_server.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX 1024
#define ACTIONS_MAX 16
static const pmix_nspace_t nspace = "sluice-launch";

struct action {
    int rank, signal;
    double at;
    bool done;
};

struct setting {
    int rank;
    const char *text; /* NAME=VALUE */
};

static struct {
    int n, nodes;
    double limit;
    bool verbose;
    char **argv;
    struct action actions[ACTIONS_MAX];
    struct setting settings[ACTIONS_MAX];
    int n_actions, n_settings;
} opt = {.n = 1, .nodes = 1, .limit = 120};

static struct rank {
    pid_t pid; /* 0: gone */
    atomic_bool connected, finalized;
} ranks[RANKS_MAX];

static char folder[] = "/tmp/sluice-launch-XXXXXX";

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("launch: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    for (int r = 0; r < opt.n; r++)
        if (ranks[r].pid > 0)
            kill(ranks[r].pid, SIGKILL);
    exit(99);
}

/* --- what the PMIx library asks of its host
 * --------------------------------------------- */

static pmix_status_t on_connected(const pmix_proc_t *proc, void *object,
                                  pmix_op_cbfunc_t cb, void *data)
{
    (void)object;
    (void)cb;
    (void)data;
    atomic_store(&ranks[proc->rank].connected, true);
    return PMIX_OPERATION_SUCCEEDED;
}

static pmix_status_t on_finalized(const pmix_proc_t *proc, void *object,
                                  pmix_op_cbfunc_t cb, void *data)
{
    (void)object;
    (void)cb;
    (void)data;
    atomic_store(&ranks[proc->rank].finalized, true);
    return PMIX_OPERATION_SUCCEEDED;
}

static pmix_status_t on_abort(const pmix_proc_t *proc, void *object, int status,
                              const char msg[], pmix_proc_t procs[], size_t nprocs,
                              pmix_op_cbfunc_t cb, void *data)
{
    (void)proc;
    (void)object;
    (void)status;
    (void)msg;
    (void)procs;
    (void)nprocs;
    (void)cb;
    (void)data;
    return PMIX_OPERATION_SUCCEEDED;
}

/* All ranks are local: their data came together already, give it back as it is. */
static pmix_status_t on_fence(const pmix_proc_t procs[], size_t nprocs,
                              const pmix_info_t info[], size_t ninfo, char *data,
                              size_t ndata, pmix_modex_cbfunc_t cb, void *cbdata)
{
    (void)procs;
    (void)nprocs;
    (void)info;
    (void)ninfo;
    cb(PMIX_SUCCESS, data, ndata, cbdata, free, data);
    return PMIX_SUCCESS;
}

static pmix_status_t on_modex(const pmix_proc_t *proc, const pmix_info_t info[],
                              size_t ninfo, pmix_modex_cbfunc_t cb, void *cbdata)
{
    (void)proc;
    (void)info;
    (void)ninfo;
    (void)cb;
    (void)cbdata;
    return PMIX_ERR_NOT_FOUND;
}

static pmix_server_module_t module = {
    .client_connected = on_connected,
    .client_finalized = on_finalized,
    .abort = on_abort,
    .fence_nb = on_fence,
    .direct_modex = on_modex,
};

/* --- describing the job
 * ---------------------------------------------------------------- */

static int node_of(int rank)
{
    return (int)((long)rank * opt.nodes / opt.n);
}

/* "node0,node1" and "0,1;2,3" */
static void maps(char **nodes, char **procs)
{
    size_t len = 16u * (size_t)(opt.n + opt.nodes) + 16;
    char *a = calloc(1, len), *b = calloc(1, len);

    for (int r = 0; r < opt.n; r++) {
        bool first = r == 0 || node_of(r) != node_of(r - 1);

        if (first)
            sprintf(a + strlen(a), "%snode%d", r ? "," : "", node_of(r));
        sprintf(b + strlen(b), "%s%d", r == 0 ? "" : first ? ";" : ",", r);
    }
    if (PMIx_generate_regex(a, nodes) != PMIX_SUCCESS ||
        PMIx_generate_ppn(b, procs) != PMIX_SUCCESS)
        die("cannot describe the nodes to PMIx");
    free(a);
    free(b);
}

static atomic_int answered;

static void on_done(pmix_status_t status, void *data)
{
    (void)data;
    atomic_store(&answered, status == PMIX_SUCCESS ? 1 : -1);
}

static void wait_answer(pmix_status_t rc, const char *what)
{
    struct timespec t = {.tv_nsec = 100000};

    if (rc == PMIX_SUCCESS)
        while (!atomic_load(&answered))
            nanosleep(&t, NULL);
    if ((rc != PMIX_SUCCESS && rc != PMIX_OPERATION_SUCCEEDED) ||
        atomic_load(&answered) < 0)
        die("%s: %s", what, PMIx_Error_string(rc));
    atomic_store(&answered, 0);
}

static void fill_proc_data(pmix_info_t *info, int rank)
{
    pmix_data_array_t array;
    pmix_info_t *item;
    uint32_t node = (uint32_t)node_of(rank);
    uint16_t local = 0;
    pmix_rank_t r32 = (pmix_rank_t)rank;

    for (int r = 0; r < rank; r++)
        local += node_of(r) == node_of(rank);
    PMIX_DATA_ARRAY_CONSTRUCT(&array, 4, PMIX_INFO);
    item = array.array;
    PMIX_INFO_LOAD(&item[0], PMIX_RANK, &r32, PMIX_PROC_RANK);
    PMIX_INFO_LOAD(&item[1], PMIX_LOCAL_RANK, &local, PMIX_UINT16);
    PMIX_INFO_LOAD(&item[2], PMIX_NODE_RANK, &local, PMIX_UINT16);
    PMIX_INFO_LOAD(&item[3], PMIX_NODEID, &node, PMIX_UINT32);
    PMIX_INFO_LOAD(info, PMIX_PROC_DATA, &array, PMIX_DATA_ARRAY);
    PMIX_DATA_ARRAY_DESTRUCT(&array);
}

static void register_job(void)
{
    int n_info = 8 + opt.n, at = 0;
    pmix_info_t *info;
    char *nodes, *procs, *peers = calloc(1, 16u * (size_t)opt.n + 16);
    uint32_t size = (uint32_t)opt.n, n_nodes = (uint32_t)opt.nodes;

    maps(&nodes, &procs);
    for (int r = 0; r < opt.n; r++)
        sprintf(peers + strlen(peers), "%s%d", r ? "," : "", r);
    PMIX_INFO_CREATE(info, (size_t)n_info);
    PMIX_INFO_LOAD(&info[at++], PMIX_NODE_MAP, nodes, PMIX_STRING);
    PMIX_INFO_LOAD(&info[at++], PMIX_PROC_MAP, procs, PMIX_STRING);
    PMIX_INFO_LOAD(&info[at++], PMIX_JOB_SIZE, &size, PMIX_UINT32);
    PMIX_INFO_LOAD(&info[at++], PMIX_UNIV_SIZE, &size, PMIX_UINT32);
    PMIX_INFO_LOAD(&info[at++], PMIX_MAX_PROCS, &size, PMIX_UINT32);
    PMIX_INFO_LOAD(&info[at++], PMIX_LOCAL_SIZE, &size, PMIX_UINT32);
    PMIX_INFO_LOAD(&info[at++], PMIX_NUM_NODES, &n_nodes, PMIX_UINT32);
    PMIX_INFO_LOAD(&info[at++], PMIX_LOCAL_PEERS, peers, PMIX_STRING);
    for (int r = 0; r < opt.n; r++)
        fill_proc_data(&info[at++], r);
    wait_answer(
        PMIx_server_register_nspace(nspace, opt.n, info, (size_t)n_info, on_done, NULL),
        "PMIx_server_register_nspace");
    PMIX_INFO_FREE(info, (size_t)n_info);
    free(nodes);
    free(procs);
    free(peers);
}

static void start_server(void)
{
    pmix_info_t info[2];

    if (!mkdtemp(folder))
        die("mkdtemp: %s", strerror(errno));
    PMIX_INFO_LOAD(&info[0], PMIX_SERVER_TMPDIR, folder, PMIX_STRING);
    PMIX_INFO_LOAD(&info[1], PMIX_SYSTEM_TMPDIR, folder, PMIX_STRING);
    pmix_status_t rc = PMIx_server_init(&module, info, 2);
    PMIX_INFO_DESTRUCT(&info[0]);
    PMIX_INFO_DESTRUCT(&info[1]);
    if (rc != PMIX_SUCCESS)
        die("PMIx_server_init: %s", PMIx_Error_string(rc));
    register_job();
}

/* --- ranks
 * ----------------------------------------------------------------------------- */

static void start_rank(int rank)
{
    pmix_proc_t proc;
    char **env = NULL, node[32];
    sigset_t none;

    PMIX_LOAD_PROCID(&proc, nspace, (pmix_rank_t)rank);
    wait_answer(
        PMIx_server_register_client(&proc, getuid(), getgid(), NULL, on_done, NULL),
        "PMIx_server_register_client");
    if (PMIx_server_setup_fork(&proc, &env) != PMIX_SUCCESS)
        die("PMIx_server_setup_fork failed");
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid > 0) {
        ranks[rank].pid = pid;
        PMIX_ARGV_FREE(env);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(99);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (char **v = env; v && *v; v++)
        putenv(*v);
    snprintf(node, sizeof(node), "node%d", node_of(rank));
    if (opt.nodes > 1)
        setenv("SLURMD_NODENAME", node, 1);
    for (int i = 0; i < opt.n_settings; i++)
        if (opt.settings[i].rank == rank)
            putenv((char *)opt.settings[i].text);
    execvp(opt.argv[0], opt.argv);
    fprintf(stderr, "launch: cannot start %s: %s\n", opt.argv[0], strerror(errno));
    _exit(127);
}

static void signal_all(int sig)
{
    for (int r = 0; r < opt.n; r++)
        if (ranks[r].pid > 0)
            kill(ranks[r].pid, sig);
}

/* Take the news of one ended rank; false: none. */
static bool reap(int *worst, double start)
{
    int status, r = 0;
    pid_t pid = waitpid(-1, &status, WNOHANG);

    if (pid <= 0)
        return false;
    while (r < opt.n && ranks[r].pid != pid)
        r++;
    if (r == opt.n)
        return true;
    ranks[r].pid = 0;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (opt.verbose)
        fprintf(stderr, "launch: rank %d ended with %d after %.2f s\n", r, code,
                now() - start);
    *worst = code > *worst ? code : *worst;
    if (code && ranks[r].connected && !ranks[r].finalized) {
        fprintf(stderr, "launch: rank %d died in bootstrap, ending the others\n", r);
        signal_all(SIGKILL);
    }
    return true;
}

static int alive(void)
{
    int n = 0;

    for (int r = 0; r < opt.n; r++)
        n += ranks[r].pid > 0;
    return n;
}

static double run_actions(double elapsed)
{
    double next = opt.limit;

    for (int i = 0; i < opt.n_actions; i++) {
        struct action *a = &opt.actions[i];

        if (a->done)
            continue;
        if (a->at > elapsed) {
            next = a->at < next ? a->at : next;
            continue;
        }
        a->done = true;
        if (ranks[a->rank].pid > 0)
            kill(ranks[a->rank].pid, a->signal);
    }
    return next;
}

static int watch(double start)
{
    int worst = 0;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    while (alive()) {
        double elapsed = now() - start;
        double left = run_actions(elapsed) - elapsed;

        if (elapsed >= opt.limit) {
            fprintf(stderr, "launch: %d ranks left after %.0f s, killing them\n",
                    alive(), opt.limit);
            signal_all(SIGKILL);
            worst = 124;
            opt.limit += 10;
        }
        left = left < 0.001 ? 0.001 : left > 1 ? 1 : left;
        struct timespec t = {.tv_sec = (time_t)left,
                             .tv_nsec = (long)((left - (double)(time_t)left) * 1e9)};
        int sig = sigtimedwait(&set, NULL, &t);
        if (sig == SIGTERM || sig == SIGINT || sig == SIGUSR1)
            signal_all(sig);
        while (reap(&worst, start))
            ;
    }
    return worst;
}

/* --- main
 * ------------------------------------------------------------------------------ */

static void add_action(const char *text, int sig)
{
    struct action a = {.signal = sig};

    if (opt.n_actions == ACTIONS_MAX || sscanf(text, "%d@%lf", &a.rank, &a.at) != 2)
        die("expected RANK@SECONDS, not %s", text);
    opt.actions[opt.n_actions++] = a;
}

static void add_setting(const char *text)
{
    const char *colon = strchr(text, ':');

    if (opt.n_settings == ACTIONS_MAX || !colon || !strchr(colon, '='))
        die("expected RANK:NAME=VALUE, not %s", text);
    opt.settings[opt.n_settings++] = (struct setting){atoi(text), colon + 1};
}

static void parse(int argc, char **argv)
{
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *name = argv[i][1] == '-' ? argv[i] + 2 : argv[i] + 1;
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(name, "v") == 0) {
            opt.verbose = true;
            continue;
        }
        if (strcmp(name, "n") == 0)
            opt.n = atoi(value);
        else if (strcmp(name, "nodes") == 0)
            opt.nodes = atoi(value);
        else if (strcmp(name, "t") == 0)
            opt.limit = atof(value);
        else if (strcmp(name, "kill") == 0)
            add_action(value, SIGKILL);
        else if (strcmp(name, "stop") == 0)
            add_action(value, SIGSTOP);
        else if (strcmp(name, "env") == 0)
            add_setting(value);
        else
            die("unknown option %s", argv[i]);
        i++;
    }
    opt.argv = argv + i;
    if (i >= argc || opt.n < 1 || opt.n > RANKS_MAX || opt.nodes < 1 ||
        opt.nodes > opt.n)
        die("usage: launch -n N [--nodes M] [-t S] [-v] [--kill R@S] [--stop R@S] "
            "[--env R:NAME=VALUE] PROGRAM [ARGUMENTS]");
    for (int a = 0; a < opt.n_actions; a++)
        if (opt.actions[a].rank < 0 || opt.actions[a].rank >= opt.n)
            die("no rank %d", opt.actions[a].rank);
}

static int remove_one(const char *path, const struct stat *st, int type,
                      struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    sigset_t set;

    parse(argc, argv);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before PMIx starts its threads */
    start_server();
    double start = now();
    if (opt.verbose)
        fprintf(stderr, "launch: started at %.3f\n", start);
    for (int r = 0; r < opt.n; r++)
        start_rank(r);
    int worst = watch(start);
    PMIx_server_finalize();
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return worst;
}
