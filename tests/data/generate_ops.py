# SPDX-License-Identifier: Apache-2.0
"""Goldens of single ops: inputs are float32 values, the results are computed from
them in double (backward by autograd) and rounded once to float32.

Called by generate_goldens.py. Names are <op>.<case>.<tensor>; README.md lists them.
Shapes, orders and names are those of src/backend/ops.h; the formulas are held against
the published model code first.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from golden_model import seed_of

MASKED = -1  # a target that does not count


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


def rstd(x, eps):
    return torch.rsqrt(x.pow(2).mean(-1) + eps)


def rope(x, positions, inv_freq):
    """[T, heads, D]; pairs are (i, i + D/2)."""
    d = x.shape[-1]
    angle = positions.double()[:, None] * inv_freq.double()
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def write_norms(store):
    for case, (t, h, residual) in {"t7h13": (7, 13, False), "t1h24": (1, 24, False),
                                   "t5h9res": (5, 9, True)}.items():
        op = Op(store, f"rmsnorm.{case}")
        x, w = op.input("x", t, h, scale=2.0), op.input("w", h, scale=0.2, shift=1.0)
        op.put("eps", torch.tensor([1e-6]))
        outputs, total = {}, x
        if residual:
            total = x + op.input("add", t, h)
            # dsum is what flows around the norm: `dres` of the backward op.
            outputs["sum"] = total
        outputs["y"] = rmsnorm(total, w, 1e-6)
        op.put("rstd", rstd(total, 1e-6))
        op.backward(outputs, {"x": x, "w": w})


def write_qkv_rope(store):
    positions = torch.tensor([0, 1, 2, 3, 0, 0, 1, 40])
    t, eps = len(positions), 1e-6
    cases = (("head", 3, 1, 10, 0.0), ("none", 2, 2, 6, 0.0), ("full", 4, 2, 8, 1.25))
    for kind, nq, nk, d, clip in cases:
        op = Op(store, f"qkv_rope.{kind}")
        qkv = op.input("qkv", t, (nq + 2 * nk) * d)
        inv_freq = (10000.0 ** (-torch.arange(0, d, 2) / d)).float()
        op.put("pos", positions)
        op.put("inv_freq", inv_freq)
        op.put("eps", torch.tensor([eps]))
        op.put("clip", torch.tensor([clip]))
        parts = list(qkv.split([nq * d, nk * d, nk * d], -1))
        inputs, kept = {"qkv": qkv}, []
        for i, (key, heads) in enumerate((("q_weight", nq), ("k_weight", nk))):
            if kind == "none":
                continue
            width = d if kind == "head" else heads * d
            w = inputs[key] = op.input(key, width, scale=0.2, shift=1.0)
            x = parts[i].reshape(t, -1, width)
            kept.append(rstd(x, eps))
            parts[i] = rmsnorm(x, w, eps)
        if kept:
            op.put("rstd", torch.cat(kept, -1))
        q, k, v = (x.reshape(t, -1, d) for x in parts)
        if clip:
            assert (q.abs() > clip).any() and (k.abs() > clip).any()
            q, k, v = (x.clamp(-clip, clip) for x in (q, k, v))
        q, k = rope(q, positions, inv_freq), rope(k, positions, inv_freq)
        op.backward({"q": q, "k": k, "v": v}, inputs)


def attention(q, k, v, seg, window):
    """Causal inside each document; a token sees itself and window - 1 before it."""
    out, lse = [], []
    group = q.shape[1] // k.shape[1]
    for a, b in zip(seg[:-1], seg[1:]):
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
        "q4kv2d8": (4, 2, 8, [0, 5, 5, 6, 15], None),
        "q3kv1d10": (3, 1, 10, [0, 1, 12], None),
        "q2kv2d6": (2, 2, 6, [0, 9], None),
        "q4kv1d4w3": (4, 1, 4, [0, 8, 9, 14], 3),
    }
    for case, (nq, nk, d, seg, window) in cases.items():
        op = Op(store, f"attention.{case}")
        t = seg[-1]
        q, k, v = (op.input(n, t, h, d) for n, h in (("q", nq), ("k", nk), ("v", nk)))
        op.put("seg", seg)
        op.put("window", [window or 0])
        o, lse = attention(q, k, v, seg, window or t)
        op.put("lse", lse)
        op.backward({"o": o}, {"q": q, "k": k, "v": v})


def top_k(p, k):
    """Ids of the k largest, ties to the lower id, in ascending id."""
    return p.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values


def write_router(store):
    cases = ((5, 3, True, False), (7, 1, False, False), (7, 1, True, False),
             (10, 4, False, True), (9, 2, True, True), (3, 3, True, False),
             (3, 3, False, False))
    for e, k, renorm, pooled in cases:
        name = f"e{e}k{k}{'renorm' if renorm else ''}{'pool' if pooled else ''}"
        op = Op(store, f"router.{name}")
        t = 11
        logits = op.input("logits", t, e, scale=2.0)
        pool = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2, -1, -1] if pooled else [0] * t)
        op.put("pool", pool)
        write_routing(op, logits, pool, k, renorm)


def write_routing(op, logits, pool, k, renorm):
    t, e = logits.shape
    real, pools = (pool >= 0), int(pool.max()) + 1
    p, lse = torch.softmax(logits, -1), torch.logsumexp(logits, -1)
    ids = top_k(p.detach(), k)
    chosen = p.gather(-1, ids)
    weights = chosen / chosen.sum(-1, keepdim=True) if renorm else chosen
    op.put("probs", p[real])
    op.put("lse", lse[real])
    op.put("ids", torch.where(real[:, None], ids, -1))
    weights = weights * real[:, None]
    count = torch.zeros((pools, e), dtype=torch.int32)
    prob_sum = torch.zeros((pools, e), dtype=torch.float64)
    for n in range(pools):
        count[n] = F.one_hot(ids[pool == n], e).sum((0, 1))
        prob_sum[n] = p[pool == n].sum(0)
    op.put("count", count)
    op.put("prob_sum", prob_sum)
    op.put("z_sum", lse[real].pow(2).sum().reshape(1))
    op.put("weights", weights)
    dweights = op.input("dweights", t, k)
    prob_grad = op.input("prob_grad", pools, e, scale=0.3)
    op.put("z_coef", torch.tensor([0.125]))
    main = (weights * dweights).sum()
    aux = (prob_grad[pool[real]] * p[real]).sum() + 0.125 * lse[real].pow(2).sum()
    # dlogits: by dweights alone; dlogits_all: with prob_grad and z_coef as well.
    op.put("dlogits", torch.autograd.grad(main, logits, retain_graph=True)[0])
    op.put("dlogits_all", torch.autograd.grad(main + aux, logits)[0])


def write_router_ties(store):
    op = Op(store, "router.ties")
    logits = torch.tensor([[1, 2, 2, 1, 2, 0], [3, 3, 3, 3, 3, 3], [0, 5, 1, 1, 1, 1],
                           [-1, -2, -1, -3, -1, -1]], dtype=torch.float64)
    op.put("logits", logits)
    ids = top_k(logits, 3)
    op.put("ids", ids)
    op.put("weights", torch.softmax(logits, -1).gather(-1, ids))


def write_balance(store):
    """Auxiliary losses of two layers; values and gradients are for coefficient 1."""
    e, k, seg = 7, 2, [0, 4, 5, 13]
    t = seg[-1]

    op = Op(store, "aux_micro.e7k2")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    count = sum(F.one_hot(top_k(x, k), e).sum((0, 1)) for x in layers)
    prob = sum(torch.softmax(x, -1).sum(0) for x in layers)
    rows = 2 * t
    value = e * (count / rows * (prob / rows)).sum()
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})

    op = Op(store, "aux_sequence.e7k2")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    op.put("seg", seg)
    value = 0.0
    for x in layers:
        ids = top_k(x, k)
        for a, b in zip(seg[:-1], seg[1:]):
            f = F.one_hot(ids[a:b], e).sum((0, 1)) * e / (k * (b - a))
            value = value + (f * torch.softmax(x[a:b], -1).mean(0)).sum()
    value = value / (len(seg) - 1)
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})

    op = Op(store, "zloss.e7")
    layers = [op.input(f"logits.{i}", t, e, scale=2.0) for i in range(2)]
    value = sum(torch.logsumexp(x, -1).pow(2).mean() for x in layers)
    op.put("value", value.reshape(1))
    op.gradients(value, {f"logits.{i}": x for i, x in enumerate(layers)})


def write_experts(store):
    op = Op(store, "swiglu.r9f7")
    h, w = op.input("h", 9, 14, scale=2.0), op.input("w", 9)
    gate, up = h.chunk(2, -1)
    a = F.silu(gate) * up
    op.put("a", a)
    da0 = op.input("da0", 9, 7)
    op.put("aw", w[:, None] * a)
    op.gradients((w[:, None] * a * da0).sum(), {"h": h, "w": w})

    # Expert 2 of 5 receives no row.
    t, h, f, e, k = 11, 10, 6, 5, 3
    op = Op(store, "moe.e5k3")
    x = op.input("x", t, h)
    wg, wu = (op.input(n, e, f, h, scale=0.4) for n in ("w_gate", "w_up"))
    wd = op.input("w_down", e, h, f, scale=0.4)
    logits = torch.randn((t, e), generator=op.gen)
    logits[:, 2] = -100.0
    ids = top_k(logits, k)
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

    # The gradient is of sum / n with n larger than the targets at hand, as it is when
    # the step has other micro-batches.
    targets = torch.tensor([4, MASKED, 0, 16, 16, MASKED, 9])
    n = 12
    op = Op(store, "cross_entropy.t7v17")
    logits = op.input("logits", 7, 17, scale=4.0)
    op.put("targets", targets)
    op.put("scale", torch.tensor([1 / n]))
    losses = F.cross_entropy(logits, targets, ignore_index=MASKED, reduction="none")
    op.put("loss", losses)
    op.gradients(losses.sum() / n, {"logits": logits})

    op = Op(store, "head.t7h6v17")
    x, w = op.input("x", 7, 6, scale=2.0), op.input("w", 17, 6)
    op.put("targets", targets)
    op.put("scale", torch.tensor([1 / n]))
    losses = F.cross_entropy(x @ w.T, targets, ignore_index=MASKED, reduction="none")
    op.put("loss", losses)
    op.gradients(losses.sum() / n, {"x": x, "w": w})


def check_against_published():
    """The formulas above are those of the published model code."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe import modeling_qwen3_moe as published

    gen = torch.Generator().manual_seed(1)
    x = torch.randn((6, 3, 8), generator=gen, dtype=torch.float64)
    positions = torch.tensor([0, 1, 2, 0, 1, 40])
    freq = 1e4 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angle = torch.cat([positions[:, None] * freq] * 2, -1)
    want, _ = published.apply_rotary_pos_emb(x, x, angle.cos(), angle.sin())
    assert torch.allclose(rope(x, positions, freq), want, atol=1e-14)
    norm = published.Qwen3MoeRMSNorm(8)
    assert torch.allclose(rmsnorm(x, 1.0, 1e-6), norm(x), atol=1e-6)
    logits = tuple(torch.randn((9, 5), generator=gen) for _ in range(2))
    want = published.load_balancing_loss_func(logits, 5, 2)
    count = sum(F.one_hot(top_k(t, 2), 5).sum((0, 1)) for t in logits)
    prob = sum(torch.softmax(t, -1).sum(0) for t in logits)
    assert torch.allclose(5 * (count / 18 * (prob / 18)).sum(), want)
    router = published.Qwen3MoeTopKRouter(Qwen3MoeConfig(
        hidden_size=6, num_experts=5, num_experts_per_tok=3, norm_topk_prob=True))
    router.weight.data = torch.randn((5, 6), generator=gen)
    logits, weights, ids = router(torch.randn((9, 6), generator=gen))
    ids, order = ids.sort(-1)
    assert torch.equal(top_k(logits, 3), ids)
    p = torch.softmax(logits, -1).gather(-1, ids)
    assert torch.allclose(p / p.sum(-1, keepdim=True), weights.gather(-1, order))


def write_ops(path):
    check_against_published()
    store = {}
    for write in (write_norms, write_qkv_rope, write_attention, write_router,
                  write_router_ties, write_balance, write_experts, write_head):
        write(store)
    assert all(t.isfinite().all() for t in store.values())
    save_file(store, path)
    assert path.stat().st_size < 300_000
    print(f"{path.name}: {len(store)} tensors, {path.stat().st_size} bytes")
