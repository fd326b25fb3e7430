/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cmd/cmd.h"
#include "data/tokenizer.h"
#include "train/predict.h"

static const char usage[] =
    "sluice generate --model DIR --prompt TEXT [--tokens N] [--temperature T] [--seed S]";

/* The id whose share of the tempered distribution holds u in [0, 1); T = 0: the largest. */
static int32_t choose(const float *logits, int64_t V, double temperature, double u)
{
    int64_t best = 0;
    double sum = 0, at = 0;

    for (int64_t i = 1; i < V; i++)
        if (logits[i] > logits[best])
            best = i;
    if (temperature == 0)
        return (int32_t)best;
    for (int64_t i = 0; i < V; i++)
        sum += exp((logits[i] - logits[best]) / temperature);
    for (int64_t i = 0; i < V; i++) {
        at += exp((logits[i] - logits[best]) / temperature) / sum;
        if (u < at)
            return (int32_t)i;
    }
    return (int32_t)best;
}

struct request {
    const char *prompt;
    long long tokens, seed;
    double temperature;
};

static int generate(struct slc_predict *p, const struct slc_tokenizer *t,
                    const struct request *r, int32_t *ids, int64_t n, struct slc_err *e)
{
    const struct slc_spec *s = slc_predict_spec(p);
    float *logits = malloc((size_t)s->V * sizeof(*logits));
    char text[64];

    if (!logits)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld logits", (long long)s->V);
    fputs(r->prompt, stdout);
    for (int64_t i = 0; i < r->tokens; i++, n++) {
        if (slc_predict_next(p, ids, n, logits, e) < 0) {
            free(logits);
            return -1;
        }
        double u = slc_rng_uniform((uint64_t)r->seed, SLC_RNG_GENERATE, 0, (uint64_t)i);
        ids[n] = choose(logits, s->V, r->temperature, u);
        int64_t bytes = slc_tokenizer_decode(t, &ids[n], 1, text, sizeof(text));
        fwrite(text, 1, (size_t)(bytes < (int64_t)sizeof(text) ? bytes : 0), stdout);
        fflush(stdout);
    }
    putchar('\n');
    free(logits);
    return 0;
}

static int run(const char *model, const char *device, const struct request *r,
               struct slc_err *e)
{
    struct slc_tokenizer *t = slc_tokenizer_open("bytes", e);
    struct slc_predict *p = NULL;
    int32_t *ids = NULL;
    int rc = -1;

    if (!t)
        return -1;
    int64_t n = slc_tokenizer_encode(t, r->prompt, strlen(r->prompt), NULL, 0);
    if (n < 1) {
        slc_errf(e, SLC_EXIT_CONFIG, "--prompt is empty");
        goto out;
    }
    ids = malloc((size_t)(n + r->tokens) * sizeof(*ids));
    if (!ids) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld tokens", (long long)n + r->tokens);
        goto out;
    }
    slc_tokenizer_encode(t, r->prompt, strlen(r->prompt), ids, n);
    p = slc_predict_open(model, device, 0, n + r->tokens, e);
    if (!p)
        goto out;
    if (slc_predict_spec(p)->V < slc_tokenizer_vocab(t)) {
        slc_errf(e, SLC_EXIT_INPUT,
                 "the model's vocabulary of %lld is smaller than the 256 bytes of text",
                 (long long)slc_predict_spec(p)->V);
        goto out;
    }
    rc = generate(p, t, r, ids, n, e);
out:
    slc_predict_close(p);
    free(ids);
    slc_tokenizer_close(t);
    return rc;
}

int slc_cmd_generate(int argc, char **argv)
{
    const char *model = NULL, *prompt = NULL, *device = "cpu";
    const char *tokens = "200", *temperature = "0.8", *seed = "0";
    struct slc_err e = SLC_ERR_INIT;
    struct request r;
    int n;
    const struct slc_flag flags[] = {
        {"--model", "DIR", "Hugging Face folder, checkpoint or run folder", &model, NULL},
        {"--prompt", "TEXT", "text to continue", &prompt, NULL},
        {"--tokens", "N", "tokens to add (200)", &tokens, NULL},
        {"--temperature", "T", "0: always the likeliest token (0.8)", &temperature, NULL},
        {"--seed", "S", "of the random choice (0)", &seed, NULL},
        {"--device", "NAME", "cpu (default), ref or cuda", &device, NULL},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 6, &n, &e);
    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && (!model || !prompt || n > 0))
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "give --model and --prompt; usage: %s", usage);
    r.prompt = prompt;
    if (rc == 0 &&
        (slc_flag_int("--tokens", tokens, 1, 1 << 20, &r.tokens, &e) < 0 ||
         slc_flag_int("--seed", seed, 0, INT64_MAX, &r.seed, &e) < 0 ||
         slc_flag_real("--temperature", temperature, 0, 100, &r.temperature, &e) < 0))
        rc = -1;
    if (rc == 0)
        rc = run(model, device, &r, &e);
    return rc < 0 ? slc_cmd_fail("generate", &e) : SLC_EXIT_OK;
}
