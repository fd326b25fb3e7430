/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "corpus_fixture.h"

TestSuite(corpus, .init = dir_setup, .fini = dir_teardown);

/* Steps after which a file system may show the work of a killed build: the process is
 * killed before the n-th of them. 0: never. */
static int kill_at, steps;

static void step(void)
{
    if (++steps == kill_at)
        raise(SIGKILL);
}

int fsync(int fd)
{
    step();
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    step();
    return (int)syscall(SYS_rename, from, to);
}

int ftruncate(int fd, off_t len)
{
    step();
    return (int)syscall(SYS_ftruncate, fd, len);
}

int rmdir(const char *path)
{
    step();
    return (int)syscall(SYS_rmdir, path);
}

static void expect_ids(struct slc_corpus *c, int64_t at, const char *text, int64_t n)
{
    int32_t ids[64];
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_corpus_read(c, at, n, ids, NULL, &e), 0, "%s", e.text);
    for (int64_t i = 0; i < n; i++)
        cr_expect_eq(ids[i], (unsigned char)text[i], "token %ld", (long)(at + i));
}

Test(corpus, text_is_one_document)
{
    struct slc_err e = SLC_ERR_INIT;
    const char text[] = "In the beginning\xff\xfe\0 was"; /* bytes take anything */

    cr_assert_eq(build_one(put_file("a.txt", text, sizeof(text)), "bytes", 0, 0, &e), 0,
                 "%s", e.text);
    struct slc_corpus *c = open_part("c.h5", SLC_CORPUS_TRAIN);
    cr_expect_eq(slc_corpus_tokens(c), (int64_t)sizeof(text));
    cr_expect_eq(slc_corpus_documents(c), 1);
    cr_expect_eq(slc_corpus_vocab(c), 256);
    cr_expect_str_eq(slc_corpus_tokenizer(c), "bytes");
    cr_expect_not(slc_corpus_has_mask(c));
    expect_ids(c, 0, text, sizeof(text));
    expect_ids(c, 7, text + 7, 3);
    slc_corpus_close(c);
    cr_expect_eq(access(in_dir("c.h5.partial"), F_OK), -1, "the partial folder is left");
    cr_expect_null(slc_corpus_open(in_dir("c.h5"), SLC_CORPUS_VALIDATION, &e));
    cr_expect(strstr(e.text, "no held-out part"), "%s", e.text);
}

Test(corpus, jsonl_documents_and_mask)
{
    struct slc_err e = SLC_ERR_INIT;
    uint8_t mask[16];

    put_text("a.jsonl", "{\"text\": \"ab\\u0000\", \"source\": \"x\"}\n"
                        "\n"
                        "{\"text\": \"\"}\r\n"
                        "{\"ids\": [300, 1, 2], \"mask\": [0, 1, true]}\n"
                        "{\"ids\": []}\n"
                        "{\"ids\": [65535]}");
    cr_assert_eq(build_one(in_dir("a.jsonl"), "bytes", 65536, 0, &e), 0, "%s", e.text);
    struct slc_corpus *c = open_part("c.h5", SLC_CORPUS_TRAIN);
    cr_expect_eq(slc_corpus_documents(c), 3);
    static const int64_t starts[] = {0, 3, 6, 7};
    static const int32_t want[] = {'a', 'b', 0, 300, 1, 2, 65535};
    static const uint8_t want_mask[] = {1, 1, 1, 0, 1, 1, 1};
    int32_t ids[7];
    for (int d = 0; d < 4; d++)
        cr_expect_eq(slc_corpus_start(c, d), starts[d]);
    cr_expect(slc_corpus_has_mask(c));
    cr_assert_eq(slc_corpus_read(c, 0, 7, ids, mask, &e), 0);
    cr_expect_eq(memcmp(ids, want, sizeof(want)), 0);
    cr_expect_eq(memcmp(mask, want_mask, sizeof(want_mask)), 0);
    cr_assert_eq(slc_corpus_read(c, 3, 2, NULL, mask, &e), 0);
    cr_expect_eq(mask[0], 0);
    cr_expect_eq(mask[1], 1);
    slc_corpus_close(c);
}

Test(corpus, wide_ids_without_tokenizer)
{
    struct slc_err e = SLC_ERR_INIT;
    int32_t id;

    put_text("a.jsonl", "{\"ids\": [5, 151642]}\n");
    cr_assert_eq(build_one(in_dir("a.jsonl"), NULL, 151643, 0, &e), 0, "%s", e.text);
    struct slc_corpus *c = open_part("c.h5", SLC_CORPUS_TRAIN);
    cr_expect_str_eq(slc_corpus_tokenizer(c), "none");
    cr_expect_eq(slc_corpus_vocab(c), 151643);
    cr_assert_eq(slc_corpus_read(c, 1, 1, &id, NULL, &e), 0);
    cr_expect_eq(id, 151642);
    slc_corpus_close(c);
}

static void expect_parts(double share, int64_t train, int64_t train_docs, int64_t held,
                         int64_t held_docs)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(build_one(in_dir("a.jsonl"), "bytes", 0, share, &e), 0, "%s", e.text);
    struct slc_corpus *a = open_part("c.h5", SLC_CORPUS_TRAIN);
    struct slc_corpus *b = open_part("c.h5", SLC_CORPUS_VALIDATION);
    cr_expect_eq(slc_corpus_tokens(a), train, "%g: %ld", share, (long)slc_corpus_tokens(a));
    cr_expect_eq(slc_corpus_documents(a), train_docs);
    cr_expect_eq(slc_corpus_tokens(b), held);
    cr_expect_eq(slc_corpus_documents(b), held_docs);
    cr_expect_eq(slc_corpus_digest(a), slc_corpus_digest(b));
    const char all[] = "aaaaaaaaaabbbbbbbbbbcccccccccc";
    expect_ids(a, 0, all, train);
    expect_ids(b, 0, all + train, held);
    slc_corpus_close(a);
    slc_corpus_close(b);
}

/* The held-out part begins at a document where one is near, inside a document elsewhere. */
Test(corpus, validation_split)
{
    put_text("a.jsonl", "{\"text\": \"aaaaaaaaaa\"}\n{\"text\": \"bbbbbbbbbb\"}\n"
                        "{\"text\": \"cccccccccc\"}\n");
    expect_parts(0.3, 20, 2, 10, 1);  /* 9 wanted: one document is near */
    expect_parts(0.4, 20, 2, 10, 1);  /* 12 wanted */
    expect_parts(0.34, 20, 2, 10, 1); /* exactly one document */
    expect_parts(0.1, 27, 3, 3, 1);   /* 3 wanted: the last document is cut */
    expect_parts(0.5, 20, 2, 10, 1);  /* 15 wanted: of two as near the later */
    expect_parts(0.55, 10, 1, 20, 2); /* 16 wanted: the earlier is nearer */
}

static void refuse(const char *input, const char *tokenizer, int64_t vocab, int code,
                   const char *want)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_expect_eq(build_one(input, tokenizer, vocab, 0, &e), -1, "no error: %s", want);
    cr_expect_eq(e.code, code, "code %d: %s", e.code, e.text);
    cr_expect(strstr(e.text, want), "no '%s' in: %s", want, e.text);
    cr_expect_eq(access(in_dir("c.h5"), F_OK), -1, "a file after: %s", e.text);
}

Test(corpus, bad_input)
{
    static const struct {
        const char *text, *want;
    } lines[] = {
        {"{\"text\": \"a\"}\n{\"text\": }\n", "a.jsonl:2: column"},
        {"{\"text\": \"a\"}\n\n{\"text\": \"\xff\"}\n", "a.jsonl:3: column"},
        {"{\"ids\": [1, 256]}\n", "a.jsonl:1: id 256 at place 1 is outside the vocabulary"},
        {"{\"ids\": [-1]}\n", "id -1 at place 0"},
        {"{\"ids\": [1.5]}\n", "list of integers"},
        {"{\"ids\": 1}\n", "list of integers"},
        {"{\"ids\": [1], \"mask\": [1, 1]}\n", "as long as"},
        {"{\"ids\": [1], \"mask\": [2]}\n", "0 and 1 only"},
        {"{\"text\": \"a\", \"mask\": [1]}\n", "goes with \"ids\""},
        {"{\"text\": \"a\", \"ids\": [1]}\n", "either"},
        {"{\"body\": \"a\"}\n", "either"},
        {"[1]\n", "either"},
        {"{\"text\": 5}\n", "must be a string"},
        {"{\"text\": \"a\", \"text\": \"b\"}\n", "duplicate"},
        {"{\"text\": \"a\"} x\n", "a.jsonl:1: column"},
        {"\n \n", "holds no text"},
        {"", "holds no text"},
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
        refuse(put_text("a.jsonl", lines[i].text), "bytes", 0, SLC_EXIT_INPUT,
               lines[i].want);
    refuse(put_text("a.txt", ""), "bytes", 0, SLC_EXIT_INPUT, "holds no text");
    refuse(put_text("a.txt", "a"), NULL, 256, SLC_EXIT_CONFIG, "no tokenizer");
    refuse(put_text("a.jsonl", "{\"text\": \"a\"}"), NULL, 9, SLC_EXIT_INPUT, "no tokenizer");
    refuse(in_dir("a.jsonl"), NULL, 0, SLC_EXIT_CONFIG, "vocabulary size must be given");
    refuse(in_dir("a.jsonl"), "bytes", 100, SLC_EXIT_CONFIG, "more than 100");
    refuse(put_text("a.bin", "a"), "bytes", 0, SLC_EXIT_UNSUPPORTED, ".txt");
    refuse(in_dir("none.txt"), "bytes", 0, SLC_EXIT_INPUT, "none.txt");
    refuse(in_dir("a.jsonl"), "bpe", 0, SLC_EXIT_UNSUPPORTED, "bpe");
}

Test(corpus, busy_build)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(mkdir(in_dir("c.h5.partial"), 0777), 0);
    int fd = open(in_dir("c.h5.partial"), O_RDONLY);
    cr_assert_eq(flock(fd, LOCK_EX), 0);
    cr_expect_eq(build_one(put_text("a.txt", "a"), "bytes", 0, 0, &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_BUSY);
    close(fd);
}

/* -- interruption --------------------------------------------------------------- */

static const char *inputs[3];

/* About 2.5 MB of text, so several pieces, and lines around it. */
static void put_inputs(void)
{
    char *text = malloc(2500000), *at = text;
    struct slc_err e = SLC_ERR_INIT;
    static char paths[3][128];

    for (int i = 0; i < 2500000; i++)
        text[i] = (char)(i * 2654435761u >> 13);
    for (int i = 0; i < 3; i++)
        snprintf(paths[i], sizeof(paths[i]), "%s/%d.%s", dir, i, i == 1 ? "txt" : "jsonl");
    cr_assert_eq(slc_file_replace(paths[1], text, 2500000, &e), 0);
    for (int i = 0; i < 600; i++)
        at += sprintf(at, "{\"text\": \"document %d with some words in it\"}\n", i);
    cr_assert_eq(slc_file_replace(paths[0], text, (size_t)(at - text), &e), 0);
    at = text;
    for (int i = 0; i < 600; i++)
        at += sprintf(at, "{\"ids\": [%d, 1, 2, 3], \"mask\": [0, 0, 1, %d]}\n", i % 256,
                      i % 2);
    cr_assert_eq(slc_file_replace(paths[2], text, (size_t)(at - text), &e), 0);
    for (int i = 0; i < 3; i++)
        inputs[i] = paths[i];
    free(text);
}

static int build_all(const char *out, struct slc_err *e)
{
    struct slc_corpus_build_options o = {.out = out, .tokenizer = "bytes", .inputs = inputs,
                                         .n_inputs = 3, .validation = 0.01,
                                         .commit_bytes = 8192};

    return slc_corpus_build(&o, e);
}

/* A build in a process of its own, killed before step n or after so many microseconds;
 * true when it finished. */
static bool build_killed(const char *out, int n, unsigned us)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct slc_err e = SLC_ERR_INIT;
        kill_at = n;
        steps = 0;
        int rc = build_all(out, &e);
        if (rc < 0)
            fprintf(stderr, "%s\n", e.text);
        _exit(rc < 0 ? 1 : 0);
    }
    if (us) {
        usleep(us);
        kill(pid, SIGKILL);
    }
    waitpid(pid, &status, 0);
    cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "the build failed");
    return WIFEXITED(status);
}

static void expect_same_file(const char *a, const char *b)
{
    struct slc_err e = SLC_ERR_INIT;
    char *da, *db;
    size_t na, nb;

    cr_assert_eq(slc_file_read(a, 1u << 30, &da, &na, &e), 0, "%s", e.text);
    cr_assert_eq(slc_file_read(b, 1u << 30, &db, &nb, &e), 0, "%s", e.text);
    cr_expect_eq(na, nb);
    cr_expect(na == nb && memcmp(da, db, na) == 0, "%s and %s differ", a, b);
    free(da);
    free(db);
}

static void expect_whole(const char *name)
{
    char path[160];

    expect_same_file(in_dir("whole.h5"), in_dir(name));
    snprintf(path, sizeof(path), "%s/%s.partial", dir, name);
    cr_expect_eq(access(path, F_OK), -1, "%s is left", path);
}

/* Killed once before each step there is, then run again: the same bytes. */
Test(corpus, killed_at_every_step, .timeout = 120)
{
    struct slc_err e = SLC_ERR_INIT;

    put_inputs();
    steps = 0;
    cr_assert_eq(build_all(in_dir("whole.h5"), &e), 0, "%s", e.text);
    int all = steps;
    cr_assert_gt(all, 40);
    for (int n = 1; n <= all; n++) {
        char out[128];
        snprintf(out, sizeof(out), "%s/k.h5", dir);
        cr_expect_not(build_killed(out, n, 0), "step %d of %d", n, all);
        cr_assert(build_killed(out, 0, 0));
        expect_whole("k.h5");
        unlink(out);
    }
}

/* Killed again and again, by count and by time, until it gets through. */
Test(corpus, killed_many_times, .timeout = 120)
{
    struct slc_err e = SLC_ERR_INIT;
    char out[128];
    int tries = 1;

    put_inputs();
    snprintf(out, sizeof(out), "%s/many.h5", dir);
    cr_assert_eq(build_all(in_dir("whole.h5"), &e), 0, "%s", e.text);
    while (tries < 200 && !build_killed(out, 6 + tries * 7 % 13, 0))
        tries++;
    cr_expect_lt(tries, 200);
    cr_expect_gt(tries, 3);
    expect_whole("many.h5");
    for (unsigned us = 500; us < 60000 && !build_killed(out, 0, us); us += us / 3)
        ;
    cr_assert(build_killed(out, 0, 0));
    expect_whole("many.h5");
}

/* Work on other inputs, or older versions of them, is not taken over. */
Test(corpus, changed_input_starts_over)
{
    struct slc_err e = SLC_ERR_INIT;
    char out[128];

    put_inputs();
    snprintf(out, sizeof(out), "%s/k.h5", dir);
    cr_expect_not(build_killed(out, 30, 0));
    put_text("0.jsonl", "{\"text\": \"other\"}\n");
    cr_expect_not(build_killed(out, 12, 0));
    put_inputs();
    cr_assert(build_killed(out, 0, 0));
    cr_assert_eq(build_all(in_dir("whole.h5"), &e), 0, "%s", e.text);
    expect_whole("k.h5");
}

/* -- damaged and crafted files -------------------------------------------------- */

static void put_attr(hid_t f, const char *name, hid_t type, const void *v)
{
    hid_t s = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(f, name, type, s, H5P_DEFAULT, H5P_DEFAULT);

    H5Awrite(a, type, v);
    H5Aclose(a);
    H5Sclose(s);
}

static void put_list(hid_t f, const char *name, hid_t type, int n, const int64_t *v,
                     hid_t how)
{
    hsize_t dim = (hsize_t)n;
    hid_t s = H5Screate_simple(1, &dim, NULL);
    hid_t d = H5Dcreate2(f, name, type, s, H5P_DEFAULT, how, H5P_DEFAULT);

    H5Dwrite(d, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, v);
    H5Dclose(d);
    H5Sclose(s);
}

/* What is wrong with a crafted file; zero is a good one. */
struct craft {
    int64_t vocab, version;
    const char *format;
    hid_t ids_type;
    int chunked, external, soft, group, no_starts, bad_starts, short_mask, bad_id;
};

static const char *craft(struct craft k)
{
    const char *path = in_dir("crafted.h5");
    int64_t ids[6] = {1, 2, 3, 4, 5, k.bad_id ? 200 : 6}, starts[3] = {0, 2, 6};
    hsize_t chunk = 2;
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t text = H5Tcopy(H5T_C_S1), how = H5Pcreate(H5P_DATASET_CREATE);

    H5Tset_size(text, 32);
    if (k.vocab == 0)
        k.vocab = 100;
    if (k.version == 0)
        k.version = 1;
    char format[32] = "sluice-corpus", tokenizer[32] = "bytes";
    if (k.format)
        snprintf(format, sizeof(format), "%s", k.format);
    put_attr(f, "format", text, format);
    put_attr(f, "tokenizer", text, tokenizer);
    put_attr(f, "vocab", H5T_NATIVE_INT64, &k.vocab);
    put_attr(f, "version", H5T_NATIVE_INT64, &k.version);
    put_attr(f, "digest", H5T_NATIVE_INT64, &k.vocab);
    if (k.chunked)
        H5Pset_chunk(how, 1, &chunk);
    if (k.external)
        H5Pset_external(how, "/etc/passwd", 0, H5F_UNLIMITED);
    const char *name = k.soft || k.group ? "other" : "ids";
    put_list(f, name, k.ids_type ? k.ids_type : H5T_STD_U8LE, 6, ids, how);
    if (k.soft)
        H5Lcreate_soft("/other", f, "ids", H5P_DEFAULT, H5P_DEFAULT);
    if (k.group)
        H5Gclose(H5Gcreate2(f, "ids", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    if (k.bad_starts == 1)
        starts[1] = 6;
    if (k.bad_starts == 2)
        starts[2] = 5;
    if (k.bad_starts == 3)
        starts[0] = 1;
    if (!k.no_starts)
        put_list(f, "doc_start", H5T_STD_I64LE, 3, starts, H5P_DEFAULT);
    if (k.short_mask)
        put_list(f, "mask", H5T_STD_U8LE, 5, ids, H5P_DEFAULT);
    H5Pclose(how);
    H5Tclose(text);
    H5Fclose(f);
    return path;
}

static void refuse_file(const char *path, const char *want)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_corpus *c = slc_corpus_open(path, SLC_CORPUS_TRAIN, &e);

    cr_expect_null(c, "opened: %s", want);
    cr_expect_eq(e.code, SLC_EXIT_INPUT);
    cr_expect(strstr(e.text, want), "no '%s' in: %s", want, e.text);
    slc_corpus_close(c);
}

Test(corpus, crafted_files)
{
    struct slc_err e = SLC_ERR_INIT;
    int32_t ids[6];

    struct slc_corpus *c = slc_corpus_open(craft((struct craft){0}), SLC_CORPUS_TRAIN, &e);
    cr_assert_not_null(c, "%s", e.text);
    cr_expect_eq(slc_corpus_read(c, 0, 6, ids, NULL, &e), 0);
    slc_corpus_close(c);
    refuse_file(craft((struct craft){.format = "other"}), "format other version 1");
    refuse_file(craft((struct craft){.version = 2}), "version 2");
    refuse_file(craft((struct craft){.vocab = -1}), "vocabulary of -1");
    refuse_file(craft((struct craft){.vocab = 1000}), "expected type");
    refuse_file(craft((struct craft){.ids_type = H5T_STD_U16LE}), "expected type");
    refuse_file(craft((struct craft){.ids_type = H5T_STD_I8LE}), "expected type");
    refuse_file(craft((struct craft){.chunked = 1}), "plain list");
    refuse_file(craft((struct craft){.external = 1}), "plain list");
    refuse_file(craft((struct craft){.soft = 1}), "ids is missing");
    refuse_file(craft((struct craft){.group = 1}), "not a dataset");
    refuse_file(craft((struct craft){.no_starts = 1}), "doc_start is missing");
    for (int i = 1; i <= 3; i++)
        refuse_file(craft((struct craft){.bad_starts = i}), "does not ascend");
    refuse_file(craft((struct craft){.short_mask = 1}), "do not fit together");
    c = slc_corpus_open(craft((struct craft){.bad_id = 1}), SLC_CORPUS_TRAIN, &e);
    cr_assert_not_null(c);
    cr_expect_eq(slc_corpus_read(c, 0, 5, ids, NULL, &e), 0);
    cr_expect_eq(slc_corpus_read(c, 2, 4, ids, NULL, &e), -1);
    cr_expect(strstr(e.text, "token 5 is id 200"), "%s", e.text);
    slc_corpus_close(c);
}

/* A cut file is an error, never a crash, whatever the length. */
Test(corpus, truncated_file)
{
    struct slc_err e = SLC_ERR_INIT;
    struct stat st;

    put_inputs();
    cr_assert_eq(build_one(inputs[0], "bytes", 0, 0.1, &e), 0, "%s", e.text);
    stat(in_dir("c.h5"), &st);
    for (off_t n = st.st_size - 1; n >= 0; n -= 997) {
        cr_assert_eq(truncate(in_dir("c.h5"), n), 0);
        struct slc_corpus *c = slc_corpus_open(in_dir("c.h5"), SLC_CORPUS_TRAIN, &e);
        cr_expect_null(c, "%ld bytes", (long)n);
        slc_corpus_close(c);
    }
    refuse_file(put_text("text.h5", "no HDF5 at all"), "not a readable HDF5 file");
    refuse_file(in_dir("missing.h5"), "cannot open");
    refuse_file(dir, "not a regular file");
}
