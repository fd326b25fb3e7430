/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/rng.h"
#include "store/safetensors.h"

static char dir[64];

static void make_dir(void)
{
    strcpy(dir, "/tmp/slc-st-XXXXXX");
    cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
    char cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    cr_assert_eq(system(cmd), 0);
}

TestSuite(safetensors, .init = make_dir, .fini = remove_dir);

static const char *in_dir(const char *name)
{
    static char path[256];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void put_file(const char *name, const void *data, size_t len)
{
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_file_replace(in_dir(name), data, len, &e), 0, "%s", e.text);
}

/* A file with this header text, len_field bytes announced (-1: its length), data zeros.
 */
static void put_st(const char *name, const char *header, long long len_field,
                   size_t data)
{
    size_t n = strlen(header);
    unsigned char *b = calloc(1, 8 + n + data);
    uint64_t len = len_field < 0 ? n : (uint64_t)len_field;

    for (int i = 0; i < 8; i++)
        b[i] = (unsigned char)(len >> (8 * i));
    memcpy(b + 8, header, n);
    put_file(name, b, 8 + n + data);
    free(b);
}

static void expect_refused(const char *path, const char *part1, const char *part2,
                           int code)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_st *s = slc_st_open(path, &e);

    cr_expect_null(s, "%s must be refused (%s)", path, part1);
    slc_st_close(s);
    cr_expect_eq(e.code, code, "code %d of: %s", e.code, e.text);
    cr_expect(strstr(e.text, part1) && strstr(e.text, part2), "%s: \"%s\" and \"%s\"?",
              e.text, part1, part2);
    cr_expect_null(strchr(e.text, '\n'), "one line: %s", e.text);
}

static float value(int tensor, int64_t i)
{
    return (float)slc_rng_normal(9, SLC_RNG_TEST, (uint64_t)tensor, (uint64_t)i);
}

static void write_model(int64_t shard_bytes, int n, enum slc_dtype dtype)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_st_writer *w = slc_st_create(dir, shard_bytes, &e);
    float row[7];
    char name[32];

    cr_assert(w);
    for (int t = 0; t < n; t++) {
        int64_t shape[] = {t + 1, 5};
        snprintf(name, sizeof(name), "layers.%d.w\"\xc3\xa9", t);
        cr_assert_eq(slc_st_declare(w, name, dtype, 2, shape, &e), 0, "%s", e.text);
    }
    /* Pieces that do not match the tensors, as callers may send them. */
    int64_t total = 0, at = 0;
    int t = 0, fill = 0;
    for (int i = 0; i < n; i++)
        total += 5 * (i + 1);
    for (int64_t i = 0; i < total; i++) {
        row[fill++] = value(t, at++);
        if (at == 5 * (t + 1)) {
            t++;
            at = 0;
        }
        if (fill == 7 || i == total - 1) {
            cr_assert_eq(slc_st_write_f32(w, row, fill, &e), 0, "%s", e.text);
            fill = 0;
        }
    }
    cr_assert_eq(slc_st_finish(w, &e), 0, "%s", e.text);
}

static void check_model(const char *path, int n, enum slc_dtype dtype)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_st *s = slc_st_open(path, &e);
    float out[64];
    char name[32];

    cr_assert(s, "%s", e.text);
    cr_assert_eq(slc_st_count(s), n);
    for (int t = 0; t < n; t++) {
        snprintf(name, sizeof(name), "layers.%d.w\"\xc3\xa9", t);
        int i = slc_st_find(s, name);
        cr_assert(i >= 0);
        const struct slc_st_tensor *x = slc_st_get(s, i);
        cr_assert(x->readable && x->dtype == dtype && x->ndim == 2 &&
                  x->shape[0] == t + 1 && x->shape[1] == 5 && x->count == 5 * (t + 1));
        /* the whole, then a part */
        for (int64_t start = 0; start < 5; start += 3) {
            int64_t count = x->count - start;
            cr_assert_eq(slc_st_read_f32(s, i, start, count, out, &e), 0, "%s", e.text);
            for (int64_t k = 0; k < count; k++) {
                float want = value(t, start + k);
                if (dtype == SLC_BF16)
                    want = slc_bf16_to_f32(slc_f32_to_bf16(want));
                cr_assert_eq(out[k], want, "tensor %d element %ld", t,
                             (long)(start + k));
            }
        }
    }
    cr_assert_eq(slc_st_find(s, "layers"), -1);
    slc_st_close(s);
}

Test(safetensors, one_file_round_trip)
{
    write_model(1 << 20, 9, SLC_F32);
    cr_assert_eq(access(in_dir("model.safetensors"), F_OK), 0);
    cr_assert_neq(access(in_dir("model.safetensors.index.json"), F_OK), 0);
    check_model(dir, 9, SLC_F32);
    check_model(in_dir("model.safetensors"), 9, SLC_F32);
}

Test(safetensors, bf16_round_trip)
{
    write_model(1 << 20, 9, SLC_BF16);
    check_model(dir, 9, SLC_BF16);
}

Test(safetensors, shards_with_index)
{
    struct stat st;

    write_model(300, 9, SLC_F32); /* the last tensors fill a shard each */
    cr_assert_eq(stat(in_dir("model.safetensors.index.json"), &st), 0);
    cr_assert_neq(access(in_dir("model.safetensors"), F_OK), 0);
    check_model(dir, 9, SLC_F32);
    char cmd[256];
    snprintf(cmd, sizeof(cmd), "ls %s/*.safetensors | wc -l | grep -qx 4", dir);
    cr_assert_eq(system(cmd), 0, "bytes 20+40+60+80+100, 120+140, 160, 180");
    snprintf(cmd, sizeof(cmd), "ls %s | grep -q tmp", dir);
    cr_assert_neq(system(cmd), 0, "no temporary file stays");
}

Test(safetensors, abandoned_writer_leaves_nothing)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_st_writer *w = slc_st_create(dir, 1000, &e);
    int64_t shape[] = {400};
    float x[400] = {0};
    char cmd[128];

    cr_assert_eq(slc_st_declare(w, "a", SLC_F32, 1, shape, &e), 0);
    cr_assert_eq(slc_st_declare(w, "b", SLC_F32, 1, shape, &e), 0);
    cr_assert_eq(slc_st_write_f32(w, x, 400, &e), 0);
    cr_assert_eq(slc_st_write_f32(w, x, 10, &e), 0);
    snprintf(cmd, sizeof(cmd), "ls %s | wc -l | grep -qx 2", dir);
    cr_assert_eq(system(cmd), 0, "two shards are under way");
    slc_st_abandon(w);
    cr_assert_eq(rmdir(dir), 0, "the folder is empty");
    cr_assert_eq(mkdir(dir, 0777), 0);
}

Test(safetensors, scalar_and_empty)
{
    struct slc_err e = SLC_ERR_INIT;
    float x = -1;

    put_st("model.safetensors",
           "{\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
           "\"z\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[4,4]}}   ",
           -1, 4);
    struct slc_st *s = slc_st_open(dir, &e);
    cr_assert(s, "%s", e.text);
    cr_assert_eq(slc_st_get(s, slc_st_find(s, "s"))->count, 1);
    cr_assert_eq(slc_st_get(s, slc_st_find(s, "z"))->count, 0);
    cr_assert_eq(slc_st_read_f32(s, slc_st_find(s, "s"), 0, 1, &x, &e), 0);
    cr_assert_eq(x, 0.0f);
    slc_st_close(s);
}

#define T(dtype, shape, a, b)                                                          \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #a "," #b "]}"

Test(safetensors, other_types_are_listed_but_not_read)
{
    struct slc_err e = SLC_ERR_INIT;
    float x[2];

    put_st("model.safetensors",
           "{\"h\":" T("F16", "[2]", 0, 4) ",\"i\":" T("I64", "[1]", 4, 12) "}", -1,
           12);
    struct slc_st *s = slc_st_open(dir, &e);
    cr_assert(s, "%s", e.text);
    int i = slc_st_find(s, "h");
    cr_assert_not(slc_st_get(s, i)->readable);
    cr_assert_eq(slc_st_read_f32(s, i, 0, 2, x, &e), -1);
    cr_assert_eq(e.code, SLC_EXIT_UNSUPPORTED);
    cr_assert(strstr(e.text, "tensor h") && strstr(e.text, "F16"), "%s", e.text);
    slc_st_close(s);
}

Test(safetensors, malformed_headers)
{
    static const struct {
        const char *header;
        long long len;
        size_t data;
        const char *say;
    } cases[] = {
        {"{}", 100000001, 0, "header too long"},
        {"{}", 3, 0, "header too long"},
        {"{}", (long long)0x7fffffffffffffffLL, 0, "header too long"},
        {"", 0, 0, "must start with {"},
        {"[]", -1, 0, "must start with {"},
        {" {}", -1, 0, "must start with {"},
        {"{\"a\":", -1, 0, "line 1"},
        {"{\"a\":" T("F32", "[1]", 0, 4) "}\x01", -1, 4, "line 1"},
        {"{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 0, 4) "}", -1, 4,
         "duplicate"},
        {"{\"a\":" T("F31", "[1]", 0, 4) "}", -1, 4, "tensor a: unknown dtype"},
        {"{\"a\":" T("F32", "[2]", 0, 4) "}", -1, 4, "tensor a: its shape"},
        {"{\"a\":" T("F4", "[3]", 0, 1) "}", -1, 1, "tensor a: its shape"},
        {"{\"a\":" T("F32", "[-1]", 0, 4) "}", -1, 4, "tensor a: size 0"},
        {"{\"a\":" T("F32", "[1.0]", 0, 4) "}", -1, 4, "tensor a: size 0"},
        {"{\"a\":" T("F32", "7", 0, 4) "}", -1, 4, "tensor a: shape"},
        {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", -1, 4, "tensor a: shape"},
        {"{\"a\":" T("F32", "[4294967296,4294967296]", 0, 4) "}", -1, 4, "product"},
        {"{\"a\":" T("F32", "[2305843009213693952]", 0, 4) "}", -1, 4, "product"},
        {"{\"a\":" T("F32", "[99999999999999999999]", 0, 4) "}", -1, 4,
         "too big integer"},
        {"{\"a\":" T("F32", "[1]", 4, 0) "}", -1, 4, "tensor a: data_offsets"},
        {"{\"a\":" T("F32", "[1]", -4, 0) "}", -1, 4, "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", -1, 4,
         "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", -1, 4, "tensor a: must have"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", -1,
         4, "tensor a: must have"},
        {"{\"a\":3}", -1, 4, "tensor a: must have"},
        {"{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 2, 6) "}", -1, 6,
         "tensor b: its data overlaps tensor a"},
        {"{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", -1, 4,
         "overlaps"},
        {"{\"b\":" T("F32", "[1]", 8, 12) ",\"a\":" T("F32", "[1]", 0, 4) "}", -1, 12,
         "tensor b: gap of 4 bytes"},
        {"{\"a\":" T("F32", "[1]", 4, 8) "}", -1, 8, "tensor a: gap"},
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", -1, 7, "tensor a: truncated"},
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", -1, 9, "1 bytes after the last tensor"},
        {"{\"a\\n\":" T("F32", "[1]", 0, 4) "}", -1, 4, "control characters"},
        {"{\"\":" T("F32", "[1]", 0, 4) "}", -1, 4, "empty"},
        {"{\"__metadata__\":{\"a\":1}}", -1, 0, "__metadata__"},
        {"{\"__metadata__\":[]}", -1, 0, "__metadata__"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        put_st("model.safetensors", cases[i].header, cases[i].len, cases[i].data);
        expect_refused(in_dir("model.safetensors"), cases[i].say, "model.safetensors",
                       SLC_EXIT_INPUT);
    }
    put_file("model.safetensors", "1234567", 7);
    expect_refused(dir, "too short", "model.safetensors", SLC_EXIT_INPUT);
    expect_refused(in_dir("absent"), "cannot open", "absent", SLC_EXIT_INPUT);
}

Test(safetensors, malformed_indexes)
{
    static const char one[] = "{\"a\":" T("F32", "[1]", 0, 4) "}";
    static const struct {
        const char *index, *say;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\"}}",
         "tensor b is not in s1.safetensors"},
        {"{\"weight_map\":{\"a\":\"s2.safetensors\",\"c\":\"s1.safetensors\"}}",
         "tensor a is not in s2.safetensors"},
        {"{\"weight_map\":{\"c\":\"s2.safetensors\"}}", "tensor d of"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"d\":\"s3.safetensors\"}}",
         "tensor a is also in"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "cannot open"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":7}}", "plain name"},
        {"{\"weight_map\":{}}", "missing or empty"},
        {"{}", "missing or empty"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s1.safetensors\"}}",
         "duplicate"},
    };

    put_st("s1.safetensors", one, -1, 4);
    put_st("s2.safetensors",
           "{\"c\":" T("F32", "[1]", 0, 4) ",\"d\":" T("F32", "[1]", 4, 8) "}", -1, 8);
    put_st("s3.safetensors",
           "{\"a\":" T("F32", "[1]", 0, 4) ",\"d\":" T("F32", "[1]", 4, 8) "}", -1, 8);
    expect_refused(dir, "neither model.safetensors nor", dir, SLC_EXIT_INPUT);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        put_file("model.safetensors.index.json", cases[i].index,
                 strlen(cases[i].index));
        expect_refused(dir, cases[i].say, dir, SLC_EXIT_INPUT);
    }
}

/* Any damage of a header is an error or harmless, never a crash or a read past the file
 * (run under AddressSanitizer, this is where the parser is proven). */
Test(safetensors, damaged_headers_never_crash)
{
    struct slc_err e = SLC_ERR_INIT;
    char *good, *bad;
    size_t len;
    int refused = 0;

    write_model(1 << 20, 4, SLC_F32);
    cr_assert_eq(slc_file_read(in_dir("model.safetensors"), 1 << 20, &good, &len, &e),
                 0);
    bad = malloc(len);
    for (uint64_t i = 0; i < 600; i++) {
        memcpy(bad, good, len);
        int flips = 1 + (int)(slc_rng_u64(3, SLC_RNG_TEST, 0, i) % 3);
        for (int k = 0; k < flips; k++) {
            uint64_t r = slc_rng_u64(3, SLC_RNG_TEST, 1 + (uint64_t)k, i);
            bad[(r >> 8) % 340] ^= (char)(1u << (r & 7));
        }
        FILE *f = fopen(in_dir("x.safetensors"), "wb");
        cr_assert(f && fwrite(bad, 1, len, f) == len);
        fclose(f);
        struct slc_st *s = slc_st_open(in_dir("x.safetensors"), &e);
        refused += !s;
        float x;
        for (int t = 0; s && t < slc_st_count(s); t++)
            if (slc_st_get(s, t)->readable && slc_st_get(s, t)->count > 0)
                slc_st_read_f32(s, t, slc_st_get(s, t)->count - 1, 1, &x, &e);
        slc_st_close(s);
    }
    cr_assert(refused > 300, "%d of 600 refused", refused);
    free(bad);
    free(good);
}

/* Files made by Transformers itself. */
Test(safetensors, published_folders_open)
{
    const char *top = getenv("top_srcdir");
    char path[512];
    struct slc_err e = SLC_ERR_INIT;
    static const char *const names[] = {"mixtral-e3k1", "mixtral-e10k8-window"};

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/tests/data/golden/%s", top ? top : "..",
                 names[i]);
        struct slc_st *s = slc_st_open(path, &e);
        cr_assert(s, "%s", e.text);
        int t = slc_st_find(s, "model.embed_tokens.weight");
        cr_assert(t >= 0 && slc_st_get(s, t)->ndim == 2);
        float x = NAN;
        cr_assert_eq(slc_st_read_f32(s, t, 0, 1, &x, &e), 0, "%s", e.text);
        cr_assert(isfinite(x));
        slc_st_close(s);
    }
}
