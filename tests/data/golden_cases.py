# SPDX-License-Identifier: Apache-2.0
"""The configurations that the goldens cover: what is odd about each, and its input.

A case is {name, about, config, rows, ...}: `rows` is the batch, each row a list of
document lengths (all rows have the same sum). Optional keys:
  layout   "original" (default), "fused" (save_original_format=False),
           "sharded" (several files and an index), "bf16" (stored as bfloat16),
           "released" (bfloat16 and the config.json keys of the released models)
  salt     changes the random weights
  mask     [(row, position)] targets masked besides those at document starts
  skew     strength with which the router is pushed towards expert 0
  idle     an expert that must receive no token (checked)
"""

QWEN3 = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 28,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

QWEN3_CASES = [
    {
        "name": "e3k1",
        "about": "3 experts, top-1, no renormalisation, head_dim != hidden / heads, "
        "one document",
        "config": {"num_experts": 3, "num_experts_per_tok": 1},
        "rows": [[23]],
    },
    {
        "name": "e5k3-tied-packed",
        "about": "5 experts, top-3 renormalised, one kv head, head_dim 12, tied head, "
        "five documents in a row, one of length 1",
        "config": {
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "rows": [[5, 1, 9, 3, 7]],
    },
    {
        "name": "e7k7-rows2",
        "about": "every expert chosen (k = E = 7), no renormalisation, hidden 20, as "
        "many kv heads as heads, two rows packed differently",
        "config": {
            "hidden_size": 20,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "moe_intermediate_size": 9,
            "num_experts": 7,
            "num_experts_per_tok": 7,
            "rms_norm_eps": 1e-5,
        },
        "rows": [[12, 7], [1, 1, 17]],
    },
    {
        "name": "e10k3-step2",
        "about": "10 experts, top-3 renormalised, decoder_sparse_step 2 (layers 0 and "
        "2 dense), stored in several files with an index",
        "layout": "sharded",
        "config": {
            "num_hidden_layers": 4,
            "hidden_size": 16,
            "num_experts": 10,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "moe_intermediate_size": 7,
        },
        "rows": [[8, 13]],
    },
    {
        "name": "e5k2-mlponly-fused",
        "about": "mlp_only_layers [1] of 3, experts stored fused "
        "(mlp.experts.gate_up_proj, mlp.experts.down_proj)",
        "layout": "fused",
        "config": {
            "num_hidden_layers": 3,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
        "rows": [[20], [11, 9]],
    },
    {
        "name": "e7k3-aux-rows2",
        "about": "auxiliary loss on, coefficient 0.05, two rows packed differently, "
        "some targets masked inside documents",
        "config": {
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.05,
        },
        "mask": [(0, 2), (0, 3), (1, 15)],
        "rows": [[6, 15], [14, 1, 6]],
    },
    {
        "name": "e10k1-renorm-aux",
        "about": "top-1 renormalised: every weight is 1, so the router's gradient "
        "comes from the auxiliary loss alone; at least one expert without a token",
        "config": {
            "hidden_size": 16,
            "num_experts": 10,
            "num_experts_per_tok": 1,
            "norm_topk_prob": True,
            "moe_intermediate_size": 6,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.2,
        },
        "idle": 1,
        "skew": 1.0,
        "rows": [[4, 9, 5]],
    },
    {
        "name": "e3k3-aux-tied-bytes",
        "about": "vocabulary of bytes (256), k = E = 3, tied head, auxiliary loss "
        "(constant when every expert is chosen equally often, so its value is E), one "
        "kv head",
        "config": {
            "vocab_size": 256,
            "hidden_size": 16,
            "num_key_value_heads": 1,
            "num_experts": 3,
            "num_experts_per_tok": 3,
            "tie_word_embeddings": True,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.01,
        },
        "rows": [[10, 2, 1, 11]],
    },
    {
        "name": "e5k1-one-expert",
        "about": "extreme router: every token goes to expert 0, the other four "
        "receive none",
        "config": {"hidden_size": 16, "num_experts": 5, "num_experts_per_tok": 1},
        "skew": 4.0,
        "idle": 4,
        "rows": [[9, 12], [21]],
    },
    {
        "name": "e5k2-released",
        "about": "weights stored as bfloat16 and config.json with the keys of the "
        "released models (rope_theta, num_experts, torch_dtype); the numbers are those "
        "of the same values loaded as float32",
        "layout": "released",
        "config": {
            "hidden_size": 16,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        },
        "rows": [[3, 14]],
    },
]

MIXTRAL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 11,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

MIXTRAL_CASES = [
    {
        "name": "e3k1",
        "about": "3 experts, top-1 (always renormalised: weight 1), one document",
        "config": {"num_local_experts": 3, "num_experts_per_tok": 1},
        "rows": [[19]],
    },
    {
        "name": "e7k2-window-packed",
        "about": "sliding window 4, shorter than the documents, several documents",
        "config": {
            "num_local_experts": 7,
            "num_experts_per_tok": 2,
            "sliding_window": 4,
        },
        "rows": [[11, 1, 9], [3, 18]],
    },
    {
        "name": "e9k3-kv1-aux",
        "about": "9 experts, top-3, one kv head, auxiliary loss, two rows",
        "salt": "2",
        "config": {
            "num_local_experts": 9,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 1,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.05,
        },
        "rows": [[8, 9], [17]],
    },
    {
        "name": "e10k8-window",
        "about": "10 experts, top-8, sliding window 5, head_dim from hidden / heads, "
        "stored in several files with an index",
        "layout": "sharded",
        "config": {
            "num_local_experts": 10,
            "num_experts_per_tok": 8,
            "sliding_window": 5,
            "head_dim": None,
            "hidden_size": 24,
        },
        "rows": [[14, 6]],
    },
    {
        "name": "e7k7-tied-fused",
        "about": "every expert chosen, tied head, head_dim 12, experts stored fused",
        "layout": "fused",
        "config": {
            "num_local_experts": 7,
            "num_experts_per_tok": 7,
            "tie_word_embeddings": True,
            "head_dim": 12,
        },
        "rows": [[7, 10]],
    },
    {
        "name": "e9k2-bf16-window1",
        "about": "sliding window 1 (a token sees itself alone), weights stored as "
        "bfloat16, as many kv heads as heads",
        "layout": "bf16",
        "config": {
            "num_local_experts": 9,
            "num_experts_per_tok": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "sliding_window": 1,
        },
        "rows": [[6, 9]],
    },
    {
        "name": "e10k4-kv1-released",
        "about": "10 experts, top-4, one kv head, sliding window 6 that no document "
        "fits in, bfloat16 and config.json with the keys of the released models",
        "layout": "released",
        "config": {
            "num_local_experts": 10,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 1,
            "sliding_window": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "rows": [[8, 9]],
    },
    {
        "name": "e7k5-window-aux",
        "about": "top-5, sliding window 7 shorter than some documents and longer than "
        "others, auxiliary loss, targets masked inside documents",
        "config": {
            "num_local_experts": 7,
            "num_experts_per_tok": 5,
            "sliding_window": 7,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.03,
        },
        "mask": [(0, 2), (1, 9)],
        "rows": [[13, 1, 3], [5, 12]],
    },
    {
        "name": "e9k6-tied-window",
        "about": "top-6, sliding window 2, three heads over one kv head, tied head, "
        "head_dim from hidden / heads",
        "config": {
            "num_local_experts": 9,
            "num_experts_per_tok": 6,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": None,
            "hidden_size": 18,
            "sliding_window": 2,
            "tie_word_embeddings": True,
        },
        "rows": [[4, 1, 10]],
    },
]

OLMOE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 9,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

OLMOE_CASES = [
    {
        "name": "e3k1",
        "about": "3 experts, top-1, no renormalisation, one document",
        "config": {"num_experts": 3, "num_experts_per_tok": 1},
        "rows": [[19]],
    },
    {
        "name": "e7k3-clip-packed",
        "about": "clip_qkv 0.8 (many values clipped), several documents in two rows",
        "config": {"num_experts": 7, "num_experts_per_tok": 3, "clip_qkv": 0.8},
        "rows": [[11, 1, 9], [3, 18]],
    },
    {
        "name": "e9k2-kv1-aux",
        "about": "one kv head (k norm over one head), auxiliary loss",
        "config": {
            "num_experts": 9,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 1,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.05,
        },
        "rows": [[8, 9], [17]],
    },
    {
        "name": "e10k8-renorm",
        "about": "10 experts, top-8 renormalised, 4 heads over 2 kv heads, stored in "
        "several files with an index",
        "layout": "sharded",
        "config": {
            "num_experts": 10,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "num_key_value_heads": 2,
        },
        "rows": [[14, 6]],
    },
    {
        "name": "e7k7-tied-fused",
        "about": "every expert chosen, tied head, experts stored fused",
        "layout": "fused",
        "config": {
            "num_experts": 7,
            "num_experts_per_tok": 7,
            "tie_word_embeddings": True,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        "rows": [[7, 10]],
    },
    {
        "name": "e9k3-clip-bf16",
        "about": "clip_qkv 1.5 with one kv head, auxiliary loss, weights stored as "
        "bfloat16",
        "layout": "bf16",
        "config": {
            "num_experts": 9,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 1,
            "clip_qkv": 1.5,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.02,
        },
        "rows": [[6, 9, 2]],
    },
    {
        "name": "e10k4-clip-released",
        "about": "10 experts, top-4, clip_qkv 0.5 with 4 heads over 2 kv heads, "
        "bfloat16 and config.json with the keys of the released models",
        "layout": "released",
        "config": {
            "num_experts": 10,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 2,
            "clip_qkv": 0.5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
        "rows": [[8, 9]],
    },
    {
        "name": "e7k5-kv1-aux",
        "about": "top-5 renormalised, three heads over one kv head, auxiliary loss, "
        "targets masked inside documents",
        "config": {
            "num_experts": 7,
            "num_experts_per_tok": 5,
            "norm_topk_prob": True,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.03,
        },
        "mask": [(0, 2), (1, 9)],
        "rows": [[13, 1, 3], [5, 12]],
    },
    {
        "name": "e9k6-clip-tied",
        "about": "top-6, clip_qkv 1, one head alone (24 wide), tied head, documents of "
        "length 1",
        "config": {
            "num_experts": 9,
            "num_experts_per_tok": 6,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "clip_qkv": 1.0,
            "tie_word_embeddings": True,
        },
        "rows": [[4, 1, 1, 10]],
    },
]

FAMILIES = {
    "qwen3_moe": (QWEN3, QWEN3_CASES),
    "mixtral": (MIXTRAL, MIXTRAL_CASES),
    "olmoe": (OLMOE, OLMOE_CASES),
}
