#!/usr/bin/env python3
"""PyTorch's attention at the shapes of bench/attention_lab, side by side with it.

    bench/attention_lab time >LAB && bench/peer/attention.py LAB [--backend flash|cudnn]

Reads the shapes and times that the lab has printed, runs scaled_dot_product_attention by one
backend at each shape that this backend has (ALiBi needs a mask, which they lack; the rotation is
not in their gradient), and prints forward and backward apart: microseconds and TFLOP/s of both, by
the lab's formula, and how many times as long PyTorch takes.

Times are medians of rounds of at least 8 calls between two CUDA events, which take turns in buffers
of 200 MB; where the host took longer to enqueue a call than the GPU to run it, that is said. The
lab replays a graph, whose calls the host does not hold up.
"""

import argparse
import math
import re
import statistics
import sys
import time

ROUNDS = 7
MISSING = "PyTorch's backend has no such kernel"
LINE = re.compile(
    r"(?P<name>.{12}) B(?P<batch>\d+) +T(?P<t>\d+) +S(?P<s>\d+) +H(?P<heads>\d+) */(?P<kv>\d+) +"
    r"D(?P<d>\d+) +(?P<flags>[-cadr]{4}) (?P<type>b?f16) +"
    r"[\d.]+ +\d+ \| +(?P<forward>[\d.]+) +\d+ +[\d.]+ +\d+ \| +(?P<backward>[\d.]+) +\d+ "
)


def read_cases(path):
    """The lab's lines, as dicts; exits where there are none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            cases = [m.groupdict() for m in map(LINE.match, file) if m]
    except OSError as e:
        sys.exit(f"{path}: expected what bench/attention_lab time prints: {e.strerror}")
    if not cases:
        sys.exit(f"{path}: expected what bench/attention_lab time prints, found no time in it")
    for case in cases:
        for key in ("batch", "t", "s", "heads", "kv", "d"):
            case[key] = int(case[key])
    return cases


def rounds(torch, calls):
    """(microseconds of a call on the GPU, and on the host until it was enqueued): medians."""
    n = len(calls) * math.ceil(8 / len(calls))
    gpu, host = [], []
    for i in range(ROUNDS + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start = time.perf_counter()
        begin.record()
        for k in range(n):
            calls[k % len(calls)]()
        end.record()
        enqueued = time.perf_counter() - start
        end.synchronize()
        if i > 1:
            gpu.append(1e3 * begin.elapsed_time(end) / n)
            host.append(1e6 * enqueued / n)
    return statistics.median(gpu), statistics.median(host)


def measure(torch, attend, case):
    """((GPU, host) of the forward pass, (GPU, host) of the backward pass) in PyTorch."""
    dtype = torch.bfloat16 if case["type"] == "bf16" else torch.float16
    batch, heads, kv, d = case["batch"], case["heads"], case["kv"], case["d"]
    options = {"is_causal": case["flags"][0] == "c"}
    options["dropout_p"] = 0.2 if case["flags"][2] == "d" else 0.0
    if kv != heads:
        options["enable_gqa"] = True

    def random(steps, count, wanted=True):
        """[B, heads, T, D], as a view of what a product makes: [B, T, heads, D]."""
        x = torch.randn(batch, steps, count, d, device="cuda", dtype=dtype).transpose(1, 2)
        return x.requires_grad_(wanted)

    size = 2 * batch * d * (case["t"] * 2 * heads + case["s"] * 2 * kv)
    forward, backward = [], []
    for _ in range(max(1, math.ceil(200e6 / (2 * size)))):
        q, k, v = random(case["t"], heads), random(case["s"], kv), random(case["s"], kv)
        dy, y = random(case["t"], heads, False), attend(q, k, v, **options)

        def run(q=q, k=k, v=v):
            with torch.no_grad():
                attend(q, k, v, **options)

        def run_back(y=y, inputs=(q, k, v), dy=dy):
            torch.autograd.grad(y, inputs, dy, retain_graph=True)

        forward.append(run)
        backward.append(run_back)
    return rounds(torch, forward), rounds(torch, backward)


def compare(case, direction, theirs):
    """One pass of both: microseconds, TFLOP/s, ratio."""
    causal = case["flags"][0] == "c"
    pairs = case["t"] * (case["s"] - 0.5 * case["t"] if causal else case["s"])
    flops = 2.0 * case["batch"] * case["heads"] * pairs * case["d"]
    flops *= 2 if direction == "forward" else 5
    ours, (gpu, host) = float(case[direction]), theirs
    bound = " (by the host)" if host >= gpu else ""
    return (f"  {direction} {ours:8.1f} {1e-6 * flops / ours:4.0f} | "
            f"{gpu:8.1f} {1e-6 * flops / gpu:4.0f}  {gpu / ours:5.2f}x{bound}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("lab", help="what bench/attention_lab time has printed")
    parser.add_argument("--backend", choices=["flash", "cudnn"], default="flash")
    arguments = parser.parse_args()
    cases = read_cases(arguments.lab)
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        sys.exit(f"attention.py: {error}; use a python3 with torch 2.5 or newer")
    if not torch.cuda.is_available():
        sys.exit("attention.py: expected a GPU, found none that PyTorch can use")
    backend = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    attend = torch.nn.functional.scaled_dot_product_attention
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {arguments.backend}; "
          f"us and TFLOP/s: lockstep | PyTorch, which takes so many times as long")
    for case in cases:
        shape = (f"{case['name']} B{case['batch']:<3} T{case['t']:<4} S{case['s']:<4} "
                 f"H{case['heads']}/{case['kv']} D{case['d']} {case['flags']} {case['type']}")
        if case["flags"][1] == "a" or case["flags"][3] == "r":
            print(f"{shape}  {MISSING}")
            continue
        torch.manual_seed(1)
        try:
            with sdpa_kernel(backend[arguments.backend]):
                forward, backward = measure(torch, attend, case)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            print(f"{shape}  {MISSING}")
            continue
        print(shape + compare(case, "forward", forward) + compare(case, "backward", backward),
              flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
