# SPDX-License-Identifier: Apache-2.0
"""Goldens of single ops: inputs are float32 values, the results are computed from
them in double (backward by autograd) and rounded once to float32.

Called by generate_goldens.py. Names are <op>.<case>.<tensor>; README.md lists them.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from golden_model import IGNORE, seed_of


class Op:
    """Collects the tensors of one op and case."""

    def __init__(self, store, name):
        self.store = store
        self.name = name
        self.gen = torch.Generator().manual_seed(seed_of("ops", name))

    def put(self, key, value):
        t = torch.as_tensor(value).detach()
        t = t.to(torch.int32 if not t.is_floating_point() else torch.float32)
        full = f"{self.name}.{key}"
        assert full not in self.store, full
        self.store[full] = t.clone().contiguous()

    def input(self, key, *shape, scale=1.0, shift=0.0):
        """A random float32 input, stored, and returned in double for the maths."""
        x = shift + scale * torch.randn(shape, generator=self.gen)
        self.put(key, x)
        return x.double().requires_grad_()

    def backward(self, outputs, inputs):
        """Store outputs, random output gradients and the gradients of the inputs."""
        total = 0.0
        for key, y in outputs.items():
            self.put(key, y)
            dy = torch.randn(y.shape, generator=self.gen)
            self.put(f"d{key}", dy)
            total = total + (y * dy.double()).sum()
        self.gradients(total, inputs)

    def gradients(self, scalar, inputs):
        for key, g in zip(inputs, torch.autograd.grad(scalar, list(inputs.values()))):
            self.put(f"d{key}", g)


def rmsnorm(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rope(x, positions, theta):
    """[T, heads, D]; pairs are (i, i + D/2), angle = position * theta^(-2i/D)."""
    d = x.shape[-1]
    freq = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = positions.double()[:, None] * freq
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def write_norms(store):
    for case, (t, h) in {"t7h13": (7, 13), "t1h24": (1, 24)}.items():
        op = Op(store, f"rmsnorm.{case}")
        x, w = op.input("x", t, h, scale=2.0), op.input("w", h, scale=0.2, shift=1.0)
        op.put("eps", torch.tensor([1e-6]))
        op.backward({"y": rmsnorm(x, w, 1e-6)}, {"x": x, "w": w})


def write_rope(store):
    positions = torch.tensor([0, 1, 2, 3, 0, 0, 1, 90])
    for case, heads, d, theta in (("h3d10", 3, 10, 10000.0), ("h1d12", 1, 12, 1e6)):
        op = Op(store, f"rope.{case}")
        x = op.input("x", len(positions), heads, d)
        op.put("positions", positions)
        op.put("theta", torch.tensor([theta]))
        op.backward({"y": rope(x, positions, theta)}, {"x": x})

        op = Op(store, f"qknorm_rope.{case}")
        x = op.input("x", len(positions), heads, d)
        w = op.input("w", d, scale=0.2, shift=1.0)
        op.put("positions", positions)
        op.put("theta", torch.tensor([theta]))
        op.put("eps", torch.tensor([1e-6]))
        op.backward({"y": rope(rmsnorm(x, w, 1e-6), positions, theta)},
                    {"x": x, "w": w})


def attention(q, k, v, bounds, window):
    """Causal inside each document; a token sees itself and window - 1 before it."""
    out, lse = [], []
    group = q.shape[1] // k.shape[1]
    for a, b in zip(bounds[:-1], bounds[1:]):
        kk = k[a:b].repeat_interleave(group, 1)
        vv = v[a:b].repeat_interleave(group, 1)
        s = torch.einsum("ihd,jhd->hij", q[a:b], kk) / math.sqrt(q.shape[-1])
        i = torch.arange(b - a)
        hidden = (i[None, :] > i[:, None]) | (i[:, None] - i[None, :] >= window)
        s = s.masked_fill(hidden, -math.inf)
        lse.append(torch.logsumexp(s, -1).T)
        out.append(torch.einsum("hij,jhd->ihd", torch.softmax(s, -1), vv))
    return torch.cat(out), torch.cat(lse)


def write_attention(store):
    cases = {
        "q4kv2d8": (4, 2, 8, [0, 5, 6, 15], None),
        "q3kv1d10": (3, 1, 10, [0, 1, 12], None),
        "q2kv2d6": (2, 2, 6, [0, 9], None),
        "q4kv1d4w3": (4, 1, 4, [0, 8, 9, 14], 3),
    }
    for case, (hq, hkv, d, bounds, window) in cases.items():
        op = Op(store, f"attention.{case}")
        t = bounds[-1]
        q, k, v = (op.input(n, t, h, d) for n, h in (("q", hq), ("k", hkv), ("v", hkv)))
        op.put("bounds", bounds)
        op.put("window", [window or 0])
        o, lse = attention(q, k, v, bounds, window or t)
        op.put("lse", lse)
        op.backward({"o": o}, {"q": q, "k": k, "v": v})


def route(logits, k, renorm):
    """Softmax over all experts, the k largest in descending order, renormalised."""
    p = torch.softmax(logits, -1)
    w, ids = p.topk(k, -1)
    return ids, w / w.sum(-1, keepdim=True) if renorm else w


def write_router(store):
    for e, k, renorm in ((5, 3, True), (7, 1, False), (7, 1, True), (10, 4, False),
                         (3, 3, True), (3, 3, False)):
        op = Op(store, f"router.e{e}k{k}{'renorm' if renorm else ''}")
        logits = op.input("logits", 11, e, scale=2.0)
        ids, w = route(logits, k, renorm)
        op.put("ids", ids)
        op.backward({"weights": w}, {"logits": logits})


def write_router_ties(store):
    """Equal logits: the lower id first, which torch.topk does not promise."""
    op = Op(store, "router.ties")
    logits = torch.tensor([[1, 2, 2, 1, 2, 0], [3, 3, 3, 3, 3, 3], [0, 5, 1, 1, 1, 1],
                           [-1, -2, -1, -3, -1, -1]], dtype=torch.float64)
    op.put("logits", logits)
    ids = logits.sort(dim=-1, descending=True, stable=True).indices[:, :3]
    op.put("ids", ids)
    op.put("weights", torch.softmax(logits, -1).gather(-1, ids))


def write_balance(store):
    """Auxiliary losses of two layers; values and gradients are for coefficient 1."""
    e, k, bounds = 7, 2, [0, 4, 5, 13]
    t = bounds[-1]

    op = Op(store, "aux_micro.e7k2")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    count = sum(F.one_hot(route(x, k, False)[0], e).sum((0, 1)) for x in layers)
    prob = sum(torch.softmax(x, -1).sum(0) for x in layers)
    rows = 2 * t
    value = e * (count / rows * (prob / rows)).sum()
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})

    op = Op(store, "aux_sequence.e7k2")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    op.put("bounds", bounds)
    value = 0.0
    for x in layers:
        ids = route(x, k, False)[0]
        for a, b in zip(bounds[:-1], bounds[1:]):
            f = F.one_hot(ids[a:b], e).sum((0, 1)) * e / (k * (b - a))
            value = value + (f * torch.softmax(x[a:b], -1).mean(0)).sum()
    value = value / (len(bounds) - 1)
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})

    op = Op(store, "zloss.e7")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    value = sum(torch.logsumexp(x, -1).pow(2).mean() for x in layers)
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})


def write_experts(store):
    op = Op(store, "swiglu.r9f7")
    gate, up = op.input("gate", 9, 7, scale=3.0), op.input("up", 9, 7)
    op.backward({"y": F.silu(gate) * up}, {"gate": gate, "up": up})

    # Expert 2 of 5 receives no row.
    t, h, f, e, k = 11, 10, 6, 5, 3
    op = Op(store, "moe.e5k3")
    x = op.input("x", t, h)
    wg, wu = (op.input(n, e, f, h, scale=0.4) for n in ("w_gate", "w_up"))
    wd = op.input("w_down", e, h, f, scale=0.4)
    logits = torch.randn((t, e), generator=op.gen)
    logits[:, 2] = -100.0
    ids = logits.topk(k, -1).indices
    op.put("ids", ids)
    weights = op.input("weights", t, k, scale=0.2, shift=0.4)
    y = torch.zeros_like(x)
    for n in range(e):
        row, slot = torch.where(ids == n)
        inner = F.silu(x[row] @ wg[n].T) * (x[row] @ wu[n].T)
        y = y.index_add(0, row, (inner @ wd[n].T) * weights[row, slot, None])
    op.backward({"y": y}, {"x": x, "weights": weights, "w_gate": wg, "w_up": wu,
                           "w_down": wd})


def write_head(store):
    op = Op(store, "embedding.v11h6")
    w = op.input("w", 11, 6)
    ids = torch.tensor([3, 0, 10, 3, 3, 7])
    op.put("ids", ids)
    op.backward({"y": w[ids]}, {"w": w})

    # dlogits and value are of sum / n with n larger than the targets at hand, as it is
    # when the step has other micro-batches.
    targets = torch.tensor([4, IGNORE, 0, 16, 16, IGNORE, 9])
    n = 12
    op = Op(store, "cross_entropy.t7v17")
    logits = op.input("logits", 7, 17, scale=4.0)
    op.put("targets", targets)
    op.put("n", [n])
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    op.put("token_loss", losses)
    op.put("value", (losses.sum() / n).reshape(1))
    op.gradients(losses.sum() / n, {"logits": logits})

    op = Op(store, "head_cross_entropy.t7h6v17")
    x, w = op.input("x", 7, 6, scale=2.0), op.input("w", 17, 6)
    op.put("targets", targets)
    op.put("n", [n])
    value = F.cross_entropy(x @ w.T, targets, ignore_index=IGNORE, reduction="sum") / n
    op.put("value", value.reshape(1))
    op.gradients(value, {"x": x, "w": w})


def check_against_published():
    """The formulas above are those of the published model code."""
    from transformers.models.qwen3_moe import modeling_qwen3_moe as published

    gen = torch.Generator().manual_seed(1)
    x = torch.randn((6, 3, 8), generator=gen, dtype=torch.float64)
    positions = torch.tensor([0, 1, 2, 0, 1, 40])
    freq = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angle = torch.cat([positions[:, None] * freq] * 2, -1)
    want, _ = published.apply_rotary_pos_emb(x, x, angle.cos(), angle.sin())
    assert torch.allclose(rope(x, positions, 1e4), want, atol=1e-14)
    norm = published.Qwen3MoeRMSNorm(8)
    assert torch.allclose(rmsnorm(x, 1.0, 1e-6), norm(x), atol=1e-6)
    logits = tuple(torch.randn((9, 5), generator=gen) for _ in range(2))
    want = published.load_balancing_loss_func(logits, 5, 2)
    count = sum(F.one_hot(route(t, 2, False)[0], 5).sum((0, 1)) for t in logits)
    prob = sum(torch.softmax(t, -1).sum(0) for t in logits)
    assert torch.allclose(5 * (count / 18 * (prob / 18)).sum(), want)


def write_ops(path):
    check_against_published()
    store = {}
    for write in (write_norms, write_rope, write_attention, write_router,
                  write_router_ties, write_balance, write_experts, write_head):
        write(store)
    assert all(t.isfinite().all() for t in store.values())
    save_file(store, path)
    assert path.stat().st_size < 300_000
    print(f"{path.name}: {len(store)} tensors, {path.stat().st_size} bytes")
