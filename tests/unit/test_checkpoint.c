/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../store/sample.h"
#include "base/file.h"

static char run[64];

static void make_run(void)
{
    strcpy(run, "/tmp/slc-ck-XXXXXX");
    cr_assert(mkdtemp(run));
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
}

static void remove_run(void)
{
    char cmd[128];

    slc_run_unlock(NULL, run);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", run);
    cr_assert_eq(system(cmd), 0);
}

TestSuite(checkpoint, .init = make_run, .fini = remove_run, .timeout = 120);

static void lock(void)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_run_lock(NULL, run, &e), 0, "%s", e.text);
}

static int try_save(struct sample *s, int64_t step, int keep, struct slc_err *e)
{
    s->state.step = step;
    return slc_ckpt_save(NULL, run, keep, &s->state, s->t, SAMPLE_TENSORS, sample_read,
                         s, NULL, e);
}

static void save(uint64_t seed, int64_t step, int keep)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;

    sample_init(&s, seed, 4);
    cr_assert_eq(try_save(&s, step, keep, &e), 0, "%s", e.text);
    cr_assert_eq(s.moved, sample_elements(&s), "each element is read once");
    sample_release(&s);
}

static int try_load(const char *path, uint64_t seed, enum sample_cut cut, int rank,
                    int size, struct slc_err *e)
{
    struct sample s;
    struct slc_ckpt_report r = {0};

    sample_init(&s, seed, 4);
    sample_cut(&s, cut, rank, size);
    int rc = slc_ckpt_load(NULL, path, s.t, SAMPLE_TENSORS, sample_write, &s, &r, e);
    if (rc == 0) {
        cr_assert_eq(s.wrong, 0);
        cr_assert_eq(s.moved, sample_elements(&s), "each element is written once");
        cr_assert(r.bytes > 0 && r.seconds > 0);
    }
    sample_release(&s);
    return rc;
}

static const char *step_path(int64_t step)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/checkpoints/step-%08ld", run, (long)step);
    return path;
}

/* Names in RUN/checkpoints, sorted, one space after each. */
static const char *listing(void)
{
    static char text[512];
    char cmd[128];
    size_t n = 0;

    snprintf(cmd, sizeof(cmd), "ls %s/checkpoints | tr '\\n' ' '", run);
    FILE *p = popen(cmd, "r");
    n = fread(text, 1, sizeof(text) - 1, p);
    text[n] = '\0';
    pclose(p);
    return text;
}

Test(checkpoint, round_trip)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_ckpt_state s;
    char path[4096];

    lock();
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0);
    cr_assert_str_empty(path);
    save(5, 12, 2);
    cr_assert_str_eq(listing(), "latest step-00000012 ");
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0, "%s", e.text);
    cr_assert_str_eq(path, step_path(12));
    cr_assert_eq(slc_ckpt_read_state(NULL, path, &s, &e), 0, "%s", e.text);
    cr_assert(s.step == 12 && s.updates == 9 && s.samples == 640 &&
              s.tokens == 1LL << 40 && s.skipped == 1 &&
              s.seed == 0xfedcba9876543210u && s.spec_digest == 5 &&
              s.corpus_digest == ~0ull && s.best_validation == 1.0 / 3);
    cr_assert_str_eq(s.config, "{\"model_type\": \"x\"}");
    cr_assert_str_eq(s.run_file, "train:\n  steps: 1 # \xc3\xa9\n");
    cr_assert_str_eq(s.versions, "sluice 0");
    slc_ckpt_state_release(&s);
    cr_assert_eq(slc_ckpt_verify(path, &e), 0, "%s", e.text);
    for (int cut = 0; cut < SAMPLE_CUTS; cut++)
        for (int size = 1; size <= 3; size++)
            for (int rank = 0; rank < size; rank++)
                cr_assert_eq(try_load(path, 5, (enum sample_cut)cut, rank, size, &e), 0,
                             "%s", e.text);
}

Test(checkpoint, list_has_shapes_and_digests)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_ckpt_entry *a, *b;
    int n, m;

    lock();
    save(5, 1, 9);
    save(5, 2, 9);
    save(6, 3, 9);
    cr_assert_eq(slc_ckpt_list(step_path(1), &a, &n, &e), 0, "%s", e.text);
    cr_assert_eq(n, SAMPLE_TENSORS);
    cr_assert_str_eq(a[0].name, "weights/embed");
    cr_assert(a[0].ndim == 2 && a[0].shape[0] == 1200 && a[0].shape[1] == 100 &&
              a[0].dtype == SLC_F32 && a[0].bytes == 480000);
    for (int step = 2; step <= 3; step++) {
        cr_assert_eq(slc_ckpt_list(step_path(step), &b, &m, &e), 0, "%s", e.text);
        for (int i = 0; i < n; i++)
            cr_assert((a[i].crc == b[i].crc) == (step == 2), "%s", a[i].name);
        free(b);
    }
    free(a);
}

/* A non-finite best validation (none yet) survives; so do missing texts. */
Test(checkpoint, odd_states)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_ckpt_state got;
    struct sample s;

    lock();
    sample_init(&s, 1, 1);
    s.state.best_validation = 1.0 / 0.0;
    s.state.config = s.state.run_file = s.state.versions = NULL;
    cr_assert_eq(try_save(&s, 0, 1, &e), 0, "%s", e.text);
    cr_assert_eq(slc_ckpt_read_state(NULL, step_path(0), &got, &e), 0, "%s", e.text);
    cr_assert(got.best_validation == 1.0 / 0.0 && got.config[0] == '\0');
    slc_ckpt_state_release(&got);
    cr_assert_eq(slc_ckpt_verify(step_path(0), &e), 0, "%s", e.text);
    sample_release(&s);
}

Test(checkpoint, keeps_the_newest_and_sweeps)
{
    struct slc_err e = SLC_ERR_INIT;
    char dead[128], path[4096];

    lock();
    for (int step = 1; step <= 5; step++)
        save(5, step, 2);
    cr_assert_str_eq(listing(), "latest step-00000004 step-00000005 ");
    snprintf(dead, sizeof(dead), "%s/checkpoints/step-00000006.0123.tmp", run);
    cr_assert_eq(mkdir(dead, 0777), 0);
    strcat(dead, "/state.h5");
    cr_assert_eq(slc_file_replace(dead, "x", 1, &e), 0);
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0);
    cr_assert_str_eq(path, step_path(5), "an unfinished save is never found");
    save(5, 6, 2);
    cr_assert_str_eq(listing(), "latest step-00000005 step-00000006 ");
    save(5, 7, 1);
    cr_assert_str_eq(listing(), "latest step-00000007 ");
    /* going on from an older step never costs what was just saved */
    save(5, 3, 1);
    cr_assert_str_eq(listing(), "latest step-00000003 step-00000007 ");
}

static void flip(const char *path, long at)
{
    unsigned char b;
    int fd = open(path, O_RDWR);

    cr_assert(fd >= 0 && pread(fd, &b, 1, at) == 1);
    b ^= (unsigned char)(1u << (at % 8));
    cr_assert(pwrite(fd, &b, 1, at) == 1);
    close(fd);
}

static const char *file_of(int64_t step, const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", step_path(step), name);
    return path;
}

static long size_of(const char *path)
{
    struct stat st;

    cr_assert_eq(stat(path, &st), 0, "%s", path);
    return (long)st.st_size;
}

static void expect_defect(const char *what, long at)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_ckpt_verify(step_path(1), &e), -1, "%s at %ld is not seen", what,
                 at);
    cr_assert_eq(e.code, SLC_EXIT_DIFFERS, "%s", e.text);
}

static void save_tiny(void)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;

    lock();
    sample_init(&s, 1, 1);
    cr_assert_eq(try_save(&s, 1, 1, &e), 0, "%s", e.text);
    sample_release(&s);
    cr_assert_eq(slc_ckpt_verify(step_path(1), &e), 0, "%s", e.text);
}

Test(checkpoint, any_flip_in_the_small_files_is_seen)
{
    static const char *const names[] = {"manifest.json", "blocks.crc"};

    save_tiny();
    cr_assert(freopen("/dev/null", "w", stdout)); /* hundreds of defect lines */
    for (int i = 0; i < 2; i++)
        for (long at = 0; at < size_of(file_of(1, names[i])); at++) {
            flip(file_of(1, names[i]), at);
            expect_defect(names[i], at);
            flip(file_of(1, names[i]), at);
        }
}

Test(checkpoint, any_flip_in_state_is_seen)
{
    struct slc_err e = SLC_ERR_INIT;
    save_tiny();
    cr_assert(freopen("/dev/null", "w", stdout));
    long n = size_of(file_of(1, "state.h5"));
    for (uint64_t i = 0; i < 400; i++) {
        /* half of them in the metadata: the first pages and those near the end */
        uint64_t r = slc_rng_u64(2, SLC_RNG_TEST, 0, i);
        long at = i % 4 == 0   ? (long)(r % 8192)
                  : i % 4 == 1 ? n - 1 - (long)(r % 16384)
                               : (long)(r % (uint64_t)n);
        flip(file_of(1, "state.h5"), at);
        expect_defect("state.h5", at);
        flip(file_of(1, "state.h5"), at);
    }
    cr_assert_eq(slc_ckpt_verify(step_path(1), &e), 0, "%s", e.text);
}

Test(checkpoint, lengths_and_missing_files_are_seen)
{
    static const char *const names[] = {"state.h5", "manifest.json", "blocks.crc"};
    struct slc_err e = SLC_ERR_INIT;
    char away[256];

    save_tiny();
    for (int i = 0; i < 3; i++) {
        const char *p = file_of(1, names[i]);
        long n = size_of(p);
        char *data;
        size_t len;
        cr_assert_eq(slc_file_read(p, 1 << 28, &data, &len, &e), 0);
        cr_assert_eq(truncate(p, n - 1), 0);
        expect_defect(names[i], n - 1);
        cr_assert_eq(truncate(p, n + 1), 0);
        expect_defect(names[i], n + 1);
        snprintf(away, sizeof(away), "%s/away", run);
        cr_assert_eq(rename(p, away), 0);
        expect_defect(names[i], -1);
        cr_assert_eq(slc_file_replace(p, data, len, &e), 0);
        free(data);
        cr_assert_eq(slc_ckpt_verify(step_path(1), &e), 0, "%s", e.text);
    }
    cr_assert_eq(slc_file_replace(file_of(1, "more"), "x", 1, &e), 0);
    expect_defect("a file more", 0);
    cr_assert_eq(slc_ckpt_verify("/tmp/absent", &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_INPUT);
}

Test(checkpoint, a_folder_renamed_to_another_step_is_seen)
{
    char other[128];
    struct slc_err e = SLC_ERR_INIT;

    save_tiny();
    strcpy(other, step_path(2));
    cr_assert_eq(rename(step_path(1), other), 0);
    cr_assert_eq(slc_ckpt_verify(other, &e), -1);
}

/* Offset and length of a tensor's data in the file, by content. */
static void damage_tensor(int64_t step, uint64_t seed)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;
    unsigned char want[64];
    char *data;
    size_t len;

    sample_init(&s, seed, 4);
    sample_values(&s, 2, 5000, 16, want);
    cr_assert_eq(slc_file_read(file_of(step, "state.h5"), 1 << 28, &data, &len, &e), 0);
    char *at = memmem(data, len, want, sizeof(want));
    cr_assert(at);
    flip(file_of(step, "state.h5"), at - data);
    free(data);
    sample_release(&s);
}

Test(checkpoint, the_one_before_is_found)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[4096], older[4096];

    lock();
    for (int step = 1; step <= 4; step++)
        save((uint64_t)step, step, 9);
    /* the newest is cut short, the next has a flipped manifest */
    cr_assert_eq(truncate(file_of(4, "state.h5"), size_of(file_of(4, "state.h5")) - 1),
                 0);
    flip(file_of(3, "manifest.json"), 40);
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0, "%s", e.text);
    cr_assert_str_eq(path, step_path(2));
    /* a data block shows when it is loaded */
    damage_tensor(2, 2);
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0, "%s", e.text);
    cr_assert_str_eq(path, step_path(2));
    cr_assert_eq(try_load(path, 2, SAMPLE_ROWS, 0, 1, &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_CHECKPOINT);
    cr_assert(strstr(e.text, "damaged: tensor weights/layers.0.experts.up"), "%s",
              e.text);
    cr_assert_eq(slc_ckpt_find_older(NULL, run, path, older, &e), 0, "%s", e.text);
    cr_assert_str_eq(older, step_path(1));
    cr_assert_eq(try_load(older, 1, SAMPLE_ROWS, 0, 1, &e), 0, "%s", e.text);
    /* and the damaged ones are replaced when the run gets there again */
    for (int step = 2; step <= 4; step++)
        save((uint64_t)step + 10, step, 9);
    cr_assert_eq(slc_ckpt_verify(step_path(4), &e), 0, "%s", e.text);
    cr_assert_eq(try_load(step_path(2), 12, SAMPLE_ROWS, 0, 1, &e), 0, "%s", e.text);
    cr_assert_str_eq(listing(),
                     "latest step-00000001 step-00000002 step-00000003 step-00000004 ");
}

Test(checkpoint, none_left_is_an_error)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[4096];

    lock();
    save(1, 1, 9);
    cr_assert_eq(unlink(file_of(1, "manifest.json")), 0);
    cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_CHECKPOINT);
    cr_assert(strstr(e.text, "none of the 1 checkpoints"), "%s", e.text);
}

/* A damaged one does not count when old ones are removed. */
Test(checkpoint, keeping_two_means_two_good_ones)
{
    lock();
    save(1, 1, 2);
    save(2, 2, 2);
    cr_assert_eq(truncate(file_of(2, "state.h5"), 100), 0);
    save(3, 3, 2);
    cr_assert_str_eq(listing(), "latest step-00000001 step-00000002 step-00000003 ");
    save(4, 4, 2);
    cr_assert_str_eq(listing(), "latest step-00000003 step-00000004 ");
}

Test(checkpoint, a_failed_save_leaves_nothing)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;
    char path[4096];
    int writes = 0;

    lock();
    save(1, 1, 2);
    for (int at = 1; at <= 20; at++) {
        sample_init(&s, 2, 4);
        s.fail_after = at;
        int rc = try_save(&s, 2, 2, &e);
        writes = s.calls;
        sample_release(&s);
        if (rc == 0)
            break;
        cr_assert(strstr(e.text, "checkpoint of step 2 not saved: planted"), "%s",
                  e.text);
        cr_assert_str_eq(listing(), "latest step-00000001 ");
        cr_assert_eq(slc_ckpt_find(NULL, run, path, &e), 0);
        cr_assert_str_eq(path, step_path(1));
    }
    cr_assert_eq(writes, SAMPLE_TENSORS,
                 "one call a tensor, so the 13th run succeeded");
    cr_assert_eq(slc_ckpt_verify(step_path(2), &e), 0);
}

/* As a full disk or quota: EFBIG instead of ENOSPC, from the same calls. */
Test(checkpoint, no_room)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;
    struct rlimit was, small;

    lock();
    save(1, 1, 2);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    sample_init(&s, 2, 4);
    for (long kib = 0; kib <= 1024; kib += 128) {
        small = was;
        small.rlim_cur = (rlim_t)kib * 1024 + 100;
        setrlimit(RLIMIT_FSIZE, &small);
        int rc = try_save(&s, 2, 2, &e);
        setrlimit(RLIMIT_FSIZE, &was);
        cr_assert_eq(rc, -1, "with %ld KiB", kib);
        cr_assert(strstr(e.text, "not saved"), "%s", e.text);
        cr_assert_str_eq(listing(), "latest step-00000001 ");
    }
    sample_release(&s);
    cr_assert_eq(slc_ckpt_verify(step_path(1), &e), 0, "%s", e.text);
    save(2, 2, 2);
}

Test(checkpoint, another_model_is_refused)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;

    lock();
    save(1, 1, 2);
    sample_init(&s, 1, 4);
    s.t[2].shape[0] = 8;
    cr_assert_eq(slc_ckpt_load(NULL, step_path(1), s.t, SAMPLE_TENSORS, sample_write,
                               &s, NULL, &e),
                 -1);
    cr_assert(strstr(e.text, "layers.0.experts.up has another shape"), "%s", e.text);
    s.t[2].shape[0] = 7;
    strcpy(s.t[3].name, "weights/other");
    cr_assert_eq(slc_ckpt_load(NULL, step_path(1), s.t, SAMPLE_TENSORS, sample_write,
                               &s, NULL, &e),
                 -1);
    cr_assert(strstr(e.text, "has no tensor weights/other"), "%s", e.text);
    cr_assert_eq(e.code, SLC_EXIT_INPUT);
    sample_release(&s);
}

Test(checkpoint, extents_must_cover_once)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;
    static const struct slc_ckpt_extent hole[] = {{0, 10}, {11, 53}};
    static const struct slc_ckpt_extent twice[] = {{0, 10}, {9, 55}};
    static const struct slc_ckpt_extent past[] = {{0, 65}};
    const struct {
        const struct slc_ckpt_extent *x;
        int n;
        const char *say;
    } cases[] = {{hole, 2, "element 10 is on no rank"},
                 {twice, 2, "element 10 is on two ranks"},
                 {past, 1, "weights/layers.0.norm"},
                 {hole, 1, "elements from 10 on are on no rank"}};

    lock();
    sample_init(&s, 1, 1);
    const struct slc_ckpt_extent *own = s.t[1].extents;
    for (int i = 0; i < 4; i++) {
        s.t[1].extents = cases[i].x;
        s.t[1].n_extents = cases[i].n;
        cr_assert_eq(try_save(&s, 1, 1, &e), -1);
        cr_assert(strstr(e.text, cases[i].say), "%s", e.text);
    }
    s.t[1].extents = own;
    sample_release(&s);
}

/* -- run.lock ------------------------------------------------------------------- */

/* A process that holds the run folder until it is killed; reports when it does. Then,
 * on a byte from us, it tries to save and exits with 0 or the error's code. */
static pid_t holder(int *to)
{
    int up[2], down[2];
    char c;

    cr_assert(pipe(up) == 0 && pipe(down) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct slc_err e = SLC_ERR_INIT;
        struct sample s;
        close(up[0]);
        close(down[1]);
        if (slc_run_lock(NULL, run, &e) < 0 || write(up[1], "y", 1) != 1)
            _exit(e.code);
        if (read(down[0], &c, 1) != 1)
            _exit(77);
        sample_init(&s, 1, 1);
        _exit(try_save(&s, 50, 1, &e) < 0 ? e.code : 0);
    }
    close(up[1]);
    close(down[0]);
    cr_assert(pid > 0 && read(up[0], &c, 1) == 1, "the other process holds it");
    close(up[0]);
    *to = down[1];
    return pid;
}

static int end(pid_t pid)
{
    int status;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Test(checkpoint, lock_refuses_the_living_and_inherits_from_the_dead)
{
    struct slc_err e = SLC_ERR_INIT;
    int to;
    pid_t pid = holder(&to);

    cr_assert_eq(slc_run_lock(NULL, run, &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_BUSY, "%s", e.text);
    cr_assert(strstr(e.text, "in use by"), "%s", e.text);
    kill(pid, SIGSTOP); /* stopped is not dead */
    cr_assert_eq(slc_run_lock(NULL, run, &e), -1);
    kill(pid, SIGKILL);
    cr_assert_eq(end(pid), 128 + SIGKILL);
    cr_assert_eq(slc_run_lock(NULL, run, &e), 0, "%s", e.text);
    save(1, 1, 1);
    slc_run_unlock(NULL, run);
    char path[128];
    snprintf(path, sizeof(path), "ls %s | tr '\\n' ' ' | grep -qx 'checkpoints '", run);
    cr_assert_eq(system(path), 0, "no lock and no temporary file stays");
}

/* A process that waits for a byte and then wants the folder for job 4712. */
static pid_t latecomer(int *to)
{
    int down[2];
    char c;

    cr_assert(pipe(down) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct slc_err e = SLC_ERR_INIT;
        close(down[1]);
        if (read(down[0], &c, 1) != 1)
            _exit(77);
        setenv("SLURM_JOB_ID", "4712", 1);
        _exit(slc_run_lock(NULL, run, &e) < 0 ? e.code : 0);
    }
    close(down[0]);
    *to = down[1];
    return pid;
}

/* Slurm requeued the job while the old start still runs: the new one owns the folder,
 * the old one can save nothing any more, and its end does not set the folder free. */
Test(checkpoint, requeue_fences_the_old_start)
{
    struct slc_err e = SLC_ERR_INIT;
    int to, to_late;

    setenv("SLURM_JOB_ID", "4711", 1);
    pid_t late = latecomer(&to_late), old = holder(&to);
    setenv("SLURM_RESTART_COUNT", "1", 1);
    cr_assert_eq(slc_run_lock(NULL, run, &e), 0, "%s", e.text);
    save(1, 1, 1);
    cr_assert_eq(write(to, "x", 1), 1);
    cr_assert_eq(end(old), SLC_EXIT_BUSY);
    cr_assert_str_eq(listing(), "latest step-00000001 ");
    save(1, 2, 1);
    cr_assert_eq(write(to_late, "x", 1), 1);
    cr_assert_eq(end(late), SLC_EXIT_BUSY);
}

static void foreign_lock(void)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[128];
    static const char text[] =
        "{\"job\": \"9\", \"restart\": 0, \"host\": \"elsewhere\", "
        "\"boot\": \"another\", \"pid\": 1, \"nonce\": \"00\"}";

    snprintf(path, sizeof(path), "%s/run.lock", run);
    cr_assert_eq(slc_file_replace(path, text, strlen(text), &e), 0);
}

Test(checkpoint, an_owner_on_another_node_is_known_by_its_beat)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[128];

    foreign_lock();
    snprintf(path, sizeof(path), "%s/run.lock", run);
    pid_t pid = fork();
    if (pid == 0) {
        sleep(2);
        _exit(utimensat(AT_FDCWD, path, NULL, 0) != 0);
    }
    cr_assert_eq(slc_run_lock(NULL, run, &e), -1);
    cr_assert(e.code == SLC_EXIT_BUSY && strstr(e.text, "job 9 on elsewhere"), "%s",
              e.text);
    cr_assert_eq(end(pid), 0);
}

Test(checkpoint, an_owner_on_another_node_that_stopped_beating)
{
    struct slc_err e = SLC_ERR_INIT;

    foreign_lock();
    cr_assert_eq(slc_run_lock(NULL, run, &e), 0, "%s", e.text);
    save(1, 1, 1);
}

Test(checkpoint, saving_without_the_lock_is_refused)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;

    sample_init(&s, 1, 1);
    cr_assert_eq(try_save(&s, 1, 1, &e), -1);
    cr_assert(strstr(e.text, "not locked"), "%s", e.text);
    sample_release(&s);
}

/* The lock is taken away in the middle of a save: nothing may be committed. */
static int steal(void *ctx, int i, int64_t start, int64_t count, void *buf,
                 struct slc_err *e)
{
    if (i == 5)
        foreign_lock();
    return sample_read(ctx, i, start, count, buf, e);
}

Test(checkpoint, a_lock_lost_during_a_save)
{
    struct slc_err e = SLC_ERR_INIT;
    struct sample s;

    lock();
    save(1, 1, 1);
    sample_init(&s, 1, 1);
    s.state.step = 2;
    cr_assert_eq(
        slc_ckpt_save(NULL, run, 1, &s.state, s.t, SAMPLE_TENSORS, steal, &s, NULL, &e),
        -1);
    cr_assert(e.code == SLC_EXIT_BUSY && strstr(e.text, "now belongs to job 9"), "%s",
              e.text);
    cr_assert_str_eq(listing(), "latest step-00000001 ");
    sample_release(&s);
}
