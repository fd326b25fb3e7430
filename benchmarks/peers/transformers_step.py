#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One training step of a causal language model in Transformers, on the CPU.

    transformers_step.py --make CONFIG FOLDER    random weights of a config.json, saved
    transformers_step.py --serve FOLDER ...      load, prepare, then one command a line on
                                                 standard input: "run N" does N steps

A step is forward, backward, gradient norm and clipping, AdamW, gradients set to None. Token
ids are those of `sluice bench step`. Prints one JSON line a command.
"""
import argparse
import json
import sys
import time


def ids_of(n, vocab):
    """The ids `sluice bench step` trains on: a linear congruential generator."""
    x, ids = 1, []
    for _ in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append((x >> 33) % vocab)
    return ids


def peak_mib():
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def make(config, folder):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config))
    model.save_pretrained(folder)


class Trainer:
    def __init__(self, a):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(a.threads)
        torch.manual_seed(1)
        self.torch, self.a = torch, a
        dtype = torch.bfloat16 if a.dtype == "bf16-weights" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(
            a.folder, dtype=dtype, attn_implementation=a.attention,
            experts_implementation=a.experts)
        self.model.config.use_cache = False
        self.model.train()
        vocab = self.model.config.vocab_size
        self.ids = torch.tensor(ids_of(a.rows * a.sequence, vocab)).view(a.rows, a.sequence)
        self.run_model = torch.compile(self.model) if a.compile else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8,
            weight_decay=0.1, **{a.optimizer: True})
        self.first = None

    def step(self):
        torch = self.torch
        with torch.autocast("cpu", torch.bfloat16, enabled=self.a.dtype == "bf16"):
            loss = self.run_model(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.first is None:
            self.first = (float(loss.detach()), float(norm))

    def run(self, n):
        t = []
        for _ in range(n):
            start = time.perf_counter()
            self.step()
            t.append(time.perf_counter() - start)
        return t

    def profile(self, n):
        torch = self.torch
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
            self.run(n)
        return p.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)


def limit_memory(share):
    """More than this share of the free memory is refused, before the kernel ends somebody."""
    import resource

    with open("/proc/meminfo") as f:
        free = next(int(w.split()[1]) for w in f if w.startswith("MemAvailable"))
    most = int(free * 1024 * share)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def serve(a):
    limit_memory(0.7)
    t = Trainer(a)
    t.run(a.warm)
    say = {"loss": t.first[0], "grad_norm": t.first[1], "ready": True}
    print(json.dumps(say), flush=True)
    for line in sys.stdin:
        word = line.split()
        if word[0] == "run":
            print(json.dumps({"seconds": t.run(int(word[1])), "peak_mib": peak_mib()}),
                  flush=True)
        elif word[0] == "profile":
            print(t.profile(int(word[1])), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", help="of the model")
    p.add_argument("--make", metavar="CONFIG")
    p.add_argument("--serve", action="store_true")
    p.add_argument("--rows", type=int, default=4)
    p.add_argument("--sequence", type=int, default=512)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--warm", type=int, default=3)
    p.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "bf16-weights"])
    p.add_argument("--attention", default="sdpa")
    p.add_argument("--experts", default="eager")
    p.add_argument("--optimizer", default="fused", choices=["fused", "foreach"])
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    if a.make:
        make(a.make, a.folder)
    if a.serve:
        serve(a)


if __name__ == "__main__":
    main()
