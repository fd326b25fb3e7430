/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/backend.h"
#include "model/param.h"

/* What the strict backend is for: code that a GPU would punish must fail here. */
#define N 1000

struct fixture {
    struct slc_backend *b;
    struct slc_queue *q, *other;
    struct slc_event *ev;
    float *x, *y, *z;
};

static void setup(struct fixture *f, const char *name)
{
    const struct slc_backend_options opts = {.threads = 1};
    struct slc_err e = SLC_ERR_INIT;
    float ones[N];

    for (int i = 0; i < N; i++)
        ones[i] = 1;
    f->b = slc_backend_open(name, &opts, &e);
    cr_assert(f->b, "%s", e.text);
    f->q = slc_queue_create(f->b, &e);
    f->other = slc_queue_create(f->b, &e);
    f->ev = slc_event_create(f->b, &e);
    f->x = slc_mem_alloc(f->b, sizeof(ones), SLC_MEM_DEVICE, &e);
    f->y = slc_mem_alloc(f->b, sizeof(ones), SLC_MEM_DEVICE, &e);
    f->z = slc_mem_alloc(f->b, sizeof(ones), SLC_MEM_DEVICE, &e);
    cr_assert(f->q && f->other && f->ev && f->x && f->y && f->z);
    slc_upload(f->q, f->x, ones, sizeof(ones));
}

static void teardown(struct fixture *f)
{
    slc_mem_free(f->b, f->x, SLC_MEM_DEVICE);
    slc_mem_free(f->b, f->y, SLC_MEM_DEVICE);
    slc_mem_free(f->b, f->z, SLC_MEM_DEVICE);
    slc_event_destroy(f->ev);
    slc_queue_destroy(f->q);
    slc_queue_destroy(f->other);
    slc_backend_close(f->b);
}

static float first_of(struct slc_queue *q, const float *p)
{
    struct slc_err e = SLC_ERR_INIT;
    float v;

    cr_assert(slc_fetch(q, &v, p, sizeof(v), &e) == 0, "%s", e.text);
    return v;
}

/* y = 2x on one queue, z = y + x on another. */
static float two_queues(const char *name, bool with_event)
{
    struct fixture f;
    float z;

    setup(&f, name);
    SLC_RUN(f.q, copy, .dst = f.y, .src = f.x, .bytes = N * 4);
    SLC_RUN(f.q, scale, .x = f.y, .alpha = 2, .n = N);
    if (with_event) {
        slc_event_record(f.ev, f.q);
        slc_queue_wait(f.other, f.ev);
    }
    SLC_RUN(f.other, add, .y = f.z, .a = f.y, .b = f.x, .n = N);
    z = first_of(f.other, f.z);
    teardown(&f);
    return z;
}

Test(strict, an_event_orders_queues)
{
    cr_assert_float_eq(two_queues("ref", true), 3, 0);
    cr_assert_float_eq(two_queues("strict", true), 3, 0);
}

Test(strict, a_missing_event_shows)
{
    cr_assert_float_eq(two_queues("ref", false), 3, 0); /* which is why strict exists */
    cr_assert(isnan(two_queues("strict", false)));
}

Test(strict, new_memory_is_not_a_number)
{
    struct fixture f;

    setup(&f, "strict");
    cr_assert(isnan(first_of(f.q, f.y)));
    teardown(&f);
}

Test(strict, work_waits_until_it_is_asked_for)
{
    struct slc_err e = SLC_ERR_INIT;
    struct fixture f;
    int looks = 0, done;

    setup(&f, "strict");
    SLC_RUN(f.q, scale, .x = f.x, .alpha = 5, .n = N);
    slc_event_record(f.ev, f.q);
    SLC_RUN(f.q, scale, .x = f.x, .alpha = 5, .n = N);
    cr_assert(slc_event_test(f.ev, &e) == 0, "the first look must not find it done");
    while ((done = slc_event_test(f.ev, &e)) == 0 && looks++ < 10000)
        usleep(100);
    cr_assert_eq(done, 1);
    /* The other queue sees the work before the event and none after it. */
    cr_assert_float_eq(first_of(f.other, f.x), 5, 0);
    cr_assert_float_eq(first_of(f.q, f.x), 25, 0);
    teardown(&f);
}

/* Runs f in a child process and returns its wait status. */
static int in_child(void (*f)(void))
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        f();
        _exit(0);
    }
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static void read_directly(void)
{
    struct fixture f;

    setup(&f, "strict");
    slc_queue_sync(f.q, NULL);
    _exit(*(volatile float *)f.x == 1 ? 0 : 1);
}

static void write_directly(void)
{
    struct fixture f;

    setup(&f, "strict");
    *(volatile float *)f.y = 1;
}

static void read_after_fetch(void)
{
    struct fixture f;

    setup(&f, "strict");
    first_of(f.q, f.x);
    _exit(*(volatile float *)f.x == 1 ? 0 : 1);
}

static void read_by_fetch(void)
{
    struct fixture f;

    setup(&f, "strict");
    _exit(first_of(f.q, f.x) == 1 ? 0 : 1);
}

Test(strict, a_direct_access_faults)
{
    void (*const bad[])(void) = {read_directly, write_directly, read_after_fetch};
    int status;

    for (int i = 0; i < 3; i++) {
        status = in_child(bad[i]);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV,
                  "case %d: status %d", i, status);
    }
    status = in_child(read_by_fetch);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
}

Test(strict, hidden_memory_is_not_a_number)
{
    static const char *const names[] = {"strict", "ref"};

    for (int i = 0; i < 2; i++) {
        struct fixture f;
        float hidden;

        setup(&f, names[i]);
        slc_mem_hide(f.q, f.x, N * 4, true);
        SLC_RUN(f.q, copy, .dst = f.y, .src = f.x, .bytes = N * 4);
        slc_mem_hide(f.q, f.x, N * 4, false);
        SLC_RUN(f.q, copy, .dst = f.z, .src = f.x, .bytes = N * 4);
        hidden = first_of(f.q, f.y);
        cr_assert(i == 0 ? isnan(hidden) : hidden == 1);
        cr_assert_float_eq(first_of(f.q, f.z), 1, 0);
        teardown(&f);
    }
}

/* Weights read without acquire, or after release, are not a number. */
Test(strict, a_missing_acquire_shows)
{
    static const char config[] =
        "{\"model_type\": \"qwen3_moe\", \"vocab_size\": 9, \"hidden_size\": 8,"
        " \"num_hidden_layers\": 1, \"num_attention_heads\": 2,"
        " \"num_key_value_heads\": 1, \"head_dim\": 4, \"intermediate_size\": 8,"
        " \"moe_intermediate_size\": 8, \"num_experts\": 2,"
        " \"num_experts_per_tok\": 1, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0}";
    struct slc_err e = SLC_ERR_INIT;
    struct slc_params ps;
    struct slc_spec spec;
    struct fixture f;

    setup(&f, "strict");
    cr_assert(slc_spec_parse(&spec, config, "config", &e) == 0, "%s", e.text);
    cr_assert(slc_params_create(&ps, &spec, 1, 0, f.b, SLC_F32, true, &e) == 0);
    cr_assert(slc_params_init(&ps, 3, f.q, &e) == 0, "%s", e.text);
    int i = slc_params_find(&ps, SLC_FINAL_NORM, -1);
    const float *w = slc_param_acquire(&ps, i, f.q);
    SLC_RUN(f.q, copy, .dst = f.y, .src = w, .bytes = 8 * 4);
    slc_param_release(&ps, i, f.q);
    SLC_RUN(f.q, copy, .dst = f.z, .src = w, .bytes = 8 * 4); /* planted */
    cr_assert_float_eq(first_of(f.q, f.y), 1, 0);
    cr_assert(isnan(first_of(f.q, f.z)));
    slc_params_destroy(&ps);
    teardown(&f);
}

/* An op's error stays in its queue and travels with events. */
Test(strict, errors_are_sticky)
{
    static const char *const names[] = {"strict", "cpu"};

    for (int i = 0; i < 2; i++) {
        struct slc_err e = SLC_ERR_INIT, planted = SLC_ERR_INIT;
        struct fixture f;
        float v;

        setup(&f, names[i]);
        cr_assert(slc_queue_sync(f.q, &e) == 0);
        slc_errf(&planted, SLC_EXIT_SYSTEM, "planted");
        slc_queue_fail(f.q, &planted);
        slc_event_record(f.ev, f.q);
        slc_queue_wait(f.other, f.ev);
        SLC_RUN(f.other, scale, .x = f.x, .alpha = 1, .n = N);
        cr_assert(slc_queue_sync(f.q, &e) == -1 && e.code == SLC_EXIT_SYSTEM);
        cr_assert(slc_queue_sync(f.q, &e) == -1);
        cr_assert(slc_event_sync(f.ev, &e) == -1);
        cr_assert(slc_fetch(f.other, &v, f.x, 4, &e) == -1 &&
                  !strcmp(e.text, "planted"));
        teardown(&f);
    }
}

Test(backend, unknown_and_missing_ones_say_so)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_null(slc_backend_open("gpu", NULL, &e));
    cr_assert(e.code == SLC_EXIT_CONFIG && strstr(e.text, "\"gpu\""), "%s", e.text);
    setenv("SLUICE_MODULE_DIR", "/nowhere", 1);
    struct slc_backend *b = slc_backend_open("cuda", NULL, &e);
    if (!b)
        cr_assert(e.code == SLC_EXIT_UNSUPPORTED && strstr(e.text, "cuda"), "%s",
                  e.text);
    slc_backend_close(b);
}

Test(backend, the_host_computes_with_the_threads_asked_for)
{
    static const char *const names[] = {"cpu", "ref", "strict"};

    for (int i = 0; i < 3; i++) {
        const struct slc_backend_options o = {.threads = 3 + i};
        struct slc_err e = SLC_ERR_INIT;
        struct slc_backend *b = slc_backend_open(names[i], &o, &e);

        cr_assert(b, "%s", e.text);
        cr_assert_eq(omp_get_max_threads(), o.threads, "%s", names[i]);
        slc_backend_close(b);
    }
}
