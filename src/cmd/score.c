/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmd/cmd.h"
#include "data/tokenizer.h"
#include "train/predict.h"

static const char usage[] =
    "sluice score --model DIR (--ids FILE | --text FILE) [--json]";

#define TEXT_MAX ((size_t)1 << 30)

/* The sequences to score: ids of all of them one after another. */
struct sequences {
    int32_t *ids;
    int64_t *length;
    int64_t n, total, longest;
};

static int append(struct sequences *s, const int32_t *ids, int64_t n, struct slc_err *e)
{
    int32_t *all = realloc(s->ids, (size_t)(s->total + n) * sizeof(*all));
    if (all)
        s->ids = all;
    int64_t *length = realloc(s->length, (size_t)(s->n + 1) * sizeof(*length));
    if (length)
        s->length = length;
    if (!all || !length)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld tokens",
                        (long long)(s->total + n));
    memcpy(s->ids + s->total, ids, (size_t)n * sizeof(*ids));
    s->length[s->n++] = n;
    s->total += n;
    s->longest = n > s->longest ? n : s->longest;
    return 0;
}

static int append_line(struct sequences *s, const char *line, size_t len, const char *where,
                       struct slc_err *e)
{
    json_t *o = slc_json_parse(line, len, where, e);
    json_t *ids = o ? json_object_get(o, "ids") : NULL;
    int32_t *v = NULL;
    int rc = -1;

    if (!o)
        return -1;
    size_t n = json_array_size(ids);
    if (n < 2) {
        slc_errf(e, SLC_EXIT_INPUT, "%s: \"ids\" must be a list of at least two token ids",
                 where);
        goto out;
    }
    v = malloc(n * sizeof(*v));
    if (!v) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %zu ids", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(ids, i);
        if (!json_is_integer(x) || json_integer_value(x) < 0 ||
            json_integer_value(x) > INT32_MAX) {
            slc_errf(e, SLC_EXIT_INPUT, "%s: \"ids\"[%zu] is not a token id", where, i);
            goto out;
        }
        v[i] = (int32_t)json_integer_value(x);
    }
    rc = append(s, v, (int64_t)n, e);
out:
    free(v);
    json_decref(o);
    return rc;
}

static int read_ids(struct sequences *s, const char *path, struct slc_err *e)
{
    char *text, where[4200];
    size_t len;
    int rc = 0;

    if (slc_file_read(path, TEXT_MAX, &text, &len, e) < 0)
        return -1;
    int line = 0;
    for (char *p = text, *end; rc == 0 && p < text + len; p = end) {
        char *nl = memchr(p, '\n', (size_t)(text + len - p));
        size_t n = nl ? (size_t)(nl - p) : (size_t)(text + len - p);

        end = p + n + 1;
        line++;
        snprintf(where, sizeof(where), "%s line %d", path, line);
        if (n > 0)
            rc = append_line(s, p, n, where, e);
    }
    free(text);
    if (rc == 0 && s->n == 0)
        rc = slc_errf(e, SLC_EXIT_INPUT, "%s holds no {\"ids\": [...]} line", path);
    return rc;
}

static int read_text(struct sequences *s, const char *path, struct slc_err *e)
{
    struct slc_tokenizer *t = slc_tokenizer_open("bytes", e);
    char *text = NULL;
    int32_t *ids = NULL;
    size_t len;
    int rc = -1;

    if (!t || slc_file_read(path, TEXT_MAX, &text, &len, e) < 0)
        goto out;
    int64_t n = slc_tokenizer_encode(t, text, len, NULL, 0);
    if (n < 2) {
        slc_errf(e, SLC_EXIT_INPUT, "%s has fewer than two tokens", path);
        goto out;
    }
    ids = malloc((size_t)n * sizeof(*ids));
    if (!ids) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld tokens", (long long)n);
        goto out;
    }
    slc_tokenizer_encode(t, text, len, ids, n);
    rc = append(s, ids, n, e);
out:
    free(ids);
    free(text);
    slc_tokenizer_close(t);
    return rc;
}

static int score(struct slc_predict *p, const struct sequences *s, bool json,
                 struct slc_err *e)
{
    float *loss = malloc((size_t)s->longest * sizeof(*loss));
    double sum = 0;
    int64_t at = 0;

    if (!loss)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for %lld losses",
                        (long long)s->longest);
    for (int64_t i = 0; i < s->n; at += s->length[i++]) {
        int64_t n = s->length[i];
        if (slc_predict_score(p, s->ids + at, n, loss, e) < 0) {
            free(loss);
            return slc_err_prefix(e, "sequence %lld", (long long)i + 1);
        }
        if (json)
            printf("{\"logprobs\": [");
        for (int64_t t = 0; t < n - 1; t++) {
            sum += loss[t];
            if (json)
                printf("%s%.9g", t ? ", " : "", -loss[t]);
            else
                printf("%lld %d %.6f\n", (long long)i, s->ids[at + t + 1], -loss[t]);
        }
        if (json)
            printf("]}\n");
    }
    free(loss);
    int64_t targets = s->total - s->n;
    if (json)
        printf("{\"loss\": %.9g, \"targets\": %lld}\n", sum / (double)targets,
               (long long)targets);
    else
        printf("loss %.6f over %lld targets\n", sum / (double)targets, (long long)targets);
    return 0;
}

int slc_cmd_score(int argc, char **argv)
{
    const char *model = NULL, *ids = NULL, *text = NULL, *device = "cpu";
    struct sequences s = {0};
    struct slc_err e = SLC_ERR_INIT;
    bool json = false;
    int n;
    const struct slc_flag flags[] = {
        {"--model", "DIR", "Hugging Face folder, checkpoint or run folder", &model, NULL},
        {"--ids", "FILE", "one {\"ids\": [...]} object a line", &ids, NULL},
        {"--text", "FILE", "plain text, as bytes", &text, NULL},
        {"--json", NULL, "JSON lines; the last has \"loss\"", NULL, &json},
        {"--device", "NAME", "cpu (default), ref or cuda", &device, NULL},
    };

    int rc = slc_flags_parse(argc, argv, usage, flags, 5, &n, &e);
    if (rc == 1)
        return SLC_EXIT_OK;
    if (rc == 0 && (!model || !ids == !text || n > 0))
        rc = slc_errf(&e, SLC_EXIT_CONFIG, "give --model and one of --ids, --text; usage: %s",
                      usage);
    if (rc == 0)
        rc = ids ? read_ids(&s, ids, &e) : read_text(&s, text, &e);
    struct slc_predict *p = NULL;
    if (rc == 0)
        p = slc_predict_open(model, device, 0, s.longest, &e);
    rc = p ? score(p, &s, json, &e) : -1;
    slc_predict_close(p);
    free(s.ids);
    free(s.length);
    return rc < 0 ? slc_cmd_fail("score", &e) : SLC_EXIT_OK;
}
