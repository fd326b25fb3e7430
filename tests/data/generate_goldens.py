#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the reference goldens of tests/data/golden from the published implementation.

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==5.23.0 \\
        safetensors==0.8.0 h5py==3.16.0 numpy==2.4.6
    venv/bin/python tests/data/generate_goldens.py            # rewrite all
    venv/bin/python tests/data/generate_goldens.py --check    # compare, write nothing

The versions are asserted, the seeds follow from the names of the cases, one thread
is used. Another processor may differ in the last bits; --check allows for that.
Formats: tests/data/README.md. No test runs this script.
"""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.dont_write_bytecode = True

import numpy
import safetensors
import torch
import transformers
from safetensors.torch import load_file

import generate_ops
import golden_train
from golden_cases import FAMILIES
from golden_model import write_case

VERSIONS = {
    torch: "2.15.0",
    transformers: "5.23.0",
    safetensors: "0.8.0",
    numpy: "2.4.6",
}


def check_environment():
    for module, wanted in VERSIONS.items():
        found = module.__version__.split("+")[0]
        if found != wanted:
            sys.exit(f"{module.__name__} {found}: the goldens need {wanted}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def generate(out):
    for family, (base, cases) in FAMILIES.items():
        for case in cases:
            folder = out / f"{family}-{case['name']}"
            folder.mkdir(parents=True)
            doc = write_case(family, case, base, folder)
            print(f"{folder.name}: loss {doc['loss']['fp32']:.6f}, error of its "
                  f"gradients {doc['grad_error_fp32_max']:.1e}, routing gap "
                  f"{doc['topk_gap_min']}")
    golden_train.write_trajectory(out)
    golden_train.write_adamw(out / "adamw")
    golden_train.write_score(out)
    generate_ops.write_ops(out / "ops.safetensors")


def same(a, b, where):
    """Equal up to rounding; a list of places where they are not."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = set(a) | set(b)
        return [w for k in sorted(keys)
                for w in same(a.get(k), b.get(k), f"{where}.{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [w for i, (x, y) in enumerate(zip(a, b))
                for w in same(x, y, f"{where}[{i}]")]
    if isinstance(a, float) and isinstance(b, float):
        loose = "error" in where or "gap" in where
        ok = math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) or loose
        return [] if ok else [f"{where}: {a} != {b}"]
    return [] if a == b else [f"{where}: differs"]


def same_tensors(a, b, where):
    if set(a) != set(b):
        return [f"{where}: other tensor names"]
    return [f"{where}: {n}" for n in a
            if a[n].shape != b[n].shape or a[n].dtype != b[n].dtype
            or not torch.allclose(a[n].double(), b[n].double(), 1e-4, 1e-6)]


def compare(fresh, committed):
    files = {p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file()}
    there = {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
    wrong = [f"{p}: only on one side" for p in sorted(files ^ there)]
    for p in sorted(files & there):
        a, b = fresh / p, committed / p
        if a.read_bytes() == b.read_bytes():
            continue
        if p.suffix == ".json":
            wrong += same(json.loads(a.read_text()), json.loads(b.read_text()), str(p))
        elif p.suffix == ".safetensors":
            wrong += same_tensors(load_file(a), load_file(b), str(p))
        else:
            wrong.append(f"{p}: differs")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true",
                        help="compare with the committed files, write nothing")
    args = parser.parse_args()
    check_environment()
    golden = Path(__file__).resolve().parent / "golden"
    with tempfile.TemporaryDirectory() as tmp:
        fresh = Path(tmp) / "golden"
        generate(fresh)
        if args.check:
            wrong = compare(fresh, golden)
            print("\n".join(wrong) or "the committed goldens are reproduced")
            return 1 if wrong else 0
        shutil.rmtree(golden, ignore_errors=True)
        shutil.copytree(fresh, golden)
        for p in golden.rglob("*"):
            p.chmod(0o755 if p.is_dir() else 0o644)
    size = sum(p.stat().st_size for p in golden.rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB in {golden}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
