/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/corpus_private.h"

static int check_options(struct slc_build *b, struct slc_err *e)
{
    const struct slc_corpus_build_options *o = b->o;
    int64_t own = b->tokenizer ? slc_tokenizer_vocab(b->tokenizer) : 0;

    if (o->n_inputs < 1)
        return slc_errf(e, SLC_EXIT_CONFIG, "no input; name .txt or .jsonl files");
    for (int i = 0; i < o->n_inputs; i++) {
        const char *dot = strrchr(o->inputs[i], '.');
        if (!dot || (strcmp(dot, ".txt") && strcmp(dot, ".jsonl")))
            return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                            "not supported: input %s; .txt (one document) and .jsonl (one "
                            "document a line) are",
                            o->inputs[i]);
    }
    if (!(o->validation >= 0 && o->validation < 1))
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "validation share must be from 0 to below 1, not %g", o->validation);
    b->vocab = o->vocab ? o->vocab : own;
    if (b->vocab < 1 || b->vocab > INT32_MAX)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "the vocabulary size must be given (1 to %d) where no tokenizer is "
                        "named",
                        INT32_MAX);
    if (b->vocab < own)
        return slc_errf(e, SLC_EXIT_CONFIG, "tokenizer %s has %lld ids, more than %lld",
                        slc_tokenizer_name(b->tokenizer), (long long)own,
                        (long long)b->vocab);
    return 0;
}

/* What is built from what, as far as the token files depend on it; also sums the sizes. */
static json_t *describe_job(struct slc_build *b, double *megabytes, struct slc_err *e)
{
    const struct slc_corpus_build_options *o = b->o;
    json_t *inputs = json_array();

    for (int i = 0; inputs && i < o->n_inputs; i++) {
        struct stat st;
        int missing = stat(o->inputs[i], &st) < 0;
        if (missing || !S_ISREG(st.st_mode)) {
            slc_errf(e, SLC_EXIT_INPUT, "cannot read %s: %s", o->inputs[i],
                     missing ? strerror(errno) : "not a regular file");
            json_decref(inputs);
            return NULL;
        }
        *megabytes += (double)st.st_size / 1e6;
        json_t *one = json_pack("[I, I, I, I]",
                                (json_int_t)slc_hash64(o->inputs[i], strlen(o->inputs[i])),
                                (json_int_t)st.st_size, (json_int_t)st.st_mtim.tv_sec,
                                (json_int_t)st.st_mtim.tv_nsec);
        if (json_array_append_new(inputs, one) < 0) {
            json_decref(inputs);
            inputs = NULL;
        }
    }
    json_t *job =
        inputs ? json_pack("{s:i, s:s, s:I, s:o}", "version", SLC_CORPUS_VERSION,
                           "tokenizer", b->tokenizer ? slc_tokenizer_name(b->tokenizer) : "",
                           "vocab", (json_int_t)b->vocab, "inputs", inputs)
               : NULL;
    if (!job)
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory to build %s", o->out);
    return job;
}

static int64_t file_size(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
}

static int read_inputs(struct slc_build *b, double megabytes, struct slc_err *e)
{
    struct slc_partial *p = &b->partial;

    for (int i = 0; i < p->input && i < b->o->n_inputs; i++)
        b->bytes_before += file_size(b->o->inputs[i]);
    double done = (double)(b->bytes_before + p->offset) / 1e6;
    if (done > 0)
        slc_info("data", "going on at %.1f of %.1f MB (%s)", done, megabytes, p->dir);
    slc_bar_start(&b->bar, "data", "MB", megabytes, done);
    int rc = 0;
    while (rc == 0 && p->input < b->o->n_inputs) {
        rc = slc_build_input(b, e);
        if (rc < 0)
            break;
        b->bytes_before += file_size(b->o->inputs[p->input]);
        p->input++;
        p->offset = p->line = p->input_tokens = 0;
    }
    if (rc == 0)
        rc = slc_partial_commit(p, e);
    if (b->o->progress)
        slc_bar_finish(&b->bar);
    return rc;
}

int slc_corpus_build(const struct slc_corpus_build_options *o, struct slc_err *err)
{
    struct slc_err own = SLC_ERR_INIT, *e = err ? err : &own;
    struct slc_build b = {.o = o, .commit_bytes = o->commit_bytes};
    double megabytes = 0, started = slc_now();
    json_t *job = NULL;
    int rc = -1;

    if (b.commit_bytes <= 0)
        b.commit_bytes = 64 << 20;
    bool named = o->tokenizer && strcmp(o->tokenizer, "none");
    b.tokenizer = named ? slc_tokenizer_open(o->tokenizer, e) : NULL;
    if ((named && !b.tokenizer) || check_options(&b, e) < 0)
        goto err_tokenizer;
    job = describe_job(&b, &megabytes, e);
    if (!job ||
        slc_partial_open(&b.partial, o->out, job, slc_corpus_width(b.vocab), e) < 0)
        goto err_tokenizer;
    if (read_inputs(&b, megabytes, e) < 0 || slc_build_assemble(&b, e) < 0)
        goto err_partial;
    slc_info("data", "%s: %lld tokens, %lld documents, %.1f MB of input in %.1f s", o->out,
             (long long)b.partial.tokens, (long long)b.partial.documents, megabytes,
             slc_now() - started);
    if (b.empty)
        slc_warn("data", "%lld documents without text were left out", (long long)b.empty);
    rc = 0;
err_partial:
    /* A damaged input must change, and then nothing of the partial result is of use. */
    slc_partial_close(&b.partial, rc == 0 || e->code == SLC_EXIT_INPUT);
err_tokenizer:
    slc_tokenizer_close(b.tokenizer);
    json_decref(job);
    return rc;
}
