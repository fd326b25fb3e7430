/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_CONFIG_OPTIONS_H
#define SLC_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/*
 * The run file. One table {section.key, type, default, doc, offset, check} makes the YAML
 * parser, the command line (section.key=value), the resolved run file printed at start
 * and stored in checkpoints, the man page sluice-run(5), completion and --help.
 */
struct slc_options {
    struct {
        char *config;  /* config.json or a folder with one */
        char *weights; /* Hugging Face folder to start from; empty: random init */
        int64_t seed;  /* of the random init */
    } model;
    struct {
        char *corpus;          /* file made by `sluice data build` */
        int64_t sequence;      /* tokens in a packed row */
        int64_t seed;          /* order of the rows */
        bool shuffle;
    } data;
    struct {
        char *dir;             /* run folder: metrics, checkpoints, reason.json */
        char *device;          /* cpu, ref, cuda (strict: tests) */
        int64_t threads;       /* CPU threads a rank; 0: what Slurm granted */
        int64_t attention_mib; /* GPU memory for the scores that attention's backward keeps */
        char *dtype;           /* fp32 (bf16 when the backend has it) */
    } run;
    struct {
        int64_t steps;
        int64_t global_batch;  /* rows in an optimizer step, over all ranks */
        int64_t micro_batch;   /* rows of a rank in one forward */
        bool recompute;
        bool timing;           /* wait after each phase, so that its time is known */
        int64_t validate_every; /* steps; 0: never */
        int64_t validate_rows;  /* 0: the whole held-out part */
        int64_t max_bad_steps;  /* skipped steps in a row before giving up */
        int64_t log_every;
        double max_time;        /* seconds, 0: none; checkpoint and leave (75) before it */
    } train;
    struct {
        int64_t ep;            /* ranks that share one copy of the experts */
        bool allow_tcp;        /* TCP between ranks of one node */
        char *collectives;     /* auto, host */
    } parallel;
    struct {
        char *aux_scope;       /* micro, sequence, none */
        double aux_coef;       /* negative: router_aux_loss_coef of the model */
        double z_coef;
        double window_factor;
        int64_t window_rows;   /* > 0: exactly so many rows a window (tests) */
        char *path;            /* auto, far */
    } moe;
    struct {
        double lr, min_lr_ratio, beta1, beta2, eps, weight_decay, clip;
        char *schedule;        /* cosine, linear, constant, wsd */
        char *states;          /* fp32, bf16 */
        int64_t warmup, decay;
    } optim;
    struct {
        int64_t every;         /* steps; 0: only at the end and on signals */
        int64_t keep;
        bool at_end;           /* one after the last step */
        char *from;            /* checkpoint of another run to start from; empty: none */
    } checkpoint;
};

enum slc_option_type { SLC_OPT_STR, SLC_OPT_INT, SLC_OPT_REAL, SLC_OPT_BOOL };

struct slc_option {
    const char *section, *key;
    enum slc_option_type type;
    const char *def;     /* default as text; NULL: must be given */
    const char *doc;     /* one or two plain sentences, units named */
    const char *choices; /* "cosine|linear|..." or NULL */
    double min, max;     /* of numbers, inclusive */
    size_t offset;
};
extern const struct slc_option slc_option_table[];
extern const int slc_option_count;

/* Defaults, then the file (NULL: none), then overrides "section.key=value". An unknown key is
 * an error naming file, line, column and the nearest known key; so is a wrong type, a value out
 * of range, a key given twice in the file (of two overrides the last wins), a missing required
 * one. On error o holds nothing. */
int slc_options_load(struct slc_options *o, const char *path, char *const *overrides, int n,
                     struct slc_err *e);
void slc_options_release(struct slc_options *o);
/* The resolved run file as YAML text (malloc'ed): parses back to the same options. */
char *slc_options_text(const struct slc_options *o);
/* The value of "section.key" as plain text (malloc'ed); an unknown name is an error. */
char *slc_options_get(const struct slc_options *o, const char *name, struct slc_err *e);
/* Body of the man page (roff) and of `sluice train --help`. */
void slc_options_man(FILE *out);
void slc_options_help(FILE *out);
/* Nearest known word by edit distance, NULL if none is near (commands use it too). */
const char *slc_nearest(const char *word, const char *const *known, int n);

#endif
