/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"

#define NEEDED "model: {config: m}\ndata: {corpus: c}\nrun: {dir: d}\n"

static char path[64];

static void write_file(const char *text, size_t len)
{
    snprintf(path, sizeof(path), "/tmp/slc-options-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, len), (ssize_t)len);
    close(fd);
}

static int load(struct slc_options *o, const char *text, struct slc_err *e)
{
    write_file(text, strlen(text));
    int rc = slc_options_load(o, path, NULL, 0, e);
    unlink(path);
    return rc;
}

/* The text is refused with a config error at line:column that holds `want`. */
static void refuse(const char *text, const char *at, const char *want)
{
    struct slc_options o;
    struct slc_err e = SLC_ERR_INIT;
    char place[128];

    cr_expect_eq(load(&o, text, &e), -1, "accepted: %s", text);
    cr_expect_eq(e.code, SLC_EXIT_CONFIG, "code %d for %s", e.code, e.text);
    snprintf(place, sizeof(place), "%s:%s: ", path, at);
    cr_expect(!*at || strncmp(e.text, place, strlen(place)) == 0, "not at %s: %s", at,
              e.text);
    cr_expect(strstr(e.text, want), "no '%s' in: %s", want, e.text);
}

Test(options, defaults_and_file)
{
    struct slc_options o;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(load(&o,
                      NEEDED "# a comment\ntrain:\n  steps: 100\n  recompute: true\n"
                             "optim:\n  lr: 1e-3\n  clip: 2\nparallel:\n",
                      &e),
                 0, "%s", e.text);
    cr_expect_str_eq(o.model.config, "m");
    cr_expect_str_eq(o.model.weights, "");
    cr_expect_eq(o.data.sequence, 512);
    cr_expect(o.data.shuffle);
    cr_expect_str_eq(o.run.device, "cpu");
    cr_expect_str_eq(o.run.dtype, "fp32");
    cr_expect_eq(o.train.steps, 100);
    cr_expect(o.train.recompute);
    cr_expect_eq(o.parallel.ep, 1);
    cr_expect_eq(o.moe.aux_coef, -1.0);
    cr_expect_eq(o.moe.window_factor, 1.25);
    cr_expect_eq(o.optim.lr, 1e-3);
    cr_expect_eq(o.optim.beta1, 0.9);
    cr_expect_eq(o.optim.beta2, 0.95);
    cr_expect_eq(o.optim.eps, 1e-8);
    cr_expect_eq(o.optim.weight_decay, 0.1);
    cr_expect_eq(o.optim.clip, 2.0);
    cr_expect_str_eq(o.optim.schedule, "cosine");
    cr_expect_eq(o.optim.warmup, 0);
    cr_expect_eq(o.checkpoint.keep, 2);
    slc_options_release(&o);
}

Test(options, overrides_win)
{
    char *over[] = {"train.steps=7", "optim.lr=0.5",        "run.dir=a=b c",
                    "model.config=m", "data.corpus=c",       "optim.lr=0.25",
                    "data.shuffle=false", "optim.schedule=wsd", "model.weights="};
    struct slc_options o;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_options_load(&o, NULL, over, 9, &e), 0, "%s", e.text);
    cr_expect_eq(o.train.steps, 7);
    cr_expect_eq(o.optim.lr, 0.25);
    cr_expect_str_eq(o.run.dir, "a=b c");
    cr_expect_not(o.data.shuffle);
    cr_expect_str_eq(o.optim.schedule, "wsd");
    slc_options_release(&o);
    slc_options_release(&o); /* harmless on a released one */
}

Test(options, bad_overrides)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"train.step=7", "did you mean train.steps?"},
        {"trian.steps=7", "did you mean train.steps?"},
        {"train.lr=7", "did you mean optim.lr?"},
        {"train.steps", "section.key=value"},
        {"steps=7", "section.key=value"},
        {"train.steps=7.5", "must be an integer, not 7.5"},
        {"train.steps=", "must be an integer"},
        {"train.steps= 7", "must be an integer"},
        {"train.steps=99999999999999999999", "must be from 0 to"},
        {"train.steps=-1", "must be from 0 to"},
        {"optim.lr=nan", "must be a number"},
        {"optim.lr=0x1p3", "must be a number"},
        {"optim.lr=1e400", "must be from 0 to"},
        {"optim.lr=1e", "must be a number"},
        {"optim.beta1=1", "must be from 0 to 0.999999999"},
        {"data.shuffle=yes", "must be true or false, not yes"},
        {"run.device=gpu", "must be one of cpu|cuda|ref|strict"},
        {"run.device=", "must be one of"},
        {"run.device=cp", "must be one of"},
        {"run.dir=\xff", "UTF-8"},
        {"run.dir=\xed\xa0\x80", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *over[] = {(char *)cases[i].text};
        struct slc_options o;
        struct slc_err e = SLC_ERR_INIT;
        cr_expect_eq(slc_options_load(&o, NULL, over, 1, &e), -1, "%s", cases[i].text);
        cr_expect_eq(e.code, SLC_EXIT_CONFIG);
        cr_expect(strstr(e.text, cases[i].want), "%s: %s", cases[i].text, e.text);
    }
}

Test(options, bad_files)
{
    refuse("train:\n  stesp: 5\n", "2:3", "unknown key train.stesp; did you mean train.steps?");
    refuse("trian:\n  steps: 5\n", "1:1", "unknown section trian; did you mean train?");
    refuse("lr: 5\n", "1:1", "did you mean optim.lr?");
    refuse("zzzzzz:\n", "1:1", "known sections: model data run");
    refuse("optim:\n  zzzzzz: 1\n", "2:3", "known keys: lr min_lr_ratio");
    refuse("train:\n  steps: many\n", "2:10", "train.steps must be an integer, not many");
    refuse("train:\n  steps: \"5\"\n", "2:10", "must be an integer, not \"5\"");
    refuse("train:\n  steps: [5]\n", "2:10", "not a list");
    refuse("train:\n  steps: {a: 5}\n", "2:10", "not a mapping");
    refuse("train:\n  steps:\n", "2:9", "train.steps has no value");
    refuse("train:\n  steps: 5\n  steps: 6\n", "3:3", "train.steps is given twice");
    refuse("train:\n  steps: 5\ntrain:\n  log_every: 6\n", "3:1", "section train is given twice");
    refuse("data:\n  sequence: 1\n", "2:13", "must be from 2 to");
    refuse("data:\n  shuffle: True\n", "2:12", "must be true or false, not True");
    refuse("train: 5\n", "1:8", "section train must hold");
    refuse("- a\n", "1:1", "a run file holds sections");
    refuse("hello\n", "1:1", "a run file holds sections");
    refuse("train: &a\n  steps: 5\n", "1:8", "anchors");
    refuse("run:\n  dir: !!str d\n", "2:8", "tags");
    refuse("run:\n  dir: *a\n", "2:8", "not supported: aliases");
    refuse("run:\n  dir: \"a\\0b\"\n", "2:8", "zero byte");
    refuse("? [a]\n: b\n", "1:3", "a key must be a plain word");
    refuse("run:\n  dir: d\n---\nrun:\n  dir: d\n", "3:1", "one document");
    refuse("run:\n  dir: 'd\n", "3:1", "not valid YAML");
    refuse("run:\n\tdir: d\n", "2:1", "not valid YAML");
    refuse("run:\n  dir: \xff\n", "", "byte 12");
    refuse("model: {config: m}\n", "", "data.corpus must be given");
    refuse("", "", "model.config must be given");
    refuse("---\n", "", "model.config must be given");
}

Test(options, missing_file)
{
    struct slc_options o;
    struct slc_err e = SLC_ERR_INIT;

    cr_expect_eq(slc_options_load(&o, "/nowhere/run.yaml", NULL, 0, &e), -1);
    cr_expect_eq(e.code, SLC_EXIT_CONFIG);
    cr_expect(strstr(e.text, "/nowhere/run.yaml"), "%s", e.text);
}

Test(options, empty_file_and_overrides)
{
    char *over[] = {"model.config=m", "data.corpus=c", "run.dir=d", "train.steps=1"};
    struct slc_options o;
    struct slc_err e = SLC_ERR_INIT;

    write_file("# nothing\n", 10);
    cr_assert_eq(slc_options_load(&o, path, over, 4, &e), 0, "%s", e.text);
    unlink(path);
    slc_options_release(&o);
}

/* Any value of each type survives being written and read, whatever its characters. */
Test(options, text_round_trip)
{
    char *over[] = {"model.config=a \"b\" \\c: #d\t\n\x01\x7f",
                    "data.corpus=\xc3\xa9\xc2\x85\xe2\x80\xa8\xf0\x9f\x98\x80\xef\xbb\xbf",
                    "run.dir=null", "train.steps=1000000000000", "optim.lr=0.1234567890123456789",
                    "optim.eps=1e-30", "moe.aux_coef=-0.001", "model.seed=9007199254740991",
                    "data.shuffle=false"};
    struct slc_options a, b;
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_options_load(&a, NULL, over, 9, &e), 0, "%s", e.text);
    char *text = slc_options_text(&a);
    cr_assert_not_null(text);
    cr_assert_eq(load(&b, text, &e), 0, "%s in\n%s", e.text, text);
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        const char *pa = (char *)&a + opt->offset, *pb = (char *)&b + opt->offset;
        if (opt->type == SLC_OPT_STR)
            cr_expect_str_eq(*(char **)pa, *(char **)pb, "%s.%s", opt->section, opt->key);
        else
            cr_expect_eq(memcmp(pa, pb, opt->type == SLC_OPT_BOOL ? sizeof(bool) : 8), 0,
                         "%s.%s", opt->section, opt->key);
    }
    char *again = slc_options_text(&b);
    cr_expect_str_eq(text, again);
    free(text);
    free(again);
    slc_options_release(&a);
    slc_options_release(&b);
}

/* The table is whole: sections are together, names unique, documented, in range. */
Test(options, table)
{
    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *a = &slc_option_table[i];
        cr_expect_gt(strlen(a->doc), 10u, "%s.%s", a->section, a->key);
        cr_expect_eq(a->doc[strlen(a->doc) - 1], '.', "%s.%s", a->section, a->key);
        cr_expect(a->choices == NULL || a->type == SLC_OPT_STR);
        if (a->type == SLC_OPT_INT || a->type == SLC_OPT_REAL)
            cr_expect_lt(a->min, a->max, "%s.%s", a->section, a->key);
        for (int j = i + 1; j < slc_option_count; j++) {
            const struct slc_option *b = &slc_option_table[j];
            bool same = !strcmp(a->section, b->section);
            cr_expect_not(same && !strcmp(a->key, b->key), "%s.%s twice", a->section, a->key);
            cr_expect_neq(a->offset, b->offset, "%s.%s and %s.%s", a->section, a->key,
                          b->section, b->key);
            cr_expect_not(same && strcmp(a->section, slc_option_table[j - 1].section),
                          "section %s is split", a->section);
        }
    }
}

/* Every member of struct slc_options has an entry: what the entries cover is the whole. */
Test(options, table_covers_struct)
{
    unsigned char bytes[sizeof(struct slc_options)] = {0};

    for (int i = 0; i < slc_option_count; i++) {
        const struct slc_option *opt = &slc_option_table[i];
        memset(bytes + opt->offset, 1, opt->type == SLC_OPT_BOOL ? sizeof(bool) : 8);
    }
    for (size_t i = 0; i + 8 <= sizeof(bytes); i += 8) {
        int covered = 0;
        for (int j = 0; j < 8; j++)
            covered += bytes[i + j];
        cr_expect_gt(covered, 0, "bytes %zu to %zu have no option", i, i + 7);
    }
}

Test(options, man_and_help_name_every_option)
{
    for (int kind = 0; kind < 2; kind++) {
        char *text = NULL, want[128];
        size_t len;
        FILE *out = open_memstream(&text, &len);
        if (kind == 0)
            slc_options_man(out);
        else
            slc_options_help(out);
        fclose(out);
        for (int i = 0; i < slc_option_count; i++) {
            const struct slc_option *opt = &slc_option_table[i];
            if (kind == 0)
                snprintf(want, sizeof(want), "\n.B %s.%s\n", opt->section, opt->key);
            else
                snprintf(want, sizeof(want), "\n  %s=%s", opt->key,
                         opt->def ? opt->def : "...");
            cr_expect(strstr(text, want), "no '%s'", want);
        }
        free(text);
    }
}

Test(options, nearest)
{
    static const char *const known[] = {"train", "data", "checkpoint", "ckpt", "doctor"};

    cr_expect_str_eq(slc_nearest("trian", known, 5), "train");
    cr_expect_str_eq(slc_nearest("train", known, 5), "train");
    cr_expect_str_eq(slc_nearest("dta", known, 5), "data");
    cr_expect_str_eq(slc_nearest("checkpiont", known, 5), "checkpoint");
    cr_expect_str_eq(slc_nearest("docter", known, 5), "doctor");
    cr_expect_null(slc_nearest("export", known, 5));
    cr_expect_null(slc_nearest("", known, 5));
    char longest[300];
    memset(longest, 'a', sizeof(longest));
    longest[299] = '\0';
    cr_expect_null(slc_nearest(longest, known, 5));
}
