#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/data/bf16: how far the published implementation's bf16 is from its fp32.

    (the environment of generate_goldens.py)
    venv/bin/python tests/data/generate_bf16.py            # rewrite all
    venv/bin/python tests/data/generate_bf16.py --check    # compare, write nothing

Eight odd Qwen3-MoE models and two each of Mixtral and OLMoE, each of its own seed, with
weights that bf16 holds exactly, and five batches each. The experts that fp32 chooses are forced on the bf16 run, so that
errors are of rounding alone. For every batch: the RMS error of the targets'
log-probabilities, and of every gradient tensor the norm of the error over the norm.
tests/parity/test_bf16 measures the same of Sluice and compares the errors. Another
processor sums in another order: --check allows 20 % of an error. No test runs this.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import generate_goldens
import torch
from golden_cases import MIXTRAL, OLMOE, QWEN3
from golden_model import (
    IGNORE,
    Batch,
    forward,
    gradients,
    load_model,
    norm,
    record_routers,
    save_model,
    seed_of,
    target_logprobs,
    write_json,
)
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

BATCHES = 5
# Transformers' choice on CPU (widths in multiples of 8 only), and its loop
EXPERTS = ("grouped_mm", "eager")

QWEN3 = {**QWEN3, "hidden_size": 40, "moe_intermediate_size": 24, "vocab_size": 97,
         "norm_topk_prob": True}
QWEN3_SHAPES = [
    {"num_experts": 8, "num_experts_per_tok": 2},
    {"num_experts": 3, "num_experts_per_tok": 1, "norm_topk_prob": False,
     "num_key_value_heads": 1},
    {"num_experts": 7, "num_experts_per_tok": 7, "hidden_size": 56, "head_dim": 10},
    {"num_experts": 9, "num_experts_per_tok": 4, "num_hidden_layers": 4,
     "mlp_only_layers": [1], "hidden_size": 32},
    {"num_experts": 10, "num_experts_per_tok": 8, "moe_intermediate_size": 8},
    {"num_experts": 5, "num_experts_per_tok": 3, "tie_word_embeddings": True,
     "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 14},
    {"num_experts": 10, "num_experts_per_tok": 3, "decoder_sparse_step": 2,
     "num_hidden_layers": 4, "hidden_size": 24},
    {"num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False,
     "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 3},
]
MIXTRAL_SHAPES = [
    {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 7},
    {"num_local_experts": 9, "num_experts_per_tok": 5, "num_key_value_heads": 1},
]
OLMOE_SHAPES = [
    {"num_experts": 16, "num_experts_per_tok": 4},
    {"num_experts": 7, "num_experts_per_tok": 3, "clip_qkv": 0.8,
     "num_key_value_heads": 2, "norm_topk_prob": True},
]
MODELS = (
    [("qwen3_moe", QWEN3, shape) for shape in QWEN3_SHAPES]
    + [("mixtral", {**MIXTRAL, "intermediate_size": 16}, s) for s in MIXTRAL_SHAPES]
    + [("olmoe", {**OLMOE, "intermediate_size": 16}, s) for s in OLMOE_SHAPES]
)
ROWS = [[[24], [9, 15]], [[13, 11], [24]], [[5, 1, 18], [20, 4]], [[24], [24]],
        [[8, 8, 8], [2, 22]]]


class ForcedExperts(TorchFunctionMode):
    """torch.topk takes the given experts, whatever is largest."""

    def __init__(self, ids):
        super().__init__()
        self.ids = ids

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.topk:
            return args[0].gather(-1, self.ids), self.ids
        return func(*args, **(kwargs or {}))


def force_routing(model, seen):
    """Every router takes the experts of `seen`, with its own probabilities."""
    def forced(route, ids):
        def run(hidden):
            with ForcedExperts(ids):
                return route(hidden)
        return run

    for i, (_, _, ids) in seen.items():
        gate = model.model.layers[i].mlp.gate
        gate.forward = forced(gate.forward, ids)


def load_bf16(folder, experts):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa",
        experts_implementation=experts).train()


def run(family, model, batch):
    """(log-probabilities of the targets, {name: gradient}) of one batch."""
    model.zero_grad()
    out = forward(model, batch)
    out.loss.backward()
    logprobs = target_logprobs(out.logits.detach().float(), batch.targets)
    return logprobs, gradients(family, model)


def short(x):
    return float(f"{float(x):.5g}")


def errors(batch, exact, exact_grads, logprobs, grads, zero):
    off = (logprobs - exact)[batch.targets != IGNORE]
    return {
        "logprob": short(off.double().pow(2).mean().sqrt()),
        "grad": {n: short(norm([grads[n].double() - exact_grads[n].double()])
                          / norm([exact_grads[n]]))
                 for n in sorted(exact_grads) if n not in zero},
    }


def write_batch(family, folder, number, name, vocab):
    gen = torch.Generator().manual_seed(seed_of("bf16", name, str(number)))
    rows = ROWS[number]
    ids = torch.randint(vocab, (len(rows), sum(rows[0])), generator=gen)
    batch = Batch(ids, rows)
    model = load_model(folder)
    seen = record_routers(model)
    exact, exact_grads = run(family, model, batch)
    seen = dict(seen)
    total = norm(exact_grads.values())
    zero = [n for n in exact_grads if norm([exact_grads[n]]) < 1e-6 * total]
    found = {}
    for experts in EXPERTS:
        low = load_bf16(folder, experts)
        force_routing(low, seen)
        logprobs, grads = run(family, low, batch)
        assert all(g.dtype == torch.bfloat16 for g in grads.values())
        found[experts] = errors(batch, exact, exact_grads, logprobs, grads, zero)
    doc = batch.to_json()
    del doc["labels"]
    doc["topk_ids"] = [sorted_ids(seen[i][2]) for i in sorted(seen)]
    doc["error"] = found
    return doc


def sorted_ids(ids):
    return ids.sort(-1).values.tolist()


def write_model(out, seed, family, base, shape):
    name = f"seed{seed}"
    folder = out / name
    folder.mkdir(parents=True)
    case = {"name": name, "config": shape, "layout": "bf16", "salt": "bf16"}
    save_model(family, case, base, folder)
    vocab = {**base, **shape}["vocab_size"]
    write_json(folder / "case.json", {
        "case": name,
        "family": family,
        "reference": {"transformers": "5.23.0", "torch": "2.15.0", "attention": "sdpa"},
        "batches": [write_batch(family, folder, b, name, vocab)
                    for b in range(BATCHES)],
    })
    return json.loads((folder / "case.json").read_text())


def geometric(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def generate(out):
    for seed, (family, base, shape) in enumerate(MODELS):
        doc = write_model(out, seed, family, base, shape)
        for experts in EXPERTS:
            found = [b["error"][experts] for b in doc["batches"]]
            print(f"{doc['case']} {family} {experts}: log-probabilities "
                  f"{geometric([f['logprob'] for f in found]):.2e}, gradients "
                  f"{geometric([v for f in found for v in f['grad'].values()]):.2e}")


def same(a, b, where):
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [w for k in a for w in same(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [w for i, (x, y) in enumerate(zip(a, b))
                for w in same(x, y, f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, float):
        return [] if math.isclose(a, b, rel_tol=0.2) else [f"{where}: {a} != {b}"]
    return [] if a == b else [f"{where}: differs"]


def compare(fresh, committed):
    wrong = []
    for p in sorted(fresh.rglob("*.json")):
        other = committed / p.relative_to(fresh)
        wrong += same(json.loads(p.read_text()), json.loads(other.read_text()), other.name)
    for p in sorted(fresh.rglob("*.safetensors")):
        if p.read_bytes() != (committed / p.relative_to(fresh)).read_bytes():
            wrong.append(f"{p.name}: differs")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true",
                        help="compare with the committed files, write nothing")
    args = parser.parse_args()
    generate_goldens.check_environment()
    there = Path(__file__).resolve().parent / "bf16"
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp) / "bf16"
        generate(fresh)
        if args.check:
            wrong = compare(fresh, there)
            print("\n".join(wrong) or "the committed errors are reproduced")
            return 1 if wrong else 0
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(fresh, there)
        for p in there.rglob("*"):
            p.chmod(0o755 if p.is_dir() else 0o644)
    size = sum(p.stat().st_size for p in there.rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB in {there}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
