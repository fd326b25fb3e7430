# SPDX-License-Identifier: Apache-2.0
"""Build a tiny random model, run the published implementation on it, write a case.

Every number of a case comes from a model that was loaded again from the files the
case holds, so the files are known to load in Transformers in their layout.
"""

import json
import math
import re
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

IGNORE = -100


class Float64Mode(TorchFunctionMode):
    """Turn every request for float32 inside the published code into float64.

    `model.double()` alone still rounds to float32 in the norms, the router's softmax,
    the RoPE angles and the loss. Under this mode the same code runs in double
    throughout, so its result is a reference for both implementations.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def swap(x):
            return torch.float64 if x is torch.float32 else x

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(swap(a) for a in args)
        kwargs = {k: swap(v) for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def seed_of(*names):
    """A seed that depends on the names alone, not on the order of generation."""
    return zlib.crc32("/".join(names).encode()) & 0x7FFFFFFF


def fill_weights(model, gen, skew):
    """Random weights of a size that makes routing and attention matter."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name:
                p.copy_(1.0 + 0.2 * noise)
            elif "embed_tokens" in name:
                p.copy_(0.5 * noise)
                if skew:
                    p[:, 0] = 1.0 + 0.1 * noise[:, 0]
            elif re.search(r"\.gate\.weight$", name):
                spread = 0.5 if skew else 2.0
                p.copy_(spread * noise / math.sqrt(p.shape[-1]))
                if skew:
                    p[0, 0] = skew
            else:
                p.copy_(1.2 * noise / math.sqrt(p.shape[-1]))
        if skew:
            for layer in model.model.layers:
                layer.post_attention_layernorm.weight[0] = 1.5
                layer.self_attn.o_proj.weight[0] *= 0.1
                experts = getattr(layer.mlp, "experts", None)
                if experts is not None:
                    experts.down_proj[:, 0] *= 0.1


def use_released_keys(path):
    """Rewrite config.json with the keys of the models released before version 5."""
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    config["transformers_version"] = "4.51.0"
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")


def save_model(family, case, base, folder):
    """Write config.json and the weights as save_pretrained writes them."""
    layout = case.get("layout", "original")
    config = AutoConfig.for_model(family, **{**base, **case["config"]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    seed = seed_of(family, case["name"], "weights", case.get("salt", ""))
    gen = torch.Generator().manual_seed(seed)
    fill_weights(model, gen, case.get("skew", 0.0))
    if layout in ("bf16", "released"):
        model = model.to(torch.bfloat16)
    model.save_pretrained(
        folder,
        save_original_format=layout != "fused",
        max_shard_size="12KB" if layout == "sharded" else "50GB",
    )
    (folder / "generation_config.json").unlink(missing_ok=True)
    if layout == "released":
        use_released_keys(folder / "config.json")
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    assert (len(files) > 1) == (layout == "sharded"), files
    names = [n for f in files for n in load_file(folder / f)]
    assert any("experts.gate_up_proj" in n for n in names) == (layout == "fused")
    return names


def load_model(folder, experts="eager", dtype=torch.float32):
    """Load for training; float64 also recomputes the RoPE frequencies in double."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        experts_implementation=experts,
    )
    if dtype == torch.float64:
        model = model.double()
        rope = model.model.rotary_emb
        with Float64Mode():
            rope.inv_freq = rope.compute_default_rope_parameters(model.config)[0]
        assert rope.inv_freq.dtype == torch.float64
    return model.train()


def split_experts(family, name, tensor):
    """{file name: tensor} of one parameter; fused experts become one entry each."""
    mixtral = family == "mixtral"
    if mixtral:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    m = re.match(r"(.*\.experts)\.(gate_up_proj|down_proj)$", name)
    if not m:
        return {name: tensor}
    gate, up, down = ("w1", "w3", "w2") if mixtral else (
        "gate_proj", "up_proj", "down_proj")
    out = {}
    for e in range(tensor.shape[0]):
        prefix = f"{m[1]}.{e}"
        if m[2] == "down_proj":
            out[f"{prefix}.{down}.weight"] = tensor[e]
        else:
            half = tensor.shape[1] // 2
            out[f"{prefix}.{gate}.weight"] = tensor[e, :half]
            out[f"{prefix}.{up}.weight"] = tensor[e, half:]
    return out


class Batch:
    """Rows of packed documents: ids, positions, labels, next-token targets."""

    def __init__(self, ids, rows, mask=()):
        self.ids = ids
        self.documents = []
        self.positions = torch.zeros_like(ids)
        self.labels = ids.clone()
        for r, lengths in enumerate(rows):
            assert sum(lengths) == ids.shape[1], (lengths, ids.shape)
            start, docs = 0, []
            for n in lengths:
                docs.append([start, n])
                self.positions[r, start : start + n] = torch.arange(n)
                self.labels[r, start] = IGNORE
                start += n
            self.documents.append(docs)
        for r, t in mask:
            self.labels[r, t] = IGNORE
        self.targets = torch.full_like(ids, IGNORE)
        self.targets[:, :-1] = self.labels[:, 1:]
        self.n = int((self.targets != IGNORE).sum())

    def document(self, r, start, n):
        """The same document alone, as a batch of one row."""
        one = Batch(self.ids[r : r + 1, start : start + n], [[n]])
        one.labels[0, 1:] = self.labels[r, start + 1 : start + n]
        one.targets[0, :-1] = one.labels[0, 1:]
        one.n = int((one.targets != IGNORE).sum())
        return one

    def to_json(self):
        return {
            "ids": self.ids.tolist(),
            "documents": self.documents,
            "labels": self.labels.tolist(),
            "targets": self.targets.tolist(),
            "n_targets": self.n,
        }


def forward(model, batch, n=None, isolate=True):
    """One forward pass; the loss is the sum over targets divided by n (all by
    default). use_cache=False and restarting position_ids isolate documents."""
    double = model.lm_head.weight.dtype == torch.float64
    positions = batch.positions
    if not isolate:
        positions = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    kwargs = {"num_items_in_batch": n or batch.n}
    if double:
        with Float64Mode():
            out = model(input_ids=batch.ids, position_ids=positions,
                        labels=batch.labels, use_cache=False, **kwargs)
        assert out.loss.dtype == torch.float64 and out.logits.dtype == torch.float64
    else:
        out = model(input_ids=batch.ids, position_ids=positions,
                    labels=batch.labels, use_cache=False, **kwargs)
    return out


def target_logprobs(logits, targets):
    """Log-probability of each target [rows, length]; 0 where masked."""
    logp = torch.log_softmax(logits, -1)
    safe = targets.clamp(min=0)
    picked = logp.gather(-1, safe[..., None])[..., 0]
    return torch.where(targets == IGNORE, torch.zeros_like(picked), picked)


def record_routers(model):
    """Hooks that keep (logits, weights, ids) of each MoE layer's router."""
    seen = {}

    def hook(layer):
        def keep(_module, _args, out):
            seen[layer] = tuple(x.detach() for x in out)
        return keep

    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(hook(i))
    return seen


def routing_gap(seen, k):
    """Smallest relative distance between the k-th and the next router logit."""
    gap = math.inf
    for logits, _, _ in seen.values():
        if logits.shape[-1] > k:
            top = logits.topk(k + 1, -1).values
            rel = (top[:, k - 1] - top[:, k]) / top.abs().amax(-1)
            gap = min(gap, float(rel.min()))
    return gap


def gradients(family, model):
    out = {}
    for name, p in model.named_parameters():
        g = torch.zeros_like(p) if p.grad is None else p.grad
        out.update(split_experts(family, name, g.detach().clone()))
    return out


def parts(model, out, batch, n=None):
    """(cross entropy, auxiliary loss or None), checked to make up the total loss."""
    logits = out.logits.detach().flatten(0, 1)
    ce = torch.nn.functional.cross_entropy(
        logits, batch.targets.flatten(), ignore_index=IGNORE, reduction="sum")
    ce = float(ce) / (n or batch.n)
    aux = None if out.aux_loss is None else float(out.aux_loss.detach())
    total = ce + (aux or 0.0) * model.router_aux_loss_coef
    assert abs(total - float(out.loss.detach())) < 1e-6 * total
    return ce, aux


def check_documents(model32, model64, batch, out64):
    """The packed run equals each document alone, and without isolation it does not."""
    total = 0.0
    for r, docs in enumerate(batch.documents):
        for start, n in docs:
            one = batch.document(r, start, n)
            with torch.no_grad():
                alone = forward(model64, one, n=batch.n)
                a32 = forward(model32, one, n=batch.n).logits
                p32 = forward(model32, batch).logits[r : r + 1, start : start + n]
            packed = out64.logits[r : r + 1, start : start + n]
            assert (alone.logits - packed).abs().max() < 1e-11
            t = one.targets
            assert torch.allclose(target_logprobs(a32, t), target_logprobs(p32, t),
                                  rtol=1e-6, atol=1e-6)
            if one.n:
                total += parts(model64, alone, one, batch.n)[0]
    ce = parts(model64, out64, batch)[0]
    assert abs(total - ce) < 1e-11 * abs(ce), (total, ce)
    window = getattr(model64.config, "sliding_window", None)
    if any(len(d) > 1 for d in batch.documents) and window != 1:
        with torch.no_grad():
            leak = forward(model64, batch, isolate=False).logits
        assert (leak - out64.logits).abs().max() > 1e-3


def check_gradient(model, batch, gen):
    """Central difference of the double run along a random direction."""
    direction = [torch.randn(p.shape, generator=gen, dtype=p.dtype)
                 for p in model.parameters()]
    slope = sum(float((p.grad * d).sum())
                for p, d in zip(model.parameters(), direction) if p.grad is not None)
    h, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1, 0):
            for p, d in zip(model.parameters(), direction):
                p += {1: h, -1: -2 * h, 0: h}[sign] * d
            if sign:
                ends.append(float(forward(model, batch).loss))
    numeric = (ends[0] - ends[1]) / (2 * h)
    assert abs(numeric - slope) < 1e-6 * max(1.0, abs(slope)), (numeric, slope)


def norm(tensors):
    return math.sqrt(sum(float(t.double().pow(2).sum()) for t in tensors))


def run(family, folder, batch, dtype, experts="eager"):
    """Forward and backward; returns (model, output, gradients, router record)."""
    model = load_model(folder, experts, dtype)
    seen = record_routers(model)
    out = forward(model, batch)
    out.loss.backward()
    return model, out, gradients(family, model), dict(seen)


def check_idle(case, seen, num_experts):
    """At least case["idle"] experts receive no token in every MoE layer."""
    for _, _, ids in seen.values():
        used = len(set(ids.reshape(-1).tolist()))
        assert num_experts - used >= case.get("idle", 0), (used, num_experts)


def write_case(family, case, base, folder):
    """Generate one model case in `folder`; returns its case.json object."""
    names = save_model(family, case, base, folder)
    gen = torch.Generator().manual_seed(seed_of(family, case["name"], "input"))
    vocab = {**base, **case["config"]}["vocab_size"]
    rows = case["rows"]
    ids = torch.randint(vocab, (len(rows), sum(rows[0])), generator=gen)
    batch = Batch(ids, rows, case.get("mask", ()))

    m32, o32, g32, r32 = run(family, folder, batch, torch.float32)
    m64, o64, g64, r64 = run(family, folder, batch, torch.float64)
    if case.get("layout", "original") != "fused":
        assert set(g32) == set(names), set(g32) ^ set(names)
    config = m64.config
    k = config.num_experts_per_tok
    gap = routing_gap(r64, k)
    assert gap > 1e-4, f"{case['name']}: routing too close to call, {gap}"
    for layer, (_, _, top) in r32.items():
        assert torch.equal(top, r64[layer][2])
    check_idle(case, r64, config.num_experts)
    check_documents(m32, m64, batch, o64)
    check_gradient(m64, batch, gen)
    plain = load_model(folder).double()
    with torch.no_grad():
        kept = plain(input_ids=batch.ids, position_ids=batch.positions,
                     use_cache=False).logits
    assert (kept - o64.logits).abs().max() < 1e-4

    ce32, aux32 = parts(m32, o32, batch)
    ce64, aux64 = parts(m64, o64, batch)
    total = norm(g64.values())
    zero = sorted(n for n in g64 if norm([g64[n]]) < 1e-12 * total)
    assert norm([g32[n] for n in zero]) < 1e-6 * total
    error = {n: norm([g32[n].double() - g64[n]]) / norm([g64[n]])
             for n in g64 if n not in zero}
    assert max(error.values()) < 2e-5, max(error.items(), key=lambda kv: kv[1])
    logprobs = target_logprobs(o32.logits.detach(), batch.targets)
    assert abs(-float(logprobs.sum()) / batch.n - ce32) < 2e-6 * ce32

    save_file(g32, folder / "grads.safetensors")
    outputs = {"logits": o32.logits.detach()}
    for layer, (_, weights, _) in r32.items():
        outputs[f"router.{layer}.weights"] = weights.contiguous()
    save_file(outputs, folder / "outputs.safetensors")
    coef = config.router_aux_loss_coef
    doc = {
        "case": case["name"],
        "family": family,
        "about": case["about"],
        "layout": case.get("layout", "original"),
        "reference": {"transformers": "5.23.0", "torch": "2.15.0",
                      "attention": "sdpa", "experts": "eager"},
        **batch.to_json(),
        "loss": {"fp32": ce32, "fp64": ce64},
        "aux": None if aux32 is None else {
            "coef": coef, "fp32": aux32, "fp64": aux64},
        "total": {"fp32": float(o32.loss.detach()), "fp64": float(o64.loss.detach())},
        "target_logprobs": logprobs.tolist(),
        "moe_layers": sorted(r32),
        "topk_ids": [r32[i][2].tolist() for i in sorted(r32)],
        "topk_gap_min": gap if math.isfinite(gap) else None,
        "grad_norm": {"fp32": norm(g32.values()), "fp64": total},
        "zero_grads": zero,
        "grad_error_fp32_max": max(error.values()),
        "grad_norm_fp64": {n: norm([g]) for n, g in sorted(g64.items())},
    }
    write_json(folder / "case.json", doc)
    return doc


def write_json(path, doc):
    """JSON with one top-level key a line: small, and still readable in a diff."""
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in doc.items()]
    Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")
