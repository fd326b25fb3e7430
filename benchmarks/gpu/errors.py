#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Error of every op of the table beside PyTorch's, on the same input.

    SLUICE_MODULE_DIR=DIR python3 errors.py [--small] [OP ...]

Both are compared with the same formula in double, computed from the inputs as they are in
bf16 or fp32; the error is the norm of the difference over the norm. One JSON line an
output: bf16 holds when our error is at most 1.5 times PyTorch's, or of one rounding of the
exact result where that is more; fp32 when it is under 1e-5; what is only moved or rounded
once when the bits are right. Gradients that Sluice sums in fp32 are compared with
PyTorch's bf16 ones. Exit code 1 if a line does not hold or an op has no line here.
--small: small shapes, for the CPU (see module.py).
"""
import argparse
import json
import math
import sys

import torch
import torch.nn.functional as F

import module

BF, F32, F64 = torch.bfloat16, torch.float32, torch.float64
NUMBER = {F32: 0, BF: 1}
MOST, FP32 = 1.5, 1e-5
B = module.open_backend()
DEVICE = "cpu" if isinstance(B, module.Oracle) else "cuda"
# Indices alone, no number to round: compared with kernels/ref bit by bit in tests/op.
INDICES = {"dispatch_index", "expert_index"}
done, failed = set(), []


def normal(*shape, dt=BF, scale=1.0):
    return (scale * torch.randn(*shape, device=DEVICE)).to(dt)


def empty(*shape, dt=BF):
    return torch.full(shape, 7, device=DEVICE, dtype=dt)


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def run(op, on=B, **fields):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    on.run(op, **fields)
    on.sync()
    done.add(op)


def error(x, want):
    d = (x.to(F64) - want).norm()
    n = want.norm()
    return float(d / n) if n > 0 else float(d)


def compare(op, output, shape, dt, ours, want, theirs=None):
    """want: double. theirs: PyTorch's in dt; None: there is none, or it is not of use."""
    line = {"part": "error", "op": op, "output": output, "shape": shape,
            "dtype": "bf16" if dt is BF else "fp32"}
    assert ours.numel() == want.numel(), (op, output)
    ours = ours.reshape(want.shape)
    e = error(ours, want)
    t = error(theirs.reshape(want.shape), want) if theirs is not None else None
    line.update(sluice=e, torch=t)
    if dt is BF:
        floor = error(want.to(BF), want)
        line.update(rounding=floor, ratio=e / max(t or 0, floor, 1e-30), most=MOST)
        line["pass"] = math.isfinite(e) and e <= MOST * max(t or 0, floor)
    else:
        line.update(most=FP32)
        line["pass"] = e <= FP32  # NaN is not
    say(line)


def same(op, output, shape, dt, ours, want):
    ok = torch.equal(ours.reshape(want.shape), want)
    say({"part": "error", "op": op, "output": output, "shape": shape,
         "dtype": "bf16" if dt is BF else "fp32", "bits": ok, "pass": ok})


def say(line):
    if not line["pass"]:
        failed.append((line["op"], line["output"]))
    print(json.dumps({k: float("%.3g" % v) if type(v) is float else v
                      for k, v in line.items()}), flush=True)


def with_grads(f, dy, *inputs):
    """f's outputs and the gradients of its inputs, in the type of dy and inputs."""
    x = [t.detach().clone().requires_grad_() for t in inputs]
    y = f(*x)
    return [y.detach()] + [g.detach() for g in torch.autograd.grad(y, x, dy)]


def double(*tensors):
    return [t.to(F64) for t in tensors]


# -- plain memory ------------------------------------------------------------------------


def memory(s, dt):
    n = s["T"] * s["H"] + 3
    a, b = normal(n, dt=dt), normal(n, dt=dt)
    y = empty(n, dt=dt)
    run("copy", dst=y, src=a, bytes=n * a.element_size())
    same("copy", "dst", s["name"], dt, y, a)
    run("zero", dst=y, bytes=n * a.element_size())
    same("zero", "dst", s["name"], dt, y, torch.zeros_like(y))
    run("add", y=y, a=a, b=b, n=n, dtype=NUMBER[dt])
    same("add", "y", s["name"], dt, y, a + b)
    alpha = 0.3
    x = a.clone()
    run("scale", x=x, alpha=alpha, n=n, dtype=NUMBER[dt])
    compare("scale", "x", s["name"], dt, x, a.to(F64) * float(torch.tensor(alpha)),
            a * alpha)
    out = empty(1, dt=F64)
    run("sum_squares", out=out, x=a, n=n, dtype=NUMBER[dt], acc=False)
    compare("sum_squares", "out", s["name"], dt, out, a.to(F64).square().sum()[None],
            (a * a).sum()[None])
    f = normal(n, dt=F32)
    for source, low in ((f, torch.empty_like(f, dtype=BF)), (f.to(BF), torch.empty_like(f))):
        run("cast", dst=low, dst_dtype=NUMBER[low.dtype], src=source,
            src_dtype=NUMBER[source.dtype], n=n)
        same("cast", "dst", s["name"], low.dtype, low, source.to(low.dtype))
    if dt is F32:
        run("sum", out=out, x=f, n=n, acc=False)
        compare("sum", "out", s["name"], F32, out, f.to(F64).sum()[None], f.sum()[None])


def embedding(s, dt):
    T, H, V = s["T"], s["H"], s["V"]
    w, dy = normal(V, H, dt=dt), normal(T, H, dt=dt)
    ids = torch.randint(0, V, (T,), device=DEVICE)
    ids[: T // 4] = ids[0]  # one word often
    y, dw, i = empty(T, H, dt=dt), torch.zeros(V, H, device=DEVICE), ids.int()
    run("embedding_forward", y=y, w=w, ids=i, T=T, H=H, V=V, dtype=NUMBER[dt])
    same("embedding_forward", "y", s["name"], dt, y, w[ids])
    run("embedding_backward", dw=dw, dy=dy, ids=i, T=T, H=H, V=V, dtype=NUMBER[dt])
    look = lambda w: F.embedding(ids, w)
    _, want = with_grads(look, dy.to(F64), w.to(F64))
    _, theirs = with_grads(look, dy, w)
    compare("embedding_backward", "dw", s["name"], dt, dw, want, theirs)


def rmsnorm(s, dt):
    T, H, eps = s["T"], s["H"], 1e-6
    x, add, dy, dres = (normal(T, H, dt=dt) for _ in range(4))
    w = (1 + normal(H, dt=F32, scale=0.2)).to(dt)
    y, total, rstd = empty(T, H, dt=dt), empty(T, H, dt=dt), empty(T, dt=F32)
    run("rmsnorm_forward", y=y, sum=total, rstd=rstd, x=x, add=add, w=w, T=T, H=H, eps=eps,
        dtype=NUMBER[dt])
    norm = lambda x, w: F.rms_norm(x, (H,), w, eps)
    same("rmsnorm_forward", "sum", s["name"], dt, total, x + add)
    dx, dw = empty(T, H, dt=dt), torch.zeros(H, device=DEVICE)
    run("rmsnorm_backward", dx=dx, dw=dw, dy=dy, x=total, w=w, dres=dres, rstd=rstd, T=T,
        H=H, dtype=NUMBER[dt])
    want = with_grads(norm, dy.to(F64), *double(total, w))
    theirs = with_grads(norm, dy, total, w)
    compare("rmsnorm_forward", "y", s["name"], dt, y, want[0], theirs[0])
    exact = (total.to(F64).square().mean(1) + eps).rsqrt()
    compare("rmsnorm_forward", "rstd", s["name"], F32, rstd, exact)
    compare("rmsnorm_backward", "dx", s["name"], dt, dx, want[1] + dres.to(F64),
            theirs[1] + dres)
    compare("rmsnorm_backward", "dw", s["name"], dt, dw, want[2], theirs[2])


# -- products ----------------------------------------------------------------------------


def matmul(s, dt):
    M, N, K = s["T"], s["F"] + 8, s["H"]
    x, w, dy = normal(M, K, dt=dt), normal(N, K, dt=dt), normal(M, N, dt=dt)
    y, dx = empty(M, N, dt=dt), empty(M, K, dt=dt)
    dw, low = torch.zeros(N, K, device=DEVICE), empty(N, K, dt=dt)
    t = NUMBER[dt]
    run("matmul", c=y, a=x, b=w, M=M, N=N, K=K, trans_b=True, dtype=t, c_dtype=t)
    run("matmul", c=dx, a=dy, b=w, M=M, N=K, K=N, dtype=t, c_dtype=t)
    run("matmul", c=dw, a=dy, b=x, M=N, N=K, K=M, trans_a=True, acc=True, dtype=t, c_dtype=0)
    run("matmul", c=low, a=dy, b=x, M=N, N=K, K=M, trans_a=True, dtype=t, c_dtype=t)
    X, W, G = double(x, w, dy)
    for name, ours, want, theirs in (
            ("forward", y, X @ W.t(), x @ w.t()), ("dgrad", dx, G @ W, dy @ w),
            ("wgrad, added to fp32", dw, G.t() @ X, dy.t() @ x),
            ("wgrad", low, G.t() @ X, dy.t() @ x)):
        compare("matmul", name, s["name"], dt, ours, want, theirs)


def swiglu(s, dt):
    R, n = s["T"], s["F"]
    h, da = normal(R, 2 * n, dt=dt), normal(R, n, dt=dt)
    w = torch.rand(R, device=DEVICE).to(BF).float()
    a, dh, aw, dw = (empty(R, n, dt=dt), empty(R, 2 * n, dt=dt), empty(R, n, dt=dt),
                     empty(R, dt=F32))
    run("swiglu_forward", a=a, h=h, rows=R, F=n, dtype=NUMBER[dt])
    run("swiglu_backward", dh=dh, aw=aw, dw=dw, da0=da, h=h, w=w, rows=R, F=n,
        dtype=NUMBER[dt])
    plain = lambda h: F.silu(h[:, :n]) * h[:, n:]
    weighted = lambda h, w: plain(h) * w[:, None]
    want = with_grads(weighted, da.to(F64), *double(h, w))
    theirs = with_grads(weighted, da, h, w.to(dt))
    compare("swiglu_forward", "a", s["name"], dt, a, plain(h.to(F64)), plain(h))
    for name, ours, i in (("aw", aw, 0), ("dh", dh, 1), ("dw", dw, 2)):
        compare("swiglu_backward", name, s["name"], dt, ours, want[i], theirs[i])


# -- attention ---------------------------------------------------------------------------


def qkv_rope(s, dt):
    T, NQ, NK, D, eps = s["T"], s["heads"], s["kv_heads"], s["D"], 1e-6
    pos = torch.arange(T, device=DEVICE) % 500
    inv = 1 / 10000 ** (torch.arange(0, D, 2, device=DEVICE).float() / D)
    angle = pos[:, None].float() * inv
    # among few values alone: one that fp32 puts on the other side of the clip counts much
    some = 1.5 if T < 1000 else 0.0
    for number, norm, clip in ((0, "none", 0.0), (1, "head", 0.0), (2, "full", some)):
        qkv = normal(T, (NQ + 2 * NK) * D, dt=dt)
        dq, dk, dv = (normal(T, n * D, dt=dt) for n in (NQ, NK, NK))
        wide = {0: (0, 0), 1: (D, D), 2: (NQ * D, NK * D)}[number]
        qw, kw = ((1 + normal(n, dt=F32, scale=0.2)).to(dt) for n in wide)

        def turned(x, w, heads):
            if number:
                x = x.reshape(T, -1, w.numel())
                x = F.rms_norm(x, (w.numel(),), w, eps)
            x = x.reshape(T, heads, D)
            x = x.clamp(-clip, clip) if clip else x
            # the angle in fp32, as the op has it
            a = torch.cat((angle, angle), 1).to(F64)[:, None]
            half = torch.cat((-x[..., D // 2:], x[..., :D // 2]), 2)
            return (x * a.cos().to(x.dtype) + half * a.sin().to(x.dtype)).reshape(T, -1)

        def whole(qkv, qw, kw):
            q, k, v = qkv.split((NQ * D, NK * D, NK * D), 1)
            v = v.clamp(-clip, clip) if clip else v
            return torch.cat((turned(q, qw, NQ), turned(k, kw, NK), v), 1)

        q, k, v = (empty(T, n * D, dt=dt) for n in (NQ, NK, NK))
        dqkv = empty(*qkv.shape, dt=dt)
        dqw, dkw = (torch.zeros(n, device=DEVICE) for n in wide)
        rstd = empty(T, NQ + NK if number == 1 else 2, dt=F32)
        same_args = dict(q_weight=qw, k_weight=kw, rstd=rstd, pos=pos.int(), inv_freq=inv,
                         T=T, NQ=NQ, NK=NK, D=D, eps=eps, clip=clip, norm=number,
                         dtype=NUMBER[dt])
        keep = same_args["pos"]
        run("qkv_rope_forward", q=q, k=k, v=v, qkv=qkv, **same_args)
        run("qkv_rope_backward", dqkv=dqkv, dq_weight=dqw, dk_weight=dkw, dq=dq, dk=dk,
            dv=dv, qkv=qkv, **same_args)
        del keep
        dy = torch.cat((dq, dk, dv), 1)
        if number:
            f, inputs = whole, (qkv, qw, kw)
        else:
            f, inputs = (lambda qkv: whole(qkv, None, None)), (qkv,)
        want = with_grads(f, dy.to(F64), *double(*inputs))
        theirs = with_grads(f, dy, *inputs)
        name = f"{s['name']}, norm {norm}"
        compare("qkv_rope_forward", "q, k, v", name, dt, torch.cat((q, k, v), 1), want[0],
                theirs[0])
        compare("qkv_rope_backward", "dqkv", name, dt, dqkv, want[1], theirs[1])
        if number:
            compare("qkv_rope_backward", "dq_weight", name, dt, dqw, want[2], theirs[2])
            compare("qkv_rope_backward", "dk_weight", name, dt, dkw, want[3], theirs[3])


def documents(T):
    lens = [T // 2, 1, T // 8 + 3, 0]
    return lens + [T - sum(lens)]


def many_documents(T):
    lens = [1 + i * 7919 % (T // 24) for i in range(20)]
    return lens + [T - sum(lens)]


def attention(s, dt):
    T, D = s["rows"] * s["S"], s["D"]
    rows, packed = [s["S"]] * s["rows"], documents(T)
    # scores of one head of the longest fit in either of the two streams, no group of heads
    room = 1 << (max(rows + packed) - 1).bit_length()
    little = module.open_backend(4 * room * room) if dt is BF else B
    for NQ, NK, lens, window, name, on in (
            (s["heads"], s["heads"], rows, 0, "whole rows", B),
            (s["heads"], s["kv_heads"], rows, 0, "grouped heads", B),
            (s["heads"], s["kv_heads"], rows, 0, "grouped heads, one at a time", little),
            (s["heads"], s["kv_heads"], packed, 0, "packed", B),
            (s["heads"], s["kv_heads"], packed, 0, "packed, one head at a time", little),
            (s["heads"], s["heads"], many_documents(T), 0, "many documents", B),
            (s["heads"], s["kv_heads"], rows, s["S"] // 3, "window", B)):
        q, k, v, do = (normal(T, n, D, dt=dt) for n in (NQ, NK, NK, NQ))
        o, dq, dk, dv = (empty(*x.shape, dt=dt) for x in (q, q, k, v))
        lse, seg = empty(T, NQ, dt=F32), ints([0] + lens).cumsum(0).int()
        bounds = seg.cpu()
        args = dict(q=q, k=k, v=v, o=o, lse=lse, seg=seg, seg_host=bounds, T=T, NQ=NQ,
                    NK=NK, D=D, n_seg=len(lens), max_len=max(lens), window=window,
                    scale=D**-0.5, dtype=NUMBER[dt])
        run("attention_forward", on=on, **args)
        run("attention_backward", on=on, dq=dq, dk=dk, dv=dv, d_o=do, **args)

        def each(q, k, v):
            out, at = [], 0
            for n in filter(None, lens):
                x = (t[at:at + n].transpose(0, 1)[None] for t in (q, k, v))
                i = torch.arange(n, device=DEVICE)
                seen = i[:, None] - i
                mask = None if not window else (seen >= 0) & (seen < window)
                y = F.scaled_dot_product_attention(
                    *x, attn_mask=mask, is_causal=mask is None, enable_gqa=NQ != NK)
                out.append(y[0].transpose(0, 1))
                at += n
            return torch.cat(out)

        want = with_grads(each, do.to(F64), *double(q, k, v))
        theirs = with_grads(each, do, q, k, v)
        name = f"{s['name']}, {name}"
        compare("attention_forward", "o", name, dt, o, want[0], theirs[0])
        for grad, ours, i in (("dq", dq, 1), ("dk", dk, 2), ("dv", dv, 3)):
            compare("attention_backward", grad, name, dt, ours, want[i], theirs[i])
        compare("attention_forward", "lse", name, F32, lse, log_sums(q, k, lens, window))


def log_sums(q, k, lens, window):
    out, at = [], 0
    group = q.shape[1] // k.shape[1]
    for n in filter(None, lens):
        Q, K = double(q[at:at + n], k[at:at + n].repeat_interleave(group, 1))
        scores = torch.einsum("thd,uhd->thu", Q, K) * Q.shape[2] ** -0.5
        i = torch.arange(n, device=DEVICE)
        gone = i[:, None] < i
        if window:
            gone |= i[:, None] - i >= window
        out.append(scores.masked_fill(gone[:, None], -math.inf).logsumexp(2))
        at += n
    return torch.cat(out)


# -- router and experts ------------------------------------------------------------------


def router(s, dt):
    if dt is BF:
        return  # fp32 alone
    T, E, K, P = s["T"], s["E"], s["K"], 1
    logits, dweights = normal(T, E, dt=F32), normal(T, K, dt=F32)
    probs, weights, lse = empty(T, E, dt=F32), empty(T, K, dt=F32), empty(T, dt=F32)
    ids, count = ints([[0] * K] * T), ints([[0] * E])
    psum, z, dlogits = empty(P, E, dt=F32), empty(1, dt=F32), empty(T, E, dt=F32)
    run("router_forward", probs=probs, weights=weights, lse=lse, ids=ids, count=count,
        prob_sum=psum, z_sum=z, logits=logits, T=T, E=E, K=K, P=P, renorm=True)
    run("router_backward", dlogits=dlogits, probs=probs, weights=weights, lse=lse,
        dweights=dweights, ids=ids, T=T, E=E, K=K, P=P, renorm=True)
    chosen = logits.topk(K, 1).indices.sort(1).values
    same("router_forward", "ids", s["name"], F32, ids, chosen.int())
    same("router_forward", "count", s["name"], F32, count,
         torch.bincount(chosen.flatten(), minlength=E).int()[None])

    def weigh(x):
        w = x.softmax(1).gather(1, chosen)
        return w / w.sum(1, keepdim=True)

    want = with_grads(weigh, dweights.to(F64), logits.to(F64))
    theirs = with_grads(weigh, dweights, logits)
    exact = logits.to(F64)
    for name, ours, w, t in (
            ("probs", probs, exact.softmax(1), logits.softmax(1)),
            ("lse", lse, exact.logsumexp(1), logits.logsumexp(1)),
            ("prob_sum", psum, exact.softmax(1).sum(0)[None], logits.softmax(1).sum(0)[None]),
            ("z_sum", z, exact.logsumexp(1).square().sum()[None],
             logits.logsumexp(1).square().sum()[None]),
            ("weights", weights, want[0], theirs[0])):
        compare("router_forward", name, s["name"], F32, ours, w, t)
    compare("router_backward", "dlogits", s["name"], F32, dlogits, want[1], theirs[1])
    out, scale = empty(E, dt=F32), 0.37
    run("balance", out=out, count=count, rows=P, E=E, scale=scale, pooled=True)
    compare("balance", "out", s["name"], F32, out, scale * count.to(F64).sum(0))


def grouped_mm(x, w, ends):
    """x [rows, K] of experts one after another, w [E, K, N]."""
    if DEVICE == "cuda" and x.dtype is BF:
        return torch._grouped_mm(x, w, ends)
    parts, at = [], 0
    for e, end in enumerate(ends.tolist()):
        parts.append(x[at:end] @ w[e])
        at = end
    return torch.cat(parts)


def wgrads(x, g, ends):
    """[E, N, K]: the gradient of each expert's weights."""
    if DEVICE == "cuda" and x.dtype is BF:
        return torch._grouped_mm(x.t(), g, ends).transpose(1, 2)
    parts, at = [], 0
    for end in ends.tolist():
        parts.append(g[at:end].t() @ x[at:end])
        at = end
    return torch.stack(parts)


def experts(s, dt):
    T, H, N, E, K = s["T"], s["H"], s["F"], s["E"], s["K"]
    t, z = NUMBER[dt], torch.empty(0, dtype=dt).element_size()
    ids = torch.rand(T, E, device=DEVICE)
    ids[:, 1] = -1  # an expert without a token
    ids = ids.topk(K, 1).indices.sort(1).values.int()
    weights = torch.rand(T, K, device=DEVICE).to(BF).float()
    x = normal(T, H, dt=dt)
    align = B.row_align
    cap = (T * K + E * (align - 1) + align - 1) // align * align
    off, row_of, rec_of = ints([0] * (E + 1)), ints([[0] * K] * T), ints([0] * cap)
    load, rw = ints([0] * E), empty(cap, dt=F32)
    record = module.Rows(x.data_ptr(), H * z, ids.data_ptr(), weights.data_ptr(), K * 4, 0, T)
    run("expert_index", off=off, row_of=row_of, rec_of=rec_of, load=load, row_weight=rw,
        src=record, El=E, M=K, rows_cap=cap, row_align=align)
    rows = empty(cap, H, dt=dt)
    run("expert_gather", x=rows, src=record, rec_of=rec_of, off=off, El=E, H=H, rows_cap=cap,
        dtype=t)
    used = int(off[E])
    of = rec_of[:used].long()
    same("expert_gather", "x", s["name"], dt, rows[:used],
         torch.where(of[:, None] >= 0, x[of.clamp(min=0)], torch.zeros_like(x[:1])))
    # where the rows that count are, expert by expert
    at = torch.nonzero(of >= 0).flatten()
    ends = load.cumsum(0).int()
    assert int(ends[-1]) == T * K == at.numel()
    w = normal(E, N, H, dt=dt, scale=H**-0.5)
    g = torch.zeros(cap, N, device=DEVICE, dtype=dt)
    g[at] = normal(T * K, N, dt=dt)
    y, dx = empty(cap, N, dt=dt), empty(cap, H, dt=dt)
    dw, low = torch.zeros(E, N, H, device=DEVICE), empty(E, N, H, dt=dt)
    args = dict(off=off, rec_of=rec_of, El=E, rows_cap=cap, dtype=t)
    run("grouped_matmul", y=y, x=rows, w=w, N=N, Kd=H, trans_w=True, **args)
    run("grouped_matmul", y=dx, x=g, w=w, N=H, Kd=N, **args)
    run("grouped_wgrad", dw=dw, dy=g, x=rows, N=N, Kd=H, acc=True, dw_dtype=0, **args)
    run("grouped_wgrad", dw=low, dy=g, x=rows, N=N, Kd=H, acc=False, dw_dtype=t, **args)
    xs, gs = rows[at].contiguous(), g[at].contiguous()
    X, G, W = double(xs, gs, w)
    for op, name, ours, want, theirs in (
            ("grouped_matmul", "forward", y[at], grouped_mm(X, W.transpose(1, 2), ends),
             grouped_mm(xs, w.transpose(1, 2), ends)),
            ("grouped_matmul", "dgrad", dx[at], grouped_mm(G, W, ends),
             grouped_mm(gs, w, ends)),
            ("grouped_wgrad", "added to fp32", dw, wgrads(X, G, ends), wgrads(xs, gs, ends)),
            ("grouped_wgrad", "dw", low, wgrads(X, G, ends), wgrads(xs, gs, ends))):
        compare(op, name, s["name"], dt, ours, want, theirs)
    combine(s, dt, row_of, rw, normal(cap, H, dt=dt), T, H, K)


def device_rows(*lists):
    raw = b"".join(bytes(r) for r in lists)
    return torch.tensor(list(raw), dtype=torch.uint8, device=DEVICE)


def combine(s, dt, row_of, rw, y, T, H, K):
    t, z = NUMBER[dt], y.element_size()
    out, add = empty(T, H, dt=dt), normal(T, H, dt=dt)
    dst = device_rows(module.Rows(out.data_ptr(), H * z, None, None, 0, 0, T))
    run("expert_sum", dst=dst, y=y, add=add, row_weight=rw, row_of=row_of, n=T, H=H, M=K,
        R=1, dtype=t)
    picked, w = y[row_of.long()], rw[row_of.long()]
    want = (picked.to(F64) * w.to(F64)[..., None]).sum(1) + add.to(F64)
    theirs = (picked * w.to(dt)[..., None]).sum(1) + add
    compare("expert_sum", "dst", s["name"], dt, out, want, theirs)
    # two ranks have a row of every token, the second in reverse order
    a, b = normal(T, H, dt=dt), normal(T, H, dt=dt)
    src = device_rows(*(module.Rows(x.data_ptr(), H * z, None, None, 0, 0, T)
                        for x in (a, b)))
    here = torch.arange(T, device=DEVICE).int()
    slot_rank = torch.stack((here * 0, here * 0 + 1), 1).contiguous()
    slot_row = torch.stack((here, T - 1 - here), 1).contiguous()
    first = ints([0, 1, 2])
    run("combine_sum", out=out, add=add, src=src, slot_rank=slot_rank, slot_row=slot_row,
        first_expert=first, T=T, H=H, K=K, R=2, S=2, M=K, dtype=t)
    A, Bk, C = double(a, b.flip(0), add)
    compare("combine_sum", "out", s["name"], dt, out, A + Bk + C, add + a + b.flip(0))
    x, sent = normal(T, H, dt=dt), torch.zeros(2, T, H, device=DEVICE, dtype=dt)
    dst = device_rows(*(module.Rows(p.data_ptr(), H * z, None, None, 0, 0, T) for p in sent))
    run("dispatch_pack", dst=dst, x=x, slot_rank=slot_rank, slot_row=slot_row,
        first_expert=first, T=T, H=H, K=K, R=2, S=2, M=K, dtype=t)
    same("dispatch_pack", "dst", s["name"], dt, sent, torch.stack((x, x.flip(0))))


# -- loss and optimizer ------------------------------------------------------------------


def cross_entropy(s, dt):
    R, V, scale = s["loss_rows"], s["V"], 1.0 / 64
    logits = normal(R, V, dt=dt, scale=2)
    targets = torch.randint(0, V, (R,), device=DEVICE)
    targets[::7] = -1
    x, loss, i = logits.clone(), empty(R, dt=F32), targets.int()
    run("cross_entropy", loss=loss, logits=x, targets=i, rows=R, V=V, scale=scale, grad=True,
        dtype=NUMBER[dt])
    f = lambda x: F.cross_entropy(x, targets, ignore_index=-1, reduction="none")
    dy = torch.full((R,), scale, device=DEVICE)
    want = with_grads(f, dy.to(F64), logits.to(F64))
    theirs = with_grads(f, dy.to(dt), logits)
    compare("cross_entropy", "loss", s["name"], dt, loss, want[0], theirs[0])
    compare("cross_entropy", "dlogits", s["name"], dt, x, want[1], theirs[1])


def adamw(s, dt):
    n, step = s["T"] * s["H"] + 5, 3
    h = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, wd=0.1, bc1=1 - 0.9**step,
             bc2=1 - 0.95**step)
    g = normal(n, dt=dt, scale=1e-3)
    start = [normal(n, dt=dt, scale=0.1), normal(n, dt=dt, scale=1e-3),
             normal(n, dt=dt, scale=1e-3).square()]

    def updated(p, m, v, g):
        p = p * (1 - h["lr"] * h["wd"])
        m = m + (1 - h["beta1"]) * (g - m)
        v = h["beta2"] * v + (1 - h["beta2"]) * g * g
        return (p - h["lr"] / h["bc1"] * m / (v.sqrt() / math.sqrt(h["bc2"]) + h["eps"]), m, v)

    p, m, v = (x.clone() for x in start)
    low = empty(n)
    if dt is F32:
        run("adamw", p=p, m=m, v=v, g=g, p_low=low, n=n, grad_scale=1.0, **h)
        same("adamw", "p_low", s["name"], BF, low, p.to(BF))
    else:
        # rounded at random: the error of one rounding is sqrt(2) of the nearest's
        run("adamw_low", p=p, m=m, v=v, g=g, g_dtype=1, n=n, key=7, grad_scale=1.0, **h)
    want = updated(*double(*start, g))
    theirs = updated(*start, g)
    for name, ours, w, t in zip("pmv", (p, m, v), want, theirs):
        compare("adamw" if dt is F32 else "adamw_low", name, s["name"], dt, ours, w, t)


CASES = [memory, embedding, rmsnorm, matmul, swiglu, qkv_rope, attention, router, experts,
         cross_entropy, adamw]
REAL = {"name": "real", "T": 4096, "H": 2048, "F": 1024, "V": 50304, "E": 64, "K": 8,
        "heads": 16, "kv_heads": 4, "D": 128, "rows": 2, "S": 1024, "loss_rows": 512}
ODD = {"name": "odd", "T": 333, "H": 136, "F": 72, "V": 1003, "E": 7, "K": 3, "heads": 6,
       "kv_heads": 2, "D": 40, "rows": 3, "S": 201, "loss_rows": 37}
SMALL = {"name": "small", "T": 64, "H": 64, "F": 48, "V": 301, "E": 8, "K": 2, "heads": 4,
         "kv_heads": 2, "D": 16, "rows": 2, "S": 48, "loss_rows": 40}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("ops", nargs="*", metavar="OP",
                        help="only: " + ", ".join(f.__name__ for f in CASES))
    parser.add_argument("--small", action="store_true", help="small shapes")
    args = parser.parse_args()
    unknown = set(args.ops) - {f.__name__ for f in CASES}
    if unknown:
        parser.error(f"no such ops here: {', '.join(sorted(unknown))}")
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    for f in CASES:
        for dt in (BF, F32):
            for shape in ([SMALL] if args.small else [ODD, REAL]):
                if not args.ops or f.__name__ in args.ops:
                    f(shape, dt)
    missing = sorted(set(B.structs) - done - INDICES)
    if not args.ops and missing:
        failed.append(("no line for", " ".join(missing)))
    print(json.dumps({"part": "errors", "ops": len(done), "failed": failed,
                      "pass": not failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
