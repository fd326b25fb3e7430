# SPDX-License-Identifier: Apache-2.0
"""Goldens of training: a trajectory of 20 steps, AdamW alone, mean scores."""

import json
import math

import torch
from safetensors.torch import save_file

from golden_model import (
    Batch,
    forward,
    load_model,
    norm,
    record_routers,
    routing_gap,
    save_model,
    seed_of,
    target_logprobs,
    write_json,
)

HYPER = {
    "steps": 20,
    "peak_lr": 1e-2,
    "min_lr": 1e-3,
    "warmup_steps": 4,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
}

# Two runs of the same steps: without and with the auxiliary loss.
TRAJECTORIES = [
    {
        "name": "trajectory",
        "about": "20 AdamW steps, 7 experts, top-2 renormalised, packed documents; "
        "every step is clipped",
        "salt": "1",
        "config": {
            "num_experts": 7,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "hidden_size": 32,
        },
    },
    {
        "name": "trajectory-aux",
        "about": "20 AdamW steps, 5 experts, top-3, tied head, one dense layer, "
        "auxiliary loss; some steps are clipped, some are not",
        "clip_norm": 2.0,
        "config": {
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "tie_word_embeddings": True,
            "num_hidden_layers": 3,
            "mlp_only_layers": [0],
            "hidden_size": 16,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.02,
        },
    },
]


def learning_rate(step):
    """Of step 1..steps: linear from 0 over the warm-up, then cosine to min_lr."""
    h = HYPER
    if step <= h["warmup_steps"]:
        return h["peak_lr"] * step / h["warmup_steps"]
    x = (step - h["warmup_steps"]) / (h["steps"] - h["warmup_steps"])
    cosine = 0.5 * (1 + math.cos(math.pi * x))
    return h["min_lr"] + (h["peak_lr"] - h["min_lr"]) * cosine


def learnable_ids(gen, rows, length, vocab):
    """Mostly x -> 5x + 3 mod vocab, so that there is something to learn."""
    ids = torch.randint(vocab, (rows, length), generator=gen)
    jump = torch.rand((rows, length), generator=gen) < 0.25
    for t in range(1, length):
        ids[:, t] = torch.where(jump[:, t], ids[:, t], (5 * ids[:, t - 1] + 3) % vocab)
    return ids


def make_batches(name, vocab):
    gen = torch.Generator().manual_seed(seed_of(name, "batches"))
    packings = [
        [[32], [20, 12]],
        [[1, 31], [7, 9, 16]],
        [[15, 17], [32]],
        [[10, 1, 1, 20], [25, 7]],
    ]
    return [Batch(learnable_ids(gen, 2, 32, vocab), packings[s % len(packings)])
            for s in range(HYPER["steps"])]


def decayed(name, p):
    return p.ndim >= 2 and "norm" not in name


def train(folder, hyper, batches, dtype, experts):
    """Losses (total, before the step's update), gradient norms, the final weights."""
    model = load_model(folder, experts, dtype)
    seen = record_routers(model)
    named = list(model.named_parameters())
    h = hyper
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if decayed(n, p)],
             "weight_decay": h["weight_decay"]},
            {"params": [p for n, p in named if not decayed(n, p)],
             "weight_decay": 0.0},
        ],
        lr=0.0, betas=(h["beta1"], h["beta2"]), eps=h["eps"], foreach=False,
    )
    losses, aux, norms, gap, ids = [], [], [], math.inf, []
    for step, batch in enumerate(batches, 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad(set_to_none=False)
        out = forward(model, batch)
        out.loss.backward()
        gap = min(gap, routing_gap(seen, model.config.num_experts_per_tok))
        ids += [(step, layer, seen[layer][2].tolist()) for layer in sorted(seen)]
        norms.append(float(torch.nn.utils.clip_grad_norm_(
            model.parameters(), h["clip_norm"], foreach=False)))
        optimizer.step()
        losses.append(float(out.loss.detach()))
        aux.append(None if out.aux_loss is None else float(out.aux_loss.detach()))
    weights = {n: norm([p.detach()]) for n, p in named}
    return {"losses": losses, "aux": aux, "norms": norms, "weights": weights,
            "gap": gap, "ids": ids}


def worst(a, b):
    return max(abs(x - y) / abs(y) for x, y in zip(a, b))


def write_trajectory(out):
    from golden_cases import QWEN3

    for case in TRAJECTORIES:
        folder = out / f"qwen3_moe-{case['name']}"
        folder.mkdir(parents=True)
        save_model("qwen3_moe", case, QWEN3, folder)
        batches = make_batches(case["name"], QWEN3["vocab_size"])
        hyper = {**HYPER, "clip_norm": case.get("clip_norm", HYPER["clip_norm"])}
        r64 = train(folder, hyper, batches, torch.float64, "eager")
        r32 = train(folder, hyper, batches, torch.float32, "eager")
        other = train(folder, hyper, batches, torch.float32, "grouped_mm")
        assert r64["gap"] > 3e-4, r64["gap"]
        assert r64["ids"] == r32["ids"] == other["ids"]
        assert r64["losses"][-1] < r64["losses"][0] - 0.5, r64["losses"]
        clipped = sum(n > hyper["clip_norm"] for n in r64["norms"])
        assert clipped and ("clip_norm" not in case or clipped < hyper["steps"])
        error = worst(r32["losses"], r64["losses"])
        assert error < 1e-6, error
        doc = {
            "case": case["name"],
            "family": "qwen3_moe",
            "about": case["about"],
            "reference": {"transformers": "5.23.0", "torch": "2.15.0",
                          "attention": "sdpa", "experts": "eager",
                          "other_experts": "grouped_mm",
                          "optimizer": "torch.optim.AdamW"},
            "hyper": hyper,
            "aux_coef": case["config"].get("router_aux_loss_coef", 0.0),
            "lr": [learning_rate(s) for s in range(1, HYPER["steps"] + 1)],
            "batches": [b.to_json() for b in batches],
            "loss": {"fp32": r32["losses"], "fp64": r64["losses"],
                     "fp32_other": other["losses"]},
            "aux": {"fp32": r32["aux"], "fp64": r64["aux"]},
            "grad_norm": {"fp32": r32["norms"], "fp64": r64["norms"],
                          "fp32_other": other["norms"]},
            "error": {"fp32": error,
                      "fp32_other": worst(other["losses"], r64["losses"]),
                      "fp32_against_other": worst(r32["losses"], other["losses"])},
            "topk_gap_min": r64["gap"],
            "final_weight_norm_fp64": r64["weights"],
        }
        write_json(folder / "case.json", doc)
        print(f"{folder.name}: loss {r64['losses'][0]:.4f} -> {r64['losses'][-1]:.4f}, "
              f"{clipped} steps clipped, errors {doc['error']}, "
              f"gap {r64['gap']:.1e}")


def write_adamw(folder):
    """Five AdamW steps on given gradients, in float32, all states after each step."""
    folder.mkdir(parents=True)
    gen = torch.Generator().manual_seed(seed_of("adamw"))
    shapes = {"matrix": (7, 5), "norm": (13,), "experts": (3, 2, 4), "zero": (2, 3)}
    scale = {"matrix": 0.3, "norm": 1e-5, "experts": 20.0, "zero": 0.0}
    hyper = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1,
             "steps": 5, "lr": [1e-3, 2e-3, 3e-3, 2.5e-3, 1e-4],
             "decayed": ["matrix", "experts", "zero"]}
    params = {n: torch.randn(s, generator=gen).requires_grad_()
              for n, s in shapes.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": hyper["weight_decay"]
          if n in hyper["decayed"] else 0.0} for n, p in params.items()],
        lr=0.0, betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"], foreach=False)
    out = {f"p.0.{n}": p.detach().clone() for n, p in params.items()}
    for step in range(1, hyper["steps"] + 1):
        for group in optimizer.param_groups:
            group["lr"] = hyper["lr"][step - 1]
        for n, p in params.items():
            p.grad = scale[n] * torch.randn(p.shape, generator=gen)
            if n == "matrix" and step == 3:
                p.grad[0] = 0.0
            out[f"g.{step}.{n}"] = p.grad.clone()
        optimizer.step()
        for n, p in params.items():
            out[f"p.{step}.{n}"] = p.detach().clone()
            out[f"m.{step}.{n}"] = optimizer.state[p]["exp_avg"].clone()
            out[f"v.{step}.{n}"] = optimizer.state[p]["exp_avg_sq"].clone()
    save_file(out, folder / "adamw.safetensors")
    write_json(folder / "case.json", {
        "case": "adamw", "about": "torch.optim.AdamW on given gradients, float32",
        "reference": {"torch": "2.15.0"}, "tensors": sorted(shapes), "hyper": hyper})


def write_score(out):
    """Mean next-token loss of a few id sequences under two of the models."""
    gen = torch.Generator().manual_seed(seed_of("score"))
    folder = out / "score"
    folder.mkdir()
    models = []
    for name in ("qwen3_moe-e5k3-tied-packed", "qwen3_moe-e5k2-mlponly-fused"):
        m32 = load_model(out / name).eval()
        m64 = load_model(out / name, dtype=torch.float64).eval()
        vocab = m32.config.vocab_size
        rows, total32, total64, count = [], 0.0, 0.0, 0
        for n in (17, 2, 40):
            batch = Batch(torch.randint(vocab, (1, n), generator=gen), [[n]])
            with torch.no_grad():
                lp32, lp64 = (target_logprobs(forward(m, batch).logits, batch.targets)
                              for m in (m32, m64))
            lp32, lp64 = lp32[0, :-1], lp64[0, :-1]
            rows.append({"ids": batch.ids[0].tolist(), "loss_fp32": -float(lp32.mean()),
                         "loss_fp64": -float(lp64.mean()), "logprobs": lp32.tolist()})
            total32 -= float(lp32.double().sum())
            total64 -= float(lp64.sum())
            count += n - 1
        ids_file = f"{name}.jsonl"
        (folder / ids_file).write_text(
            "".join(json.dumps({"ids": r["ids"]}) + "\n" for r in rows))
        models.append({"model": name, "ids_file": ids_file, "sequences": rows,
                       "loss_fp32": total32 / count, "loss_fp64": total64 / count,
                       "n_targets": count})
    write_json(folder / "case.json", {
        "case": "score", "about": "mean next-token loss: per sequence, and over all "
        "targets of the file", "models": models})
