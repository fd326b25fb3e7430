#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps at the shape of benchmarks/gpu/olmoe by Transformers on the same card.

    olmoe_peer.py [--compile] [--rows 2] [--steps 12] [--small]

bf16 weights and moments, grouped_mm experts, fused AdamW, gradient norm and clipping.
Eager: the model's own loss. --compile: torch.compile of each layer, which is done once for
all (the whole model at once takes minutes), and the loss by chunks of 2048 tokens whose logits are made again in backward, so that they are never whole. One
JSON line: tokens/s (median of the steps after the fourth), most memory, losses. FAMILY: as
for olmoe. --small: a tiny model, on the CPU where there is no GPU.
"""
import argparse
import json
import os
import statistics
import time


def config_of(family):
    config = {"vocab_size": 50304, "hidden_size": 2048, "num_hidden_layers": 16,
              "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
              "num_experts_per_tok": 8, "norm_topk_prob": False, "intermediate_size": 1024,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 4096,
              "tie_word_embeddings": False, "router_aux_loss_coef": 0.01}
    if family == "olmoe":
        config.update(architectures=["OlmoeForCausalLM"], model_type="olmoe", clip_qkv=None)
    else:
        config.update(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe",
                      head_dim=128, moe_intermediate_size=1024, decoder_sparse_step=1,
                      mlp_only_layers=[])
    return config


def main():
    import torch
    import torch.nn.functional as F
    import transformers
    from torch.utils.checkpoint import checkpoint
    from transformers import AutoConfig, AutoModelForCausalLM

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not args.small:
        raise SystemExit("olmoe_peer: PyTorch sees no GPU; --small tries the script without")
    device, length, chunk = ("cuda" if gpu else "cpu"), 4096, 2048
    family = os.environ.get("FAMILY", "qwen3_moe")
    settings = config_of(family)
    del settings["architectures"]
    if args.small:
        length, chunk = 64, 32
        settings.update(vocab_size=512, hidden_size=64, num_hidden_layers=2, head_dim=16,
                        num_attention_heads=4, num_key_value_heads=4, num_experts=8,
                        num_experts_per_tok=2, intermediate_size=32, moe_intermediate_size=32)
        if family == "olmoe":
            del settings["head_dim"]
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("highest")
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa",
            experts_implementation="grouped_mm").train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0.1, fused=True)
    ids = torch.randint(0, config.vocab_size, (args.steps, args.rows, length), device=device)

    def part(h, target):
        logits = model.lm_head(h).float()
        return F.cross_entropy(logits, target, reduction="sum")

    def whole(x):
        return model(input_ids=x, labels=x, use_cache=False).loss

    for layer in model.model.layers if args.compile else []:
        layer.compile()
    by_chunk = torch.compile(part) if args.compile else part

    def chunked(x):
        h = model.model(input_ids=x, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        target = x[:, 1:].flatten()
        total = sum(checkpoint(by_chunk, h[i:i + chunk], target[i:i + chunk],
                               use_reentrant=False) for i in range(0, len(h), chunk))
        return total / len(h)

    loss_of = chunked if args.compile else whole
    seconds, losses = [], []
    for step in range(args.steps):
        start = time.perf_counter()
        loss = loss_of(ids[step % 2])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(round(float(loss.detach()), 3))  # waits for the device
        seconds.append(time.perf_counter() - start)
    step_s = statistics.median(seconds[4:])
    print(json.dumps({
        "part": "olmoe_peer", "card": torch.cuda.get_device_name(0) if gpu else None,
        "family": family, "compile": args.compile,
        "experts": model.config._experts_implementation, "rows": args.rows,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": round(args.rows * length / step_s), "step_s": round(step_s, 4),
        "first_step_s": round(seconds[0], 1), "loss": [losses[0], losses[-1]],
        "peak_mib": torch.cuda.max_memory_reserved() >> 20 if gpu else None}))


if __name__ == "__main__":
    main()
