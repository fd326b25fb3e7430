# SPDX-License-Identifier: Apache-2.0
"""Rates of products and attention, Sluice's GPU module beside PyTorch in one run.

    SLUICE_MODULE_DIR=DIR python3 products.py SHAPES.json [gemm|grouped|attention ...]

SHAPES.json: {"grouped": [{name, E, K, N, rows, counts}], "attention": [{name, B, H, HK,
S, D, documents}]}. One JSON line a figure: TFLOP/s of both on the rows that count,
medians, and the error of both against fp32. A ratio is the median of those of five
rounds of 15 calls, each with both sides in turn, either after a rest of 0.1 s. "lasting" is
the same of three rounds of 0.12 s a side without rests, in which the card's power holds both
back. Sluice gets the counts in GPU memory and segments padded to 128 rows; PyTorch gets
them unpadded. "ceiling" is PyTorch's batch of equal counts, in the same rounds. Where there
is a limit, "least" names it and "pass" says whether it is met; exit code 1 if one is not.
"at": seconds since the start.
"""
import json
import statistics
import sys
import time

BEGAN = time.time()  # before PyTorch is loaded

import torch
import torch.nn.functional as F

import module

# TFLOP/s of attention by cuDNN on these cards, measured with its own C++ front end: whole
# rows forward, backward, deterministic backward, packed documents forward. What packed
# documents and a deterministic backward must come near to, as the card's whole rows go.
PROBES = {"H100": {"olmoe_4k": (572, 469, 407, 321), "qwen3_4k": (604, 468, 427, 400)},
          "H200": {"olmoe_4k": (582, 485, 437, 329), "qwen3_4k": (615, 494, 456, 412)}}
WORKSPACE = 2 << 30  # of a deterministic backward
HEAD_START = 120_000  # clock cycles

failed = []
B = module.open_backend()
BF = torch.bfloat16


def say(**fields):
    if not fields.get("pass", True):
        failed.append(fields["part"])
    print(json.dumps({"card": torch.cuda.get_device_name(0), **fields,
                      "at": round(time.time() - BEGAN, 1)}), flush=True)


def our_stream():
    """Of the queue that there is now."""
    return torch.cuda.ExternalStream(B.stream)


def median_ms(f, stream, repeat=15, warm=3):
    """Of the GPU's work: it begins after a head start, in which the host, Python here, says
    what is to be done."""
    times = []
    with torch.cuda.stream(stream):
        for i in range(repeat + warm):
            a, b = torch.cuda.Event(True), torch.cuda.Event(True)
            torch.cuda._sleep(HEAD_START)
            a.record()
            f()
            b.record()
            b.synchronize()
            if i >= warm:
                times.append(a.elapsed_time(b))
    return statistics.median(times)


def turns(*calls, rounds=5, rest=0.1, seconds=0):
    """Medians of each call in each round, by turns; the first is ours. Each side's 15 calls
    come after a rest, in which the card's power recovers; or without one, as many calls as
    take so long."""
    sides = [(f, torch.cuda.current_stream() if i else our_stream(), [])
             for i, f in enumerate(calls)]
    repeat = 15
    if seconds:
        repeat = max(7, int(1e3 * seconds / median_ms(*sides[1][:2], 3)))
    for i in range(rounds):
        for f, stream, times in sides[:: -1 if i % 2 else 1]:
            time.sleep(rest)
            times.append(median_ms(f, stream, repeat))
    return [times for _, _, times in sides]


def median_ratio(ours, theirs):
    return statistics.median(t / o for o, t in zip(ours, theirs))


def limit(value, least):
    return {"least": round(least, 3), "pass": value >= least}


def pair(part, shape, flop, ours, theirs, errors=(None, None), least=None, ceiling=None):
    torch.cuda.synchronize()
    o, t, *top = turns(ours, theirs, *([ceiling] if ceiling else []))
    lasting = median_ratio(*turns(ours, theirs, rounds=3, rest=0, seconds=0.12))
    B.sync()
    rate = lambda ms: round(flop / statistics.median(ms) / 1e9, 1)
    ratio = median_ratio(o, t)
    more = limit(ratio, least) if least else {}
    if top:
        more.update(ceiling=rate(top[0]), of_ceiling=round(median_ratio(o, top[0]), 3))
    say(part=part, shape=shape, sluice=rate(o), torch=rate(t),
        ratio=round(ratio, 3), lasting=round(lasting, 3), spread=round(max(o) / min(o) - 1, 3),
        error_sluice=errors[0], error_torch=errors[1], **more)
    return ratio, lasting


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
        dw, low = torch.zeros(N, K, device="cuda"), torch.empty_like(w)
        flop = 2 * M * N * K
        pair("gemm_fwd", what, flop,
             lambda: B.run("matmul", c=y, a=x, b=w, M=M, N=N, K=K, trans_b=True, dtype=1,
                           c_dtype=1),
             lambda: x @ w.t(), least=0.97)
        pair("gemm_dgrad", what, flop,
             lambda: B.run("matmul", c=dx, a=dy, b=w, M=M, N=K, K=N, dtype=1, c_dtype=1),
             lambda: dy @ w, least=0.97)
        pair("gemm_wgrad", what, flop,
             lambda: B.run("matmul", c=low, a=dy, b=x, M=N, N=K, K=M, trans_a=True, dtype=1,
                           c_dtype=1),
             lambda: dy.t() @ x, least=0.97)
        pair("gemm_wgrad_f32_acc", what, flop,
             lambda: B.run("matmul", c=dw, a=dy, b=x, M=N, N=K, K=M, trans_a=True,
                           acc=True, dtype=1, c_dtype=0),
             lambda: dy.t() @ x)
        del x, w, dy, y, dx, dw, low
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
        rec_of = torch.full((cap,), -1, device="cuda", dtype=torch.int32)
        rec_of[at] = torch.arange(rows, device="cuda", dtype=torch.int32)
        xp, gp = (torch.zeros(cap, n, device="cuda", dtype=BF) for n in (K, N))
        xp[at], gp[at] = x, g
        y, dx = torch.full_like(gp, 7), torch.full_like(xp, 7)
        dw = torch.full((E, N, K), 7.0, device="cuda", dtype=BF)
        dwf = torch.zeros(E, N, K, device="cuda")
        same = dict(off=offs, rec_of=rec_of, El=E, rows_cap=cap, dtype=1)
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
        even = rows // E  # the counts that cost nothing
        xe, ge = x[:even * E].view(E, even, K), g[:even * E].view(E, even, N)
        top = {"grouped_fwd": lambda: torch.bmm(xe, w),
               "grouped_dgrad": lambda: torch.bmm(ge, w.transpose(1, 2)),
               "grouped_wgrad": lambda: torch.bmm(ge.transpose(1, 2), xe)}
        for name, ours, theirs, err, least in [
                ("grouped_fwd", fwd, tf, "fwd", 0.95),
                ("grouped_dgrad", dgrad, td, "dgrad", 0.95),
                ("grouped_wgrad", wg, tw, "wgrad", 1.0),
                ("grouped_wgrad_f32_acc", wf, tw, "wf", None),
                ("grouped_wgrad_f32", wn, tw, "wf", None)]:
            r = pair(name, s["name"], flop, ours, theirs,
                     [float("%.2e" % v) for v in errors[err]], least, top.get(name))
            ratios.setdefault(name, []).append(r)
        del x, g, w, wt, xp, gp, y, dx, dw, dwf, xe, ge, top
    for name, r in ratios.items():
        both_means(name, r, 1.05 if name == "grouped_wgrad" else None)
    both_means("grouped_fwd_dgrad", ratios["grouped_fwd"] + ratios["grouped_dgrad"], 1.12)


def both_means(part, ratios, least):
    short, lasting = (statistics.geometric_mean(r) for r in zip(*ratios))
    say(part=part, geometric_mean=round(short, 3), lasting=round(lasting, 3),
        lowest=round(min(r[0] for r in ratios), 3), **(limit(short, least) if least else {}))


def attention(shapes):
    card = torch.cuda.get_device_name(0)
    probes = next((p for name, p in PROBES.items() if name in card), {})
    for s in shapes:
        probe, dense = probes.get(s["name"]), None
        b, h, hk, S, D = (s[k] for k in ("B", "H", "HK", "S", "D"))
        for packed in (False, True):
            lens = s["documents"] if packed else [S] * b
            T, n = b * S, len(lens)
            q, k, v, do = (torch.randn(T, x, D, device="cuda").to(BF)
                           for x in (h, hk, hk, h))
            o, dq, dk, dv = (torch.empty_like(x) for x in (q, q, k, v))
            lse = torch.empty(T, h, device="cuda")
            seg = torch.tensor([0] + lens, device="cuda").cumsum(0).int()
            bounds = seg.cpu()
            same = dict(q=q, k=k, v=v, o=o, lse=lse, seg=seg, seg_host=bounds, T=T, NQ=h,
                        NK=hk, D=D, n_seg=n, max_len=max(lens), scale=D**-0.5, dtype=1)
            fwd = lambda: B.run("attention_forward", **same)
            bwd = lambda: B.run("attention_backward", dq=dq, dk=dk, dv=dv, d_o=do, **same)
            pairs = sum(c * (c + 1) // 2 for c in lens)
            torch.cuda.synchronize()
            B.renew_queue()
            free = torch.cuda.mem_get_info()[0]
            median_ms(fwd, our_stream(), 1)
            median_ms(bwd, our_stream(), 1)
            B.sync()
            grown = max(0, free - torch.cuda.mem_get_info()[0])
            # beside dS there are sums of rows and, for grouped heads, whole dK and dV
            bound = WORKSPACE + T * h * (4 + 4 * D) + (256 << 20)
            line = dict(part="attention", shape=s["name"], packed=packed,
                        grown_mib=grown >> 20, most_mib=bound >> 20)
            rate = lambda per_pair, ms: round(
                per_pair * pairs * h * D / statistics.median(ms) / 1e9, 1)
            held = [grown <= bound]
            if not packed:
                torch_attention(line, rate, fwd, bwd, q, k, v, do, o, (dq, dk, dv), S)
                dense = line["fwd"]
                # the same kernel of cuDNN on both sides: half a percent is noise
                line["least_fwd"] = 1.0
                held.append(round(line["ratio_fwd"], 2) >= 1.0)
                if probe:  # ours is deterministic, PyTorch's is not
                    line["least_bwd"] = round(0.97 * probe[2] / probe[1], 3)
                    held.append(line["ratio_bwd"] >= line["least_bwd"])
            else:
                line.update(fwd=rate(4, turns(fwd)[0]), bwd=rate(10, turns(bwd)[0]))
                B.sync()
                if probe:
                    line["least_fwd"] = round(0.95 * probe[3] * dense / probe[0], 1)
                    held.append(line["fwd"] >= line["least_fwd"])
            say(**line, **{"pass": all(held)})


def torch_attention(line, rate, fwd, bwd, q, k, v, do, o, grads, S):
    """Both sides in turn: rates, and the medians of the ratios of the rounds."""
    shape = lambda x: x.view(-1, S, *x.shape[1:]).transpose(1, 2)
    qt, kt, vt = (shape(x).detach().requires_grad_() for x in (q, k, v))
    kw = dict(is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
        call = lambda: F.scaled_dot_product_attention(qt, kt, vt, **kw)
        out = call()
        mine_f, f = turns(fwd, call, rounds=11)
        back = lambda: torch.autograd.grad(out, (qt, kt, vt), shape(do), retain_graph=True)
        mine_r, r = turns(bwd, back)
        B.sync()
        want = back()
        torch.use_deterministic_algorithms(True, warn_only=True)
        same = median_ms(back, torch.cuda.current_stream(), 7)
        torch.use_deterministic_algorithms(False)
    line.update(fwd=rate(4, mine_f), torch_fwd=rate(4, f),
                ratio_fwd=round(median_ratio(mine_f, f), 3), bwd=rate(10, mine_r),
                torch_bwd=rate(10, r), ratio_bwd=round(median_ratio(mine_r, r), 3),
                torch_bwd_asked_deterministic=rate(10, [same]),
                differ_o=error(shape(o), out.float()),
                differ_grads=[error(shape(x), y.float()) for x, y in zip(grads, want)])


if __name__ == "__main__":
    torch.manual_seed(0)
    shapes = json.load(open(sys.argv[1]))
    parts = sys.argv[2:] or ["gemm", "grouped", "attention"]
    if not set(parts) <= {"gemm", "grouped", "attention"}:
        sys.exit(__doc__.split("\n\n")[1])
    say(part="versions", module=B.describe(), torch=torch.__version__,
        cudnn=torch.backends.cudnn.version())
    if "gemm" in parts:
        gemm()
    if "grouped" in parts:
        grouped(shapes["grouped"])
    if "attention" in parts:
        attention(shapes["attention"])
    sys.exit(1 if failed else 0)
