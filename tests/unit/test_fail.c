/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/json.h"
#include "base/log.h"

/* Criterion runs each test in a process of its own: the state is fresh. */

static char folder[64];

static void make_folder(void)
{
    strcpy(folder, "/tmp/sluice-fail-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    cr_expect_eq(system(command), 0);
}

static json_t *reason(void)
{
    struct slc_err e = SLC_ERR_INIT;
    char path[128];

    snprintf(path, sizeof(path), "%s/reason.json", folder);
    return slc_json_load(path, 10000, &e);
}

static void check_cause(const char *expected)
{
    json_t *o = reason();

    cr_assert_not_null(o);
    cr_expect_str_eq(json_string_value(json_object_get(o, "cause")), expected);
    json_decref(o);
}

Test(fail, nothing_known)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_expect_not(slc_fail_known());
    cr_expect_null(slc_fail_get());
    cr_expect_eq(slc_fail_check(&e), 0);
    cr_expect_eq(e.code, SLC_EXIT_OK);
    cr_expect_not(slc_fail_reporter());
    cr_expect_eq(slc_fail_write_reason(&e), 0);
}

Test(fail, first_cause_wins)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_expect(
        slc_fail_raise(SLC_EXIT_PEER, 3, "node7", "exchange", "its process is gone"));
    cr_expect_not(slc_fail_raise(SLC_EXIT_INPUT, 1, "node1", "save", "later"));
    cr_expect(slc_fail_known());
    cr_expect_eq(slc_fail_check(&e), -1);
    cr_expect_eq(e.code, SLC_EXIT_PEER);
    cr_expect_eq(e.rank, 3);
    cr_expect_str_eq(e.text, "rank 3 on node7 failed in exchange: its process is gone");
}

static void *raise_one(void *arg)
{
    char cause[32];
    long i = (long)arg;

    snprintf(cause, sizeof(cause), "cause %ld", i);
    return (void *)(long)slc_fail_raise(SLC_EXIT_SYSTEM, (int)i, "h", "p", cause);
}

Test(fail, one_first_among_threads)
{
    pthread_t t[16];
    int firsts = 0;
    long winner = -1;
    char expected[32];

    for (long i = 0; i < 16; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, raise_one, (void *)i), 0);
    for (long i = 0; i < 16; i++) {
        void *first;

        pthread_join(t[i], &first);
        firsts += first != NULL;
        winner = first ? i : winner;
    }
    cr_expect_eq(firsts, 1);
    cr_expect_eq(slc_fail_get()->rank, winner);
    snprintf(expected, sizeof(expected), "cause %ld", winner);
    cr_expect_str_eq(slc_fail_get()->cause, expected);
}

Test(fail, who_reports)
{
    /* a dead rank cannot speak: the lowest other one does */
    slc_fail_set_self(1, "h1");
    slc_fail_raise(SLC_EXIT_PEER, 0, "h0", "p", "gone");
    cr_expect(slc_fail_reporter());
    slc_fail_set_self(2, "h2");
    cr_expect_not(slc_fail_reporter());
}

Test(fail, a_refusing_rank_reports_itself)
{
    slc_fail_set_self(0, "h0");
    slc_fail_raise(SLC_EXIT_INPUT, 2, "h2", "p", "bad file");
    cr_expect_not(slc_fail_reporter());
    slc_fail_print();
    cr_expect_eq(slc_log_errors(), 0);
    slc_fail_set_self(2, "h2");
    cr_expect(slc_fail_reporter());
    slc_fail_print();
    slc_fail_print();
    cr_expect_eq(slc_log_errors(), 1, "one line only");
}

Test(fail, reason_file, .init = make_folder, .fini = remove_folder)
{
    struct slc_err e = SLC_ERR_INIT;
    struct stat st;
    json_t *o;

    slc_fail_set_folder(folder);
    slc_fail_raise(SLC_EXIT_NUMERIC, 5, "node\x01", "step", "loss is not\nfinite \xff");
    cr_assert_eq(slc_fail_write_reason(&e), 0, "%s", e.text);
    o = reason();
    cr_assert_not_null(o);
    cr_expect_eq(json_integer_value(json_object_get(o, "code")), SLC_EXIT_NUMERIC);
    cr_expect_eq(json_integer_value(json_object_get(o, "rank")), 5);
    cr_expect_str_eq(json_string_value(json_object_get(o, "host")), "node ");
    cr_expect_str_eq(json_string_value(json_object_get(o, "phase")), "step");
    cr_expect_str_eq(json_string_value(json_object_get(o, "cause")),
                     "loss is not finite ?");
    cr_expect_eq(json_string_length(json_object_get(o, "time")), 20);
    json_decref(o);
    /* nothing but the file itself */
    cr_assert_eq(stat(folder, &st), 0);
    cr_expect_eq(system(NULL) != 0, 1);
    char command[160];
    snprintf(command, sizeof(command), "test \"$(ls -A %s)\" = reason.json", folder);
    cr_expect_eq(system(command), 0);
}

Test(fail, reason_of_this_run_is_kept, .init = make_folder, .fini = remove_folder)
{
    struct slc_err e = SLC_ERR_INIT;

    slc_fail_set_folder(folder);
    slc_fail_raise(SLC_EXIT_SYSTEM, 0, "h", "save", "mine");
    char path[128];
    snprintf(path, sizeof(path), "%s/reason.json", folder);
    FILE *f = fopen(path, "w"); /* another rank was faster */
    fputs("{\"cause\": \"theirs\"}", f);
    fclose(f);
    cr_expect_eq(slc_fail_write_reason(&e), 0, "%s", e.text);
    check_cause("theirs");
}

Test(fail, reason_of_an_old_run_is_replaced, .init = make_folder, .fini = remove_folder)
{
    struct slc_err e = SLC_ERR_INIT;

    char path[128];
    snprintf(path, sizeof(path), "%s/reason.json", folder);
    FILE *f = fopen(path, "w");
    fputs("{\"cause\": \"last year\"}", f);
    fclose(f);
    slc_fail_set_folder(folder);
    slc_fail_raise(SLC_EXIT_SYSTEM, 0, "h", "save", "mine");
    cr_expect_eq(slc_fail_write_reason(&e), 0, "%s", e.text);
    check_cause("mine");
}

Test(fail, a_started_run_forgets_the_old_reason, .init = make_folder,
     .fini = remove_folder)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/reason.json", folder);
    for (int order = 0; order < 2; order++) {
        FILE *f = fopen(path, "w");
        fputs("{}", f);
        fclose(f);
        slc_fail_set_self(order == 0 ? 1 : 0, "h");
        slc_fail_set_folder(folder);
        slc_fail_started();
        cr_expect_eq(access(path, F_OK) == 0, order == 0, "rank 0 removes it");
    }
}

Test(fail, die_writes_and_leaves, .init = make_folder, .fini = remove_folder)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        slc_fail_set_self(0, "here");
        slc_fail_set_folder(folder);
        slc_fail_set_phase("save");
        slc_die(SLC_EXIT_SYSTEM, "disk of %d bytes", 7);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == SLC_EXIT_SYSTEM);
    check_cause("disk of 7 bytes");
}

Test(fail, phase)
{
    slc_fail_set_phase("validation");
    cr_expect_str_eq(slc_fail_phase(), "validation");
}
