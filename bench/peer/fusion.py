#!/usr/bin/env python3
"""The model of src/model/fusion.c in plain PyTorch, as a peer; blocks as in transformer.py.

  fusion.py time --shape fusion              milliseconds per training step on a GPU
  fusion.py cpu --shape fusion --batch 4     the same on the CPU in fp32
  fusion.py parity --checkpoint run/checkpoints/step-000000.h5 --data pairs.h5 \\
      --run-file run/run.yaml --loss-log run/loss.log

`time`: fp16 autocast with gradient scaling, clipping to norm 1 and fused AdamW on one batch of
random images and texts: eager, compiled with CUDA graphs and without, and max-autotune, which takes
minutes to compile. The first line lists the modes.
`parity`: starts from the weights of a lockstep checkpoint, forms the same batches, trains in fp32
without dropout and augmentation, and compares the loss of every step; exit status 1 when a relative
difference exceeds the limit.
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
    sys.exit(f"fusion.py: {error}; use a python3 with torch and numpy")

import timing
import transformer as peer

# ---- the model -----------------------------------------------------------------------------------


@dataclass
class Shape:
    block: peer.Shape  # of the text: layers, tokens in `context`
    image_layers: int
    cross_layers: int
    patch: int
    size: int
    channels: int
    classes: int


class Attention(nn.Module):
    """To itself, every position to all; or with `memory` from q to that."""

    def __init__(self, s, across):
        super().__init__()
        self.s, self.head, self.across = s, s.width // s.heads, across
        if across:
            self.q = nn.Linear(s.width, s.width, bias=s.bias)
            self.kv = nn.Linear(s.width, 2 * s.kv_heads * self.head, bias=s.bias)
        else:
            self.qkv = nn.Linear(s.width, (s.heads + 2 * s.kv_heads) * self.head, bias=s.bias)
        self.out = nn.Linear(s.width, s.width, bias=s.bias)

    def forward(self, x, memory=None):
        s, (batch, steps, _) = self.s, x.shape
        if self.across:
            q = self.q(x).view(batch, steps, s.heads, self.head).transpose(1, 2)
            kv = self.kv(memory).view(batch, -1, 2 * s.kv_heads, self.head).transpose(1, 2)
            k, v = kv.split(s.kv_heads, dim=1)
        else:
            heads = self.qkv(x).view(batch, steps, s.heads + 2 * s.kv_heads, self.head)
            q, k, v = heads.transpose(1, 2).split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        if s.kv_heads != s.heads:
            k = k.repeat_interleave(s.heads // s.kv_heads, dim=1)
            v = v.repeat_interleave(s.heads // s.kv_heads, dim=1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, steps, s.width))


class Block(nn.Module):
    def __init__(self, s, across=False):
        super().__init__()
        self.attn_norm, self.attn = peer.make_norm(s), Attention(s, across)
        self.ffn_norm, self.ffn = peer.make_norm(s), peer.FeedForward(s)

    def forward(self, x, memory=None):
        x = x + self.attn(self.attn_norm(x), memory)
        return x + self.ffn(self.ffn_norm(x))


class Image(nn.Module):
    def __init__(self, m):
        super().__init__()
        s = m.block
        self.patch = nn.Conv2d(m.channels, s.width, m.patch, stride=m.patch, bias=False)
        self.position = nn.Embedding((m.size // m.patch) ** 2, s.width)
        self.blocks = nn.ModuleList(Block(s) for _ in range(m.image_layers))
        self.norm = peer.make_norm(s)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Text(nn.Module):
    def __init__(self, m):
        super().__init__()
        s = m.block
        self.embed = nn.Embedding(s.rows, s.width)
        self.position = nn.Embedding(s.context, s.width)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))

    def forward(self, tokens):
        x = self.embed(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return x


class Cross(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.blocks = nn.ModuleList(Block(m.block, True) for _ in range(m.cross_layers))

    def forward(self, x, memory):
        for block in self.blocks:
            x = block(x, memory)
        return x


class Head(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.classifier = nn.Linear(m.block.width, m.classes)

    def forward(self, x):
        return self.classifier(x)


class Fusion(nn.Module):
    """Names of modules are the dataset paths below `parameters` in a checkpoint."""

    def __init__(self, m):
        super().__init__()
        if m.block.position != "learned":
            sys.exit(f"fusion.py: position {m.block.position} is not here, only learned")
        self.image, self.text, self.cross, self.head = Image(m), Text(m), Cross(m), Head(m)
        self.norm = peer.make_norm(m.block)

    def forward(self, images, tokens):
        x = self.cross(self.text(tokens), self.image(images))
        return self.head(self.norm(x.mean(1)))

    def loss(self, images, tokens, labels):
        return F.cross_entropy(self(images, tokens).float(), labels)

    groups = peer.Transformer.groups


# ---- parity --------------------------------------------------------------------------------------


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
            w = torch.from_numpy(found[name][()])
            if p.dim() == 4:  # [out, P, 1, P C], which lies as [out, P, P, C]
                out, channels, side, _ = p.shape
                w = w.reshape(out, side, side, channels).permute(0, 3, 1, 2)
            p.copy_(w)


def batch_of(data, scale, step, batch, leaves, seed):
    """Images, tokens and labels of the global batch, leaf after leaf; one row is one sample."""
    images, tokens, labels = data
    shard, mine = len(labels) // leaves, []
    for leaf in range(leaves):
        mine.append(leaf * shard + peer.window_starts(step, batch // leaves, shard, 0, seed, leaf))
    rows = np.concatenate(mine)
    mean, std = scale
    x = (images[rows].astype(np.float32) / 255 - mean) / std
    return (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(tokens[rows].astype(np.int64)),
            torch.from_numpy(labels[rows].astype(np.int64)))


def parity(a):
    import h5py
    import yaml

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_flash_sdp(False)  # attention in plain fp32
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    with h5py.File(a.checkpoint, "r") as file, h5py.File(a.data, "r") as data:
        with open(a.run_file) as text:
            run = yaml.safe_load(text)
        m, o, t = run["model"], run["optimizer"], run["train"]
        if float(m["dropout"]) != 0:
            sys.exit("parity needs dropout 0: PyTorch draws other random numbers")
        seed, leaves = int(file.attrs["seed"]), int(file.attrs["leaves"])
        samples = [data[f"train/{name}"][()] for name in ("images", "tokens", "labels")]
        scale = [data.attrs[name].astype(np.float32) for name in ("mean", "std")]
        vocabulary = int(data.attrs["vocabulary_size"])
        block = peer.Shape(
            context=samples[1].shape[1], rows=vocabulary, vocabulary=vocabulary,
            norm_eps=float(m["norm_eps"]),
            **{k: m[k] for k in ("layers", "width", "heads", "kv_heads", "position", "norm", "ffn",
                                 "ffn_width", "bias")})
        model = Fusion(Shape(block, m["image_layers"], m["cross_layers"], m["patch"],
                             samples[0].shape[1], samples[0].shape[3], len(data.attrs["classes"])))
        load_weights(model, file)
        model.to(a.device)
    for key in ("lr", "min_lr", "beta1", "beta2", "eps", "weight_decay", "clip"):
        o[key] = float(o[key])
    optimizer = torch.optim.AdamW(model.groups(o["weight_decay"]), betas=(o["beta1"], o["beta2"]),
                                  eps=o["eps"])
    losses, worst, compared = peer.read_losses(a.loss_log), 0.0, 0
    for step in range(a.steps):
        batch = batch_of(samples, scale, step, t["batch"], leaves, seed)
        for group in optimizer.param_groups:
            group["lr"] = peer.learning_rate(o, t["steps"], step)
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(*(x.to(a.device) for x in batch))
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
        if difference > a.limit or (step + 1) % 10 == 0:
            print(f"step {step + 1:4d}  lockstep {theirs:.7f}  torch {mine:.7f}  {difference:.2e}")
        if not math.isfinite(difference):
            worst = math.inf
    print(f"{compared} steps compared, largest relative difference {worst:.2e}")
    return 0 if compared == a.steps and worst <= a.limit else 1


# ---- time ----------------------------------------------------------------------------------------

SHAPES = {  # name: (batch, shape)
    "fusion": (128, Shape(peer.Shape(4, 384, 6, 64, 8192, 8192, position="learned"),
                          4, 4, 16, 224, 3, 1000)),
}


def initialised(shape):
    torch.manual_seed(0)
    model = Fusion(shape)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.02)
    return model


def random_batch(shape, batch, device):
    images = torch.randn(batch, shape.channels, shape.size, shape.size, device=device)
    tokens = torch.randint(0, shape.block.vocabulary, (batch, shape.block.context), device=device)
    return (images.to(memory_format=torch.channels_last), tokens,
            torch.randint(0, shape.classes, (batch,), device=device))


def measure(a):
    batch, shape = SHAPES[a.shape]
    batch = a.batch or batch
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    modes = [("eager", None), ("compile with CUDA graphs", "reduce-overhead"),
             ("compile", "default"), ("compile max-autotune", "max-autotune")]
    modes = [mode for mode in modes if not a.only or a.only == mode[0]]

    def times(mode):
        model = initialised(shape).cuda()
        model.image.patch = model.image.patch.to(memory_format=torch.channels_last)
        if mode:
            model.loss = torch.compile(model.loss, mode=mode)
        optimizer = torch.optim.AdamW(model.groups(0.1), lr=3e-4, fused=True)
        samples = random_batch(shape, batch, "cuda")
        return timing.on_gpu(lambda: model.loss(*samples), model.parameters(), optimizer,
                            torch.float16, a.warmup, a.steps)

    timing.tell_modes(f"{a.shape}, batch {batch}, fp16", modes, batch, "images", times)
    return 0


def measure_cpu(a):
    batch, shape = SHAPES[a.shape]
    batch = a.batch or batch
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"# torch {torch.__version__}, {torch.get_num_threads()} threads, {a.shape}, "
          f"batch {batch}, fp32")
    print("# modes: eager", flush=True)
    model, samples = initialised(shape), random_batch(shape, batch, "cpu")
    optimizer = torch.optim.AdamW(model.groups(0.1), lr=3e-4, fused=True)
    ms = timing.on_cpu(lambda: model.loss(*samples), model.parameters(), optimizer, a.warmup,
                      a.steps)
    timing.tell_cpu("eager", ms, batch, "images")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    p = modes.add_parser("parity", help="compare the losses of a run with PyTorch")
    p.add_argument("--checkpoint", required=True, help="step-000000.h5 of the run")
    p.add_argument("--data", required=True, help="the run's dataset")
    p.add_argument("--run-file", required=True, help="run.yaml of the run directory")
    p.add_argument("--loss-log", required=True)
    p.add_argument("--steps", type=int, default=60)
    p.add_argument("--limit", type=float, default=1e-3)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p = modes.add_parser("time", help="milliseconds per training step")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--warmup", type=int, default=12)
    p.add_argument("--steps", type=int, default=40)
    p.add_argument("--only", help="run only this mode")
    p = modes.add_parser("cpu", help="milliseconds per training step on the CPU")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--steps", type=int, default=30)
    a = parser.parse_args()
    return {"parity": parity, "time": measure, "cpu": measure_cpu}[a.mode](a)


if __name__ == "__main__":
    sys.exit(main())
