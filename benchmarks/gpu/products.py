# SPDX-License-Identifier: Apache-2.0
"""Rates of products and attention, Sluice's GPU module beside PyTorch in one run.

    SLUICE_MODULE_DIR=DIR python3 products.py SHAPES.json [gemm|grouped|attention ...]

SHAPES.json: {"grouped": [{name, E, K, N, rows, counts}], "attention": [{name, B, H, HK,
S, D, documents}]}. One JSON line a figure: TFLOP/s of both on the rows that count,
medians, and the error of both against fp32. Sluice gets the counts in GPU memory and
segments padded to 128 rows; PyTorch gets them unpadded.
"""
import json
import statistics
import sys

import torch
import torch.nn.functional as F

import module

B = module.open_backend()
STREAM = torch.cuda.ExternalStream(B.stream)
BF = torch.bfloat16


def say(**fields):
    print(json.dumps({"card": torch.cuda.get_device_name(0), **fields}), flush=True)


def median_ms(f, stream, repeat=15):
    times = []
    with torch.cuda.stream(stream):
        for i in range(repeat + 3):
            a, b = torch.cuda.Event(True), torch.cuda.Event(True)
            a.record()
            f()
            b.record()
            b.synchronize()
            if i >= 3:
                times.append(a.elapsed_time(b))
    return statistics.median(times)


def pair(part, shape, flop, ours, theirs, errors=(None, None)):
    torch.cuda.synchronize()
    t, o = [], []
    for _ in range(2):  # in turn, so that both see the card as warm
        o.append(median_ms(ours, STREAM))
        t.append(median_ms(theirs, torch.cuda.current_stream()))
    B.sync()
    mine, other = flop / min(o) / 1e9, flop / min(t) / 1e9
    say(part=part, shape=shape, sluice=round(mine, 1), torch=round(other, 1),
        ratio=round(mine / other, 3), spread=round(max(o) / min(o) - 1, 3),
        error_sluice=errors[0], error_torch=errors[1])
    return mine / other


def error(x, want):
    return float((x.float() - want).norm() / want.norm())


def gemm():
    for M, N, K, what in [(8192, 8192, 8192, "square"), (16384, 6144, 2048, "olmoe_qkv"),
                          (16384, 2048, 2048, "olmoe_o"), (2048, 50304, 2048, "olmoe_head"),
                          (16384, 5120, 2048, "qwen3_qkv"),
                          (16384, 2048, 4096, "qwen3_o")]:
        x, w, dy = (torch.randn(*s, device="cuda").to(BF)
                    for s in [(M, K), (N, K), (M, N)])
        y, dx = torch.empty(M, N, device="cuda", dtype=BF), torch.empty_like(x)
        dw = torch.zeros(N, K, device="cuda")
        flop = 2 * M * N * K
        pair("gemm_fwd", what, flop,
             lambda: B.run("matmul", c=y, a=x, b=w, M=M, N=N, K=K, trans_b=True, dtype=1,
                           c_dtype=1),
             lambda: x @ w.t())
        pair("gemm_dgrad", what, flop,
             lambda: B.run("matmul", c=dx, a=dy, b=w, M=M, N=K, K=N, dtype=1, c_dtype=1),
             lambda: dy @ w)
        pair("gemm_wgrad_f32_acc", what, flop,
             lambda: B.run("matmul", c=dw, a=dy, b=x, M=N, N=K, K=M, trans_a=True,
                           acc=True, dtype=1, c_dtype=0),
             lambda: dy.t() @ x)
        del x, w, dy, y, dx, dw
    a = torch.empty(1 << 32, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    ms = median_ms(lambda: b.copy_(a), torch.cuda.current_stream())
    say(part="copy", gb_per_s=round(2 * a.numel() / ms / 1e6))


def grouped(shapes):
    ratios = {}
    for s in shapes:
        E, K, N, counts = s["E"], s["K"], s["N"], s["counts"]
        rows = sum(counts)
        off = [0]
        for c in counts:
            off.append(off[-1] + (c + 127) // 128 * 128)
        cap = rows + 128 * E
        x, g = torch.randn(rows, K, device="cuda").to(BF), torch.randn(
            rows, N, device="cuda").to(BF)
        w = (torch.randn(E, K, N, device="cuda") / K**0.5).to(BF)
        wt = w.transpose(1, 2).contiguous()
        ends = torch.tensor(counts, device="cuda", dtype=torch.int32).cumsum(0).int()
        offs = torch.tensor(off, device="cuda", dtype=torch.int32)
        at = torch.cat([torch.arange(c) + o for c, o in zip(counts, off)]).cuda()
        xp, gp = (torch.zeros(cap, n, device="cuda", dtype=BF) for n in (K, N))
        xp[at], gp[at] = x, g
        y, dx = torch.full_like(gp, 7), torch.full_like(xp, 7)
        dw = torch.full((E, N, K), 7.0, device="cuda", dtype=BF)
        dwf = torch.zeros(E, N, K, device="cuda")
        same = dict(off=offs, El=E, rows_cap=cap, dtype=1)
        fwd = lambda: B.run("grouped_matmul", y=y, x=xp, w=wt, N=N, Kd=K, trans_w=True,
                            **same)
        dgrad = lambda: B.run("grouped_matmul", y=dx, x=gp, w=wt, N=K, Kd=N, **same)
        wg = lambda: B.run("grouped_wgrad", dw=dw, dy=gp, x=xp, N=N, Kd=K, acc=False,
                           dw_dtype=1, **same)
        wf = lambda: B.run("grouped_wgrad", dw=dwf, dy=gp, x=xp, N=N, Kd=K, acc=True,
                           dw_dtype=0, **same)
        wn = lambda: B.run("grouped_wgrad", dw=dwf, dy=gp, x=xp, N=N, Kd=K, acc=False,
                           dw_dtype=0, **same)
        tf = lambda: torch._grouped_mm(x, w, ends)
        td = lambda: torch._grouped_mm(g, w.transpose(1, 2), ends)
        tw = lambda: torch._grouped_mm(x.t(), g, ends)
        torch.cuda.synchronize()
        fwd(), dgrad(), wg(), wf()
        B.sync()
        errors = {"fwd": [0, 0], "dgrad": [0, 0], "wgrad": [0, 0], "wf": [0, 0]}
        ty, tdx, tdw = tf(), td(), tw()
        for e in {0, 1, E // 2, E - 1}:
            a, c, p = sum(counts[:e]), counts[e], off[e]
            xe, ge = x[a:a + c].float(), g[a:a + c].float()
            for name, want, mine, theirs in [
                    ("fwd", xe @ w[e].float(), y[p:p + c], ty[a:a + c]),
                    ("dgrad", ge @ w[e].float().t(), dx[p:p + c], tdx[a:a + c]),
                    ("wgrad", ge.t() @ xe, dw[e], tdw[e].t()),
                    ("wf", ge.t() @ xe, dwf[e], tdw[e].t())]:
                for i, v in enumerate((mine, theirs)):
                    errors[name][i] = max(errors[name][i], error(v, want))
        del ty, tdx, tdw
        flop = 2 * rows * K * N
        for name, ours, theirs, err in [
                ("grouped_fwd", fwd, tf, "fwd"), ("grouped_dgrad", dgrad, td, "dgrad"),
                ("grouped_wgrad", wg, tw, "wgrad"), ("grouped_wgrad_f32_acc", wf, tw, "wf"),
                ("grouped_wgrad_f32", wn, tw, "wf")]:
            r = pair(name, s["name"], flop, ours, theirs,
                     [float("%.2e" % v) for v in errors[err]])
            ratios.setdefault(name, []).append(r)
        del x, g, w, wt, xp, gp, y, dx, dw, dwf
    for name, r in ratios.items():
        say(part=name, geometric_mean=round(statistics.geometric_mean(r), 3),
            least=round(min(r), 3))


def attention(shapes):
    for s in shapes:
        b, h, hk, S, D = (s[k] for k in ("B", "H", "HK", "S", "D"))
        for packed in (False, True):
            lens = s["documents"] if packed else [S] * b
            T, n = b * S, len(lens)
            q, k, v, do = (torch.randn(T, x, D, device="cuda").to(BF)
                           for x in (h, hk, hk, h))
            o, dq, dk, dv = (torch.empty_like(x) for x in (q, q, k, v))
            lse = torch.empty(T, h, device="cuda")
            seg = torch.tensor([0] + lens, device="cuda").cumsum(0).int()
            same = dict(q=q, k=k, v=v, o=o, lse=lse, seg=seg, T=T, NQ=h, NK=hk, D=D,
                        n_seg=n, max_len=max(lens), scale=D**-0.5, dtype=1)
            fwd = lambda: B.run("attention_forward", **same)
            bwd = lambda: B.run("attention_backward", dq=dq, dk=dk, dv=dv, d_o=do, **same)
            pairs = sum(c * (c + 1) // 2 for c in lens)
            torch.cuda.synchronize()
            f = median_ms(fwd, STREAM, 7)
            r = median_ms(bwd, STREAM, 7)
            B.sync()
            line = dict(part="attention", shape=s["name"], packed=packed,
                        fwd=round(4 * pairs * h * D / f / 1e9, 1),
                        bwd=round(10 * pairs * h * D / r / 1e9, 1))
            if not packed:
                torch_attention(line, q, k, v, do, o, (dq, dk, dv), b, S, h, hk, D, pairs)
            say(**line)


def torch_attention(line, q, k, v, do, o, grads, b, S, h, hk, D, pairs):
    shape = lambda x: x.view(b, S, -1, D).transpose(1, 2)
    qt, kt, vt = (shape(x).detach().requires_grad_() for x in (q, k, v))
    kw = dict(is_causal=True, enable_gqa=h != hk)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
        call = lambda: F.scaled_dot_product_attention(qt, kt, vt, **kw)
        out = call()
        f = median_ms(call, torch.cuda.current_stream(), 7)
        back = lambda: torch.autograd.grad(out, (qt, kt, vt), shape(do), retain_graph=True)
        r = median_ms(back, torch.cuda.current_stream(), 7)
        want = back()
    line.update(torch_fwd=round(4 * pairs * h * D / f / 1e9, 1),
                torch_bwd=round(10 * pairs * h * D / r / 1e9, 1),
                differ_o=error(shape(o), out.float()),
                differ_grads=[error(shape(x), y.float()) for x, y in zip(grads, want)])


if __name__ == "__main__":
    torch.manual_seed(0)
    shapes = json.load(open(sys.argv[1]))
    parts = sys.argv[2:] or ["gemm", "grouped", "attention"]
    say(part="versions", module=B.describe(), torch=torch.__version__,
        cudnn=torch.backends.cudnn.version())
    if "gemm" in parts:
        gemm()
    if "grouped" in parts:
        grouped(shapes["grouped"])
    if "attention" in parts:
        attention(shapes["attention"])
