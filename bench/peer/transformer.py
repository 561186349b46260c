#!/usr/bin/env python3
"""The transformer of src/model/transformer.c in plain PyTorch, as a peer.

parity: start from the weights of a lockstep checkpoint, form the same batches (a numpy port of
        lk_permute and lk_philox), train in fp32 and compare the loss of every step with a run's
        loss.log. Exit status 1 when a relative difference exceeds the limit.
time:   median milliseconds per training step at a benchmark shape, fp16 autocast with loss
        scaling and fused AdamW, eager and compiled. The first line lists the modes, in the order
        that has the best soonest: max-autotune takes minutes to compile.
cpu:    the same on the CPU in fp32.
"""

import argparse
import math
import sys
from dataclasses import dataclass

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as error:
    sys.exit(f"transformer.py: {error}; use a python3 with torch and numpy")

import timing

# ---- the model ---------------------------------------------------------------------------------


@dataclass
class Shape:
    layers: int
    width: int
    heads: int
    context: int
    rows: int  # of the embedding: vocabulary and headroom
    vocabulary: int
    kv_heads: int = 0
    position: str = "alibi"
    norm: str = "layernorm"
    ffn: str = "gelu"
    ffn_width: int = 0
    bias: bool = True
    tied: bool = True
    dropout: float = 0.0
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self):
        self.kv_heads = self.kv_heads or self.heads
        if not self.ffn_width:
            gated = (8 * self.width // 3 + 63) // 64 * 64
            self.ffn_width = gated if self.ffn == "swiglu" else 4 * self.width


def alibi_slopes(heads):
    """O. Press et al., ICLR 2022; as lk_alibi_slope in src/ops/ops.h."""
    n = 1 << (heads.bit_length() - 1)
    exponents = [8 * (h + 1) / n if h < n else 4 * (2 * (h - n) + 1) / n for h in range(heads)]
    return torch.tensor([2.0**-e for e in exponents])


def alibi_bias(heads, time_steps):
    """[heads, T, T]: slope (j - i) for j <= i, -inf above."""
    at = torch.arange(time_steps)
    distance = (at[None, :] - at[:, None]).float()
    bias = alibi_slopes(heads)[:, None, None] * distance
    return bias.masked_fill(distance > 0, float("-inf"))


def rotate(x, theta):
    """x [B, heads, T, D]: pairs (i, i + D/2) turned by t theta^(-2i/D)."""
    steps, half = x.shape[-2], x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = torch.arange(steps, dtype=torch.float64, device=x.device)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


def make_norm(s):
    if s.norm == "rmsnorm":
        return RMSNorm(s.width, s.norm_eps)
    return nn.LayerNorm(s.width, eps=s.norm_eps, bias=s.bias)


class Attention(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.head = s.width // s.heads
        self.qkv = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * self.head, bias=s.bias)
        self.out = nn.Linear(s.width, s.width, bias=s.bias)
        self.flex = None  # (function, block mask, score modification) for ALiBi at speed

    def forward(self, x, bias):
        s, (batch, steps, _) = self.s, x.shape
        heads = self.qkv(x).view(batch, steps, s.heads + 2 * s.kv_heads, self.head).transpose(1, 2)
        q, k, v = heads.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        if s.position == "rope":
            q, k = rotate(q, s.rope_theta), rotate(k, s.rope_theta)
        if s.kv_heads != s.heads:
            k = k.repeat_interleave(s.heads // s.kv_heads, dim=1)
            v = v.repeat_interleave(s.heads // s.kv_heads, dim=1)
        if self.flex:
            attend, mask, score = self.flex
            y = attend(q, k, v, score_mod=score, block_mask=mask)
        else:
            p = s.dropout if self.training else 0.0
            mask = None if bias is None else bias[:, :steps, :steps].to(q.dtype)
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=p
            )
        return self.out(y.transpose(1, 2).reshape(batch, steps, s.width))


class FeedForward(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.gated = s.ffn == "swiglu"
        self.up = nn.Linear(s.width, s.ffn_width * (2 if self.gated else 1), bias=s.bias)
        self.down = nn.Linear(s.ffn_width, s.width, bias=s.bias)

    def forward(self, x):
        h = self.up(x)
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            return self.down(F.silu(gate) * value)
        return self.down(F.gelu(h, approximate="tanh"))


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.attn_norm, self.attn = make_norm(s), Attention(s)
        self.ffn_norm, self.ffn = make_norm(s), FeedForward(s)
        self.p = s.dropout

    def forward(self, x, bias):
        x = x + F.dropout(self.attn(self.attn_norm(x), bias), self.p, self.training)
        return x + F.dropout(self.ffn(self.ffn_norm(x)), self.p, self.training)


class Transformer(nn.Module):
    """Names of modules are the dataset paths below `parameters` in a checkpoint."""

    def __init__(self, s):
        super().__init__()
        self.s = s
        self.embed = nn.Embedding(s.rows, s.width)
        if s.position == "learned":
            self.position = nn.Embedding(s.context, s.width)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = make_norm(s)
        if not s.tied:
            self.head = nn.Linear(s.width, s.rows, bias=False)
        bias = alibi_bias(s.heads, s.context) if s.position == "alibi" else None
        self.register_buffer("bias", bias, persistent=False)
        waves = None
        if s.position == "sinusoidal":
            even = torch.arange(s.width, dtype=torch.float64) // 2 * 2
            angle = torch.arange(s.context, dtype=torch.float64)[:, None] / 10000 ** (
                even / s.width
            )
            odd = torch.arange(s.width) % 2 == 1
            waves = torch.where(odd, angle.cos(), angle.sin()).float()
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, tokens):
        steps = tokens.shape[1]
        x = self.embed(tokens)
        if self.s.position == "learned":
            x = x + self.position.weight[:steps]
        if self.waves is not None:
            x = math.sqrt(self.s.width) * x + self.waves[:steps]
        x = F.dropout(x, self.s.dropout, self.training)
        for block in self.blocks:
            x = block(x, self.bias)
        table = self.embed.weight if self.s.tied else self.head.weight
        return F.linear(self.norm(x), table)

    def loss(self, tokens, targets):
        logits = self(tokens)[..., : self.s.vocabulary]
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1))

    def groups(self, decay):
        """Weight decay on matrices, none on biases and norms."""
        wide = [p for p in self.parameters() if p.dim() > 1]
        flat = [p for p in self.parameters() if p.dim() == 1]
        return [
            {"params": wide, "weight_decay": decay},
            {"params": flat, "weight_decay": 0.0},
        ]


# ---- batches: src/base/philox.h ----------------------------------------------------------------

MASK32 = 0xFFFFFFFF
PURPOSE_ORDER = 0x02000000


def philox(seed, index, purpose, leaf, step):
    """Philox 4x32-10; the four words as Python integers."""
    k0, k1 = seed & MASK32, seed >> 32 & MASK32
    a, b, c, d = index, purpose, leaf, step
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = q >> 32 ^ b ^ k0, q & MASK32, p >> 32 ^ d ^ k1, p & MASK32
        k0, k1 = k0 + 0x9E3779B9 & MASK32, k1 + 0xBB67AE85 & MASK32
    return a, b, c, d


def permute(index, n, seed, purpose, leaf, epoch):
    """lk_permute on an array of indices of one epoch."""
    key = philox(seed, 0, purpose, leaf, epoch)
    half = 1
    while 1 << 2 * half < n:
        half += 1
    half, mask = np.uint64(half), np.uint64((1 << half) - 1)
    low32 = np.uint64(MASK32)
    out = np.asarray(index, dtype=np.uint64).copy()
    todo = np.ones(out.shape, dtype=bool)
    while todo.any():
        left, right = out[todo] >> half & mask, out[todo] & mask
        for r in range(6):
            h = right + np.uint64(key[r & 3]) + np.uint64(0x9E3779B9 * r & MASK32) & low32
            h ^= h >> np.uint64(16)
            h = h * np.uint64(0x7FEB352D) & low32
            h ^= h >> np.uint64(15)
            h = h * np.uint64(0x846CA68B) & low32
            h ^= h >> np.uint64(16)
            left, right = right, left ^ h & mask
        out[todo] = left << half | right
        todo = out >= n
    return out.astype(np.int64)


def window_starts(step, batch, shard, context, seed, leaf):
    """Where the samples of `leaf` at `step` start in its shard."""
    n = shard - context
    at = step * batch + np.arange(batch)
    starts = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(at // n):
        here = at // n == epoch
        starts[here] = permute(at[here] % n, n, seed, PURPOSE_ORDER, leaf, int(epoch))
    return starts


def batch_of(tokens, step, batch, leaves, context, seed):
    """Tokens and targets [batch, context] of the global batch, leaf after leaf."""
    shard = len(tokens) // leaves
    rows = []
    for leaf in range(leaves):
        starts = leaf * shard + window_starts(step, batch // leaves, shard, context, seed, leaf)
        rows += [tokens[s : s + context + 1] for s in starts]
    window = torch.from_numpy(np.stack(rows).astype(np.int64))
    return window[:, :-1], window[:, 1:]


def learning_rate(o, steps, t):
    """lk_learning_rate in src/ops/step_state.h; t counts from 0."""
    if t < o["warmup"]:
        return o["lr"] * (t + 1) / (o["warmup"] + 1)
    if t >= steps:
        return o["min_lr"]
    x = (t - o["warmup"]) / max(steps - o["warmup"], 1)
    return o["min_lr"] + 0.5 * (1 + math.cos(math.pi * x)) * (o["lr"] - o["min_lr"])


# ---- parity ------------------------------------------------------------------------------------


def text_of(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def merge(base, over):
    for key, value in over.items():
        if isinstance(value, dict):
            merge(base.setdefault(key, {}), value)
        else:
            base[key] = value
    return base


def load_weights(model, file):
    """Every dataset below `parameters` must be a parameter, and the other way round."""
    import h5py

    found = {}
    file["parameters"].visititems(
        lambda name, item: found.__setitem__(name.replace("/", "."), item)
        if isinstance(item, h5py.Dataset)
        else None
    )
    mine = dict(model.named_parameters())
    if set(found) != set(mine):
        sys.exit(f"parameters differ: {sorted(set(found) ^ set(mine))}")
    with torch.no_grad():
        for name, p in mine.items():
            p.copy_(torch.from_numpy(found[name][()]).reshape(p.shape))


def read_losses(path):
    """step -> loss from lines 'step loss lr scale grad_norm skipped'."""
    losses = {}
    with open(path) as lines:
        for line in lines:
            word = line.split()
            if word and word[0].isdigit():
                losses[int(word[0])] = float(word[1])
    return losses


def parity(a):
    import h5py
    import yaml

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_flash_sdp(False)  # attention in plain fp32
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.manual_seed(0)
    with h5py.File(a.checkpoint, "r") as file, h5py.File(a.data, "r") as data:
        with open(a.run_file) as text:
            run = yaml.safe_load(text)
        if "run_file" in file.attrs:  # with every default filled in
            merge(run, yaml.safe_load(text_of(file.attrs["run_file"])))
        m, o, t = run["model"], run["optimizer"], run["train"]
        if float(m.get("dropout", 0)) != 0:
            sys.exit("parity needs dropout 0: PyTorch draws other random numbers")
        seed, leaves = int(file.attrs["seed"]), int(file.attrs["leaves"])
        vocabulary = len(file["vocabulary"])
        for key in ("dropout", "rope_theta", "norm_eps"):  # YAML 1.1 reads 1e-5 as text
            if key in m:
                m[key] = float(m[key])
        shape = Shape(
            rows=file["parameters/embed/weight"].shape[0],
            vocabulary=vocabulary,
            **{k: m[k] for k in Shape.__dataclass_fields__ if k in m},
        )
        model = Transformer(shape).to(a.device)
        load_weights(model, file)
        tokens = data["train/tokens"][()]
    for key in ("lr", "min_lr", "beta1", "beta2", "eps", "weight_decay", "clip"):
        o[key] = float(o[key])

    optimizer = torch.optim.AdamW(
        model.groups(o["weight_decay"]), betas=(o["beta1"], o["beta2"]), eps=o["eps"]
    )
    losses, worst, compared = read_losses(a.loss_log), 0.0, 0
    for step in range(a.steps):
        x, y = batch_of(tokens, step, t["batch"], leaves, shape.context, seed)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(o, t["steps"], step)
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(x.to(a.device), y.to(a.device))
        loss.backward()
        norm = torch.sqrt(sum(p.grad.double().square().sum() for p in model.parameters()))
        if o["clip"] > 0 and norm > o["clip"]:
            for p in model.parameters():
                p.grad *= (o["clip"] / norm).float()
        optimizer.step()
        theirs = losses.get(step + 1)
        if theirs is None:
            continue
        mine = loss.item()
        difference = abs(mine - theirs) / max(abs(mine), 1e-12)
        worst, compared = max(worst, difference), compared + 1
        if difference > a.limit or a.verbose or (step + 1) % 10 == 0:
            print(f"step {step + 1:4d}  lockstep {theirs:.7f}  torch {mine:.7f}  {difference:.2e}")
        if not math.isfinite(difference):
            worst = math.inf
    print(f"{compared} steps compared, largest relative difference {worst:.2e}")
    return 0 if compared == a.steps and worst <= a.limit else 1


# ---- time --------------------------------------------------------------------------------------

SHAPES = {
    "gpt2": (32, Shape(12, 768, 12, 1024, 50304, 50304, position="learned")),
    "alibi10m": (64, Shape(6, 384, 6, 256, 65, 65, position="alibi")),
    "shakespeare_cpu": (12, Shape(4, 128, 4, 64, 65, 65, position="alibi", bias=False)),
}


def use_flex(model):
    """ALiBi in flex_attention, whose kernel needs no [heads, T, T] bias; compiled only."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    slopes, steps = alibi_slopes(model.s.heads).cuda(), model.s.context
    mask = create_block_mask(lambda b, h, i, j: j <= i, None, None, steps, steps, device="cuda")

    def score(s, b, h, i, j):
        return s + slopes[h] * (j - i)

    for block in model.blocks:
        block.attn.flex = (flex_attention, mask, score)


def random_text(shape, batch, device):
    """Tokens and targets."""
    data = torch.randint(0, shape.vocabulary, (batch, shape.context + 1), device=device)
    return data[:, :-1].contiguous(), data[:, 1:].contiguous()


def initialised(shape):
    torch.manual_seed(0)
    model = Transformer(shape)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.02)
    return model


def measure(a):
    batch, shape = SHAPES[a.shape]
    batch = a.batch or batch
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[a.precision]
    torch.set_float32_matmul_precision("high")
    alibi = shape.position == "alibi"
    flex = ", flex_attention" if alibi else ""  # without it, SDPA with a bias [heads, T, T]
    modes = [
        ("eager", False, False, None),
        ("compile with CUDA graphs" + flex, True, alibi, "reduce-overhead"),
        ("compile" + flex, True, alibi, None),
    ]
    if alibi:
        modes.append(("compile", True, False, None))
    modes.append(("compile max-autotune" + flex, True, alibi, "max-autotune"))
    modes = [mode for mode in modes if not a.only or a.only in mode[0]]

    def times(compiled, flex, mode):
        model = initialised(shape).cuda()
        if flex:
            use_flex(model)
        if compiled:
            model.loss = torch.compile(model.loss, mode=mode)
        optimizer = torch.optim.AdamW(model.groups(0.1), lr=3e-4, betas=(0.9, 0.95), fused=True)
        text = random_text(shape, batch, "cuda")
        return timing.on_gpu(lambda: model.loss(*text), model.parameters(), optimizer, dtype,
                            a.warmup, a.steps)

    timing.tell_modes(f"{a.shape}, batch {batch}, {a.precision}", modes, batch * shape.context,
                     "tokens", times)
    return 0


def measure_cpu(a):
    batch, shape = SHAPES[a.shape]
    batch = a.batch or batch
    shape.position = a.position or shape.position
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"# torch {torch.__version__}, {torch.get_num_threads()} threads, {a.shape}, "
          f"{shape.position}, batch {batch}, fp32")
    modes = [mode for mode in ("eager", "compile") if not a.only or a.only in mode]
    print("# modes: " + "; ".join(modes), flush=True)
    text = random_text(shape, batch, "cpu")
    for name in modes:
        model = initialised(shape)
        optimizer = torch.optim.AdamW(model.groups(0.1), lr=3e-4, betas=(0.9, 0.95), fused=True)
        loss_of = torch.compile(model.loss) if name == "compile" else model.loss
        ms = timing.on_cpu(lambda: loss_of(*text), model.parameters(), optimizer, a.warmup, a.steps)
        timing.tell_cpu(name, ms, batch * shape.context, "tokens")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    p = modes.add_parser("parity", help="compare the losses of a run with PyTorch")
    p.add_argument("--checkpoint", required=True, help="step-000000.h5 of the run")
    p.add_argument("--data", required=True, help="the run's dataset")
    p.add_argument("--run-file", required=True)
    p.add_argument("--loss-log", required=True)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--limit", type=float, default=1e-3)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--verbose", action="store_true", help="print every step")
    p = modes.add_parser("time", help="milliseconds per training step")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--precision", choices=["fp16", "bf16"], default="fp16")
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--warmup", type=int, default=10)
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--only", help="run only the modes whose name contains this")
    p = modes.add_parser("cpu", help="milliseconds per training step on the CPU")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--position", choices=["alibi", "learned"], help="instead of the shape's")
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    p.add_argument("--warmup", type=int, default=10)
    p.add_argument("--steps", type=int, default=100)
    p.add_argument("--only", help="run only the modes whose name contains this")
    a = parser.parse_args()
    return {"parity": parity, "time": measure, "cpu": measure_cpu}[a.mode](a)


if __name__ == "__main__":
    sys.exit(main())
