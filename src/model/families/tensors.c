/* SPDX-License-Identifier: Apache-2.0 */
/* Names and places of tensors: the same in all families, but for the MoE block. */
#include <stdio.h>
#include <string.h>

#include "model/families/common.h"

const struct slc_family_names slc_family_mlp_names = {
    .router = "mlp.gate.weight",
    .experts = "mlp.experts",
    .gate = "gate_proj.weight",
    .up = "up_proj.weight",
    .down = "down_proj.weight",
};

static bool name_it(struct slc_hf_piece *out, const struct slc_param *p,
                    const char *name)
{
    if (p->layer < 0)
        snprintf(out->name, sizeof(out->name), "%s", name);
    else
        snprintf(out->name, sizeof(out->name), "model.layers.%d.%s", p->layer, name);
    return true;
}

/* The whole parameter under one name. */
static bool whole(struct slc_hf_piece *out, const struct slc_param *p, int64_t i,
                  const char *name)
{
    if (i > 0)
        return false;
    out->offset = 0;
    out->ndim = p->ndim;
    memcpy(out->shape, p->shape, sizeof(out->shape));
    return name_it(out, p, name);
}

static bool matrix(struct slc_hf_piece *out, const struct slc_param *p, int64_t offset,
                   int64_t rows, int64_t cols, const char *name)
{
    out->offset = offset;
    out->ndim = 2;
    out->shape[0] = rows;
    out->shape[1] = cols;
    out->shape[2] = 0;
    return name_it(out, p, name);
}

static bool qkv_piece(const struct slc_spec *s, const struct slc_param *p, int64_t i,
                      struct slc_hf_piece *out)
{
    static const char *const names[] = {"self_attn.q_proj.weight",
                                        "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight"};
    const int64_t q = s->NQ * s->D, k = s->NK * s->D;

    if (i > 2)
        return false;
    return matrix(out, p, i == 0 ? 0 : (q + (i - 1) * k) * s->H, i == 0 ? q : k, s->H,
                  names[i]);
}

static bool expert_piece(const struct slc_family_names *n, const struct slc_spec *s,
                         const struct slc_param *p, int64_t i, struct slc_hf_piece *out)
{
    char name[96];
    const bool up = p->role == SLC_EXPERT_UP;
    const int64_t expert = up ? i / 2 : i;

    if (expert >= s->E)
        return false;
    snprintf(name, sizeof(name), "%s.%lld.%s", n->experts, (long long)expert,
             !up     ? n->down
             : i % 2 ? n->up
                     : n->gate);
    return up ? matrix(out, p, i * s->F * s->H, s->F, s->H, name)
              : matrix(out, p, i * s->H * s->F, s->H, s->F, name);
}

bool slc_family_piece(const struct slc_family_names *n, const struct slc_spec *s,
                      const struct slc_param *p, int64_t i, struct slc_hf_piece *out)
{
    switch (p->role) {
    case SLC_EMBED:
        return whole(out, p, i, "model.embed_tokens.weight");
    case SLC_ATTN_NORM:
        return whole(out, p, i, "input_layernorm.weight");
    case SLC_QKV:
        return qkv_piece(s, p, i, out);
    case SLC_Q_NORM:
        return whole(out, p, i, "self_attn.q_norm.weight");
    case SLC_K_NORM:
        return whole(out, p, i, "self_attn.k_norm.weight");
    case SLC_ATTN_OUT:
        return whole(out, p, i, "self_attn.o_proj.weight");
    case SLC_MLP_NORM:
        return whole(out, p, i, "post_attention_layernorm.weight");
    case SLC_ROUTER:
        return whole(out, p, i, n->router);
    case SLC_EXPERT_UP:
    case SLC_EXPERT_DOWN:
        return expert_piece(n, s, p, i, out);
    case SLC_DENSE_UP:
        return i < 2 && matrix(out, p, i * s->FD * s->H, s->FD, s->H,
                               i ? "mlp.up_proj.weight" : "mlp.gate_proj.weight");
    case SLC_DENSE_DOWN:
        return whole(out, p, i, "mlp.down_proj.weight");
    case SLC_FINAL_NORM:
        return whole(out, p, i, "model.norm.weight");
    case SLC_HEAD:
        return whole(out, p, i, "lm_head.weight");
    }
    return false;
}

bool slc_family_fused_piece(const struct slc_spec *s, const struct slc_param *p,
                            int64_t i, struct slc_hf_piece *out)
{
    if (p->role == SLC_EXPERT_UP)
        return whole(out, p, i, "mlp.experts.gate_up_proj");
    if (p->role == SLC_EXPERT_DOWN)
        return whole(out, p, i, "mlp.experts.down_proj");
    return slc_family_piece(&slc_family_mlp_names, s, p, i, out);
}
