#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Load an exported model folder in Transformers and print or compare its scores.

    check_export.py MODEL_DIR IDS                     print scores as JSON
    check_export.py MODEL_DIR IDS --expect FILE       compare; exit 1 when they differ

IDS holds one JSON object {"ids": [...]} a line ("-" reads standard input), or one
object {"rows": [[...], ...]}. The output is one JSON object a line and sequence:
    {"ids", "loss", "logprobs": [n - 1], and with --logits "logits": [n][vocab]}
and last {"loss": mean over all targets, "n_targets"}. FILE holds the same format, of
which any of "ids", "loss", "logprobs", "logits" may be missing; `sluice score --json`
output is one such file, a line for each sequence of IDS in order. Runs by hand and from benchmarks, never from `make check`; the
environment is that of tests/data/generate_goldens.py.
"""

import argparse
import json
import math
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def read_sequences(path):
    text = sys.stdin.read() if path == "-" else open(path).read()
    objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = []
    for obj in objects:
        rows += obj["rows"] if "rows" in obj else [obj["ids"]]
    if not rows or any(len(r) < 2 for r in rows):
        sys.exit(f"{path}: needs sequences of at least 2 ids")
    return rows


def score(folder, rows, with_logits, experts):
    """Yield one object a sequence, computed in float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation=experts,
        output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            sys.exit(f"{folder}: {kind} {sorted(map(str, info[kind]))}")
    model.eval()
    for ids in rows:
        x = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=x, use_cache=False).logits
        logp = torch.log_softmax(logits[0, :-1], -1).gather(1, x[0, 1:, None])[:, 0]
        out = {"ids": ids, "loss": -float(logp.double().mean()),
               "logprobs": logp.tolist()}
        if with_logits:
            out["logits"] = logits[0].tolist()
        yield out


def flat(x):
    return [v for y in x for v in flat(y)] if isinstance(x, list) else [float(x)]


def distance(a, b):
    """Largest difference over the largest magnitude; infinite where the two cannot be
    compared (other shapes, a value that is not finite)."""
    a, b = flat(a), flat(b)
    if len(a) != len(b) or not all(map(math.isfinite, a + b)):
        return math.inf
    size = max((abs(v) for v in b), default=0.0)
    worst = max((abs(x - y) for x, y in zip(a, b)), default=0.0)
    return worst / size if size else worst


def read_expected(path):
    """(objects of sequences, the total's loss or None)."""
    found, total = [], None
    for line in open(path):
        if not line.lstrip().startswith("{"):
            continue
        obj = json.loads(line)
        if {"ids", "logprobs", "logits"} & obj.keys():
            found.append(obj)
        elif "loss" in obj:
            total = obj["loss"]
    return found, total


def compare(got, total, path, tolerance):
    """Print each distance; 0 when at least one was compared and all are small."""
    expected, expected_total = read_expected(path)
    pairs = []
    if expected and len(expected) != len(got):
        sys.exit(f"{path}: {len(expected)} sequences, expected {len(got)}")
    for i, (a, b) in enumerate(zip(got, expected)):
        if a["ids"] != b.get("ids", a["ids"]):
            sys.exit(f"{path}: sequence {i} has other ids")
        pairs += [(f"sequence {i} {key}", distance(a[key], b[key]))
                  for key in ("loss", "logprobs", "logits") if key in a and key in b]
    if expected_total is not None:
        pairs.append(("loss", distance(total, expected_total)))
    if not pairs:
        sys.exit(f"{path}: nothing to compare")
    bad = 0
    for what, d in pairs:
        ok = d <= tolerance
        bad += not ok
        print(f"{'ok' if ok else 'DIFFERS'} {what} {d:.3e} (tolerance {tolerance:g})")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("--expect", metavar="FILE")
    parser.add_argument("--tolerance", type=float, default=1e-5,
                        help="relative to the largest magnitude (default 1e-5)")
    parser.add_argument("--logits", action="store_true")
    parser.add_argument("--experts", default="eager",
                        help="Transformers' expert implementation (default eager)")
    args = parser.parse_args()
    if not os.path.isdir(args.model):
        sys.exit(f"{args.model}: no such folder")
    rows = read_sequences(args.ids)
    got = list(score(args.model, rows, args.logits or args.expect, args.experts))
    n = sum(len(r["logprobs"]) for r in got)
    total = sum(r["loss"] * len(r["logprobs"]) for r in got) / n
    if args.expect:
        return compare(got, total, args.expect, args.tolerance)
    for r in got:
        print(json.dumps(r))
    print(json.dumps({"loss": total, "n_targets": n}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
