/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_TESTS_CORPUS_FIXTURE_H
#define SLC_TESTS_CORPUS_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/corpus.h"

/* A folder of its own for each test, and corpora built in it. */
static char dir[64];

static void dir_setup(void)
{
    snprintf(dir, sizeof(dir), "/tmp/slc-corpus-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static void remove_dir(const char *path)
{
    DIR *d = opendir(path);

    for (struct dirent *f; d && (f = readdir(d));) {
        char one[512];
        snprintf(one, sizeof(one), "%s/%s", path, f->d_name);
        if (f->d_name[0] != '.' && unlink(one) < 0)
            remove_dir(one);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void dir_teardown(void)
{
    remove_dir(dir);
}

/* "DIR/name"; a few of them are valid at a time. */
static inline const char *in_dir(const char *name)
{
    static char text[8][256];
    static int at;

    at = (at + 1) % 8;
    snprintf(text[at], sizeof(text[at]), "%s/%s", dir, name);
    return text[at];
}

static inline const char *put_file(const char *name, const char *data, size_t len)
{
    const char *path = in_dir(name);
    struct slc_err e = SLC_ERR_INIT;

    cr_assert_eq(slc_file_replace(path, data, len, &e), 0, "%s", e.text);
    return path;
}

static inline const char *put_text(const char *name, const char *text)
{
    return put_file(name, text, strlen(text));
}

/* Build DIR/c.h5 from one input. */
static inline int build_one(const char *input, const char *tokenizer, int64_t vocab,
                            double validation, struct slc_err *e)
{
    char out[128];

    snprintf(out, sizeof(out), "%s/c.h5", dir);
    return slc_corpus_build(&(struct slc_corpus_build_options){.out = out,
                                                               .tokenizer = tokenizer,
                                                               .inputs = &input,
                                                               .n_inputs = 1,
                                                               .vocab = vocab,
                                                               .validation = validation},
                            e);
}

static inline struct slc_corpus *open_part(const char *name, enum slc_corpus_part part)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_corpus *c = slc_corpus_open(in_dir(name), part, &e);

    cr_assert_not_null(c, "%s", e.text);
    return c;
}

#endif
