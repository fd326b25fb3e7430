/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_MODEL_SPEC_H
#define SLC_MODEL_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/err.h"

/* What a model is, whatever family it came from. Read from config.json. */
#define SLC_MAX_LAYERS 256

#define SLC_MAX_EOS 16

struct slc_family;

/* What config.json says of the vocabulary; no part of the computation. Kept for export. */
struct slc_token_ids {
    int n_bos, n_pad, n_eos; /* 0: none given; n_bos and n_pad are at most 1 */
    int64_t bos, pad, eos[SLC_MAX_EOS];
};

struct slc_spec {
    const struct slc_family *family;
    int64_t L, H, NQ, NK, D, V; /* layers, hidden, query and kv heads, head width, vocabulary */
    int64_t E, K, F;            /* experts, experts per token, expert width */
    int64_t FD;                 /* width of dense layers */
    bool moe[SLC_MAX_LAYERS];   /* layer has experts (else a dense SwiGLU layer) */
    double rope_theta;
    float norm_eps;
    bool tied;                  /* the head is the embedding */
    bool renorm;                /* router weights divided by their sum */
    enum slc_qk_norm qk_norm;
    float clip_qkv;             /* 0: none */
    int64_t window;             /* sliding attention window, 0: none */
    double aux_coef;            /* router_aux_loss_coef of the config */
    double init_std;            /* initializer_range */
    int64_t max_positions;
    struct slc_token_ids tokens;
};

/* One file each under model/families/. */
struct slc_param;
struct slc_hf_piece {
    char name[160];    /* Hugging Face tensor name */
    int64_t offset;    /* first element of the parameter's global array it covers */
    int ndim;
    int64_t shape[3];  /* as the file has it; its elements are contiguous in ours */
};
struct slc_family {
    const char *model_type;   /* "qwen3_moe" */
    const char *architecture; /* "Qwen3MoeForCausalLM" */
    /* Fill spec from the parsed config.json; refuse by name what is not supported. */
    int (*read)(struct slc_spec *s, const json_t *config, const char *path,
                struct slc_err *e);
    /* The config.json of a spec, for export; caller frees the object. */
    json_t *(*write)(const struct slc_spec *s);
    /* Piece i of a parameter in the released layout; false past the last. */
    bool (*piece)(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                  struct slc_hf_piece *out);
    /* The same in the fused expert layout (one tensor of all experts), where it differs. */
    bool (*fused_piece)(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                        struct slc_hf_piece *out);
};

/* path: a config.json, or a folder that holds one. */
int slc_spec_load(struct slc_spec *s, const char *path, struct slc_err *e);
/* Serialise to / from the config.json text that a checkpoint stores (malloc'ed). */
char *slc_spec_text(const struct slc_spec *s, struct slc_err *e);
int slc_spec_parse(struct slc_spec *s, const char *text, const char *where, struct slc_err *e);
/* 64-bit digest of what must agree for a checkpoint to fit. */
uint64_t slc_spec_digest(const struct slc_spec *s);
/* NULL-terminated list of the families supported. */
extern const struct slc_family *const slc_families[];

#endif
