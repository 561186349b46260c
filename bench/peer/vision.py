#!/usr/bin/env python3
"""Image models in PyTorch, beside lockstep's.

  vision.py time --shape mnv3l|mnv3s32|resnet18     milliseconds per training step on a GPU
  vision.py cpu --shape mnv3s32 --batch 64          the same on the CPU in fp32
  vision.py layers DIRECTORY                        compare what bench/layers wrote with torchvision

`time`, `cpu`: torchvision's model, channels last, fp16 autocast with gradient scaling, clipping to
norm 1 and fused AdamW on one batch of random images: eager, compiled with CUDA graphs and without,
and max-autotune, which takes minutes to compile. On the CPU in fp32, eager, in both memory layouts.
The first line lists the modes.
`layers`: MobileNetV3 or ResNet-18, as the dump says. The same weights and images go through
torchvision's model in double precision, first end to end, for the outputs of every layer. Then
layer by layer: every convolution's output, and on the way back its gradient, is compared and then
replaced by lockstep's, so that each layer starts from the same inputs; this is for the gradients
with respect to the output of every convolution and those of every parameter. (End to end a ReLU
whose input is zero but for rounding falls on either side of its corner, and one such element among
ten million is a relative error of 3e-4 already; in the second pass elements this close to a corner
are left out and counted. Which value of a window ResNet-18's max pool takes is such a choice too,
and is not left out: gpu.sh compares at 64 x 64 pixels, where windows are few.) All must be within a
relative error (L2) of 1e-4 of the double values; gradients of parameters that have nearly no effect
(the weight of a norm with ReLU before another norm) or none (its bias) are judged by torchvision's
own fp32: at most half again as far away as that, and not at all where it errs by more than 0.1.
"""
import argparse
import json
import os
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import torchvision
except ImportError as error:
    sys.exit(f"vision.py: {error}; use a python3 with torch, torchvision and numpy")

import timing

SHAPES = {  # name: (constructor, batch, size, channels, classes, stem stride)
    "mnv3l": ("mobilenet_v3_large", 256, 224, 3, 1000, 2),
    "mnv3s32": ("mobilenet_v3_small", 256, 32, 3, 10, 2),
    "resnet18": ("resnet18", 256, 224, 3, 1000, 2),
}


def build(name, classes, channels=3, stride=2):
    model = getattr(torchvision.models, name)(num_classes=classes)
    stem = model.conv1 if name == "resnet18" else model.features[0][0]
    if channels != 3 or stride != 2:
        small = name == "resnet18" and stride == 1
        conv = torch.nn.Conv2d(channels, stem.out_channels, 3 if small else stem.kernel_size,
                               stride=stride, padding=1 if small else stem.padding, bias=False)
        if name == "resnet18":
            model.conv1 = conv
            if stride == 1:
                model.maxpool = torch.nn.Identity()
        else:
            model.features[0][0] = conv
    return model


# ---- time ----------------------------------------------------------------------------------------

def measure(a):
    name, batch, size, channels, classes, stride = SHAPES[a.shape]
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    modes = [("eager", None), ("compile with CUDA graphs", "reduce-overhead"),
             ("compile", "default"), ("compile max-autotune", "max-autotune")]
    modes = [mode for mode in modes if not a.only or a.only == mode[0]]

    def times(mode):
        torch.manual_seed(0)
        model = build(name, classes, channels, stride).cuda()
        model = model.to(memory_format=torch.channels_last).train()
        call = torch.compile(model, mode=mode) if mode else model
        decay = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
        x = torch.randn(batch, channels, size, size, device="cuda")
        x = x.to(memory_format=torch.channels_last)
        y = torch.randint(0, classes, (batch,), device="cuda")
        return timing.on_gpu(lambda: F.cross_entropy(call(x), y), model.parameters(), optimizer,
                            torch.float16, a.warmup, a.steps)

    timing.tell_modes(f"{a.shape}, batch {batch}, fp16", modes, batch, "images", times)
    return 0


def measure_cpu(a):
    name, batch, size, channels, classes, stride = SHAPES[a.shape]
    batch = a.batch or batch
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"# torch {torch.__version__}, {torch.get_num_threads()} threads, {a.shape}, "
          f"batch {batch}, fp32")
    print("# modes: contiguous_format; channels_last", flush=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = build(name, classes, channels, stride).to(memory_format=layout).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        x = torch.randn(batch, channels, size, size).to(memory_format=layout)
        y = torch.randint(0, classes, (batch,))
        ms = timing.on_cpu(lambda: F.cross_entropy(model(x), y), model.parameters(), optimizer,
                          a.warmup, a.steps)
        timing.tell_cpu(str(layout)[6:], ms, batch, "images")
    return 0


# ---- layers --------------------------------------------------------------------------------------

class Dump:
    """What bench/layers wrote: index.json lists name, kind, shape, offset of f32 data.bin."""

    def __init__(self, directory):
        with open(os.path.join(directory, "index.json")) as f:
            index = json.load(f)
        self.run = index["run"]
        data = np.fromfile(os.path.join(directory, "data.bin"), dtype=np.float32)
        self.items = {}
        for t in index["tensors"]:
            n = int(np.prod(t["shape"]))
            array = data[t["offset"]:t["offset"] + n].reshape(t["shape"])
            self.items.setdefault((t["kind"], t["name"]), array)

    def get(self, kind, name):
        return torch.from_numpy(self.items[(kind, name)].copy())


def to_torch(w, like):
    """A weight of lockstep in torch's layout."""
    if like.dim() == 4 and w.dim() == 3:  # depthwise [k, k, C]
        return w.permute(2, 0, 1).unsqueeze(1)
    if like.dim() == 4 and w.dim() == 4:  # [Co, kh, kw, Ci]
        return w.permute(0, 3, 1, 2)
    return w.reshape(like.shape)


class Parts:
    """Of a torchvision model, by lockstep's scopes.

    convs: (scope, convolution, norm, module whose output is that of lockstep's norm). gates, dense:
    (scope, module). sums: (module before which branches are summed, scopes of their convolutions).
    """

    def __init__(self, convs, gates, dense, sums):
        self.convs, self.gates, self.dense, self.sums = convs, gates, dense, sums


def mobilenet_parts(model):
    model.classifier[2].p = 0.0
    layers, gates = [("stem", model.features[0])], []
    for i, block in enumerate(model.features[1:-1]):
        parts = list(block.block)
        squeeze = [p for p in parts if isinstance(p, torchvision.ops.SqueezeExcitation)]
        convs = [p for p in parts if not isinstance(p, torchvision.ops.SqueezeExcitation)]
        names = ["expand", "depthwise", "project"] if len(convs) == 3 else ["depthwise", "project"]
        layers += [(f"blocks.{i}.{n}", c) for n, c in zip(names, convs)]
        gates += [(f"blocks.{i}.se", s) for s in squeeze]
    layers.append(("head.conv", model.features[-1]))
    return Parts([(scope, m[0], m[1], m) for scope, m in layers], gates,
                 [("head.hidden", model.classifier[0]), ("head.classifier", model.classifier[3])],
                 [])


def resnet_parts(model):
    """A block calls its ReLU twice: that of its first norm becomes a module of its own."""
    model.relu = torch.nn.ReLU()
    convs, sums = [("stem", model.conv1, model.bn1, model.relu)], []
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    for i, block in enumerate(b for stage in stages for b in stage):
        scope = f"blocks.{i}"
        block.bn1 = torch.nn.Sequential(block.bn1, torch.nn.ReLU())
        block.relu = torch.nn.ReLU()
        ends = [(f"{scope}.conv2", block.conv2, block.bn2, block.bn2)]
        if block.downsample is not None:
            conv, norm = block.downsample
            ends.append((f"{scope}.shortcut", conv, norm, norm))
        convs += [(f"{scope}.conv1", block.conv1, block.bn1[0], block.bn1)] + ends
        sums.append((block.relu, [end[0] for end in ends]))
    return Parts(convs, [], [("head.classifier", model.fc)], sums)


def parameters_of(parts):
    for scope, conv, norm, _ in parts.convs:
        yield f"{scope}.weight", conv.weight
        yield f"{scope}_norm.weight", norm.weight
        yield f"{scope}_norm.bias", norm.bias
    for scope, m in parts.gates:
        for ours, theirs in (("reduce", m.fc1), ("expand", m.fc2)):
            yield f"{scope}.{ours}.weight", theirs.weight
            yield f"{scope}.{ours}.bias", theirs.bias
    for scope, m in parts.dense:
        yield f"{scope}.weight", m.weight
        yield f"{scope}.bias", m.bias


def relative(a, b, least=1e-30):
    return ((a - b).double().norm() / max(b.double().norm().item(), least)).item()


CORNERS = (-3.0, 0.0, 3.0)  # of ReLU and hard-swish
KINDS = {  # model.kind: (constructor, its parts)
    "mobilenetv3": ("mobilenet_v3_{size}", mobilenet_parts),
    "resnet18": ("resnet18", resnet_parts),
}


class Step:
    """One training step of torchvision's model with the dump's weights and images.

    seen: (kind, name) -> what it computed, in lockstep's layout, double, on the CPU. forced: the
    outputs of convolutions and their gradients are replaced by lockstep's once they are seen.
    clear: by scope, which elements of a gradient are not next to a corner.
    """

    def __init__(self, dump, precision, device, forced):
        self.dump, self.precision, self.device, self.forced = dump, precision, device, forced
        self.seen, self.clear = {}, {}
        run = dump.run
        name, parts_of = KINDS[run["kind"]]
        model = build(name.format(**run), run["classes"], run["channels"], run["stem_stride"])
        model.train()
        parts = parts_of(model)
        named = list(parameters_of(parts))
        with torch.no_grad():
            for name, p in named:
                p.copy_(to_torch(dump.get("parameter", name), p))
        model.to(device).to(precision)
        for scope, conv, norm, last in parts.convs:
            conv.register_forward_hook(self.convolution(scope))
            norm.eps = run["norm_eps"]
            norm.register_forward_hook(self.norm(scope))
            last.register_forward_hook(self.output(f"{scope}_norm"))
        for scope, m in parts.gates + parts.dense:
            m.register_forward_hook(self.output(scope))
        for m, scopes in parts.sums:
            m.register_forward_pre_hook(self.sum(scopes))
        x = self.take("output", "images")
        targets = self.take("targets", "images")
        (-(targets * F.log_softmax(model(x), dim=1)).sum(1).mean()).backward()
        for name, p in named:
            self.seen[("parameter_gradient", name)] = p.grad.double().cpu()

    def take(self, kind, name):
        """lockstep's tensor in torch's layout."""
        t = self.dump.get(kind, name)
        t = t.permute(0, 3, 1, 2) if t.dim() == 4 else t
        return t.to(self.device).to(self.precision)

    def keep(self, kind, scope, t):
        t = t.detach().permute(0, 2, 3, 1) if t.dim() == 4 else t.detach()
        self.seen[(kind, scope)] = t.double().cpu().clone()  # what follows may work in place

    def output(self, scope):
        return lambda _, __, out: self.keep("output", scope, out)

    def convolution(self, scope):
        def backward(gradient):
            self.keep("gradient", scope, gradient)
            return self.take("gradient", scope) if self.forced else None

        def forward(_, __, out):
            self.keep("convolution", scope, out)
            if self.forced:
                out = out + (self.take("convolution", scope) - out).detach()
            out.register_hook(backward)
            return out
        return forward

    def leave_out(self, scopes, t):
        z = t.detach().permute(0, 2, 3, 1)
        near = torch.zeros_like(z, dtype=torch.bool)
        for corner in CORNERS:
            near |= (z - corner).abs() < 1e-5
        for scope in scopes:
            self.clear[scope] = ~near.cpu()

    def norm(self, scope):
        return lambda _, __, out: self.leave_out([scope], out)

    def sum(self, scopes):
        """Called twice in a block; the second is the sum."""
        return lambda _, inputs: self.leave_out(scopes, inputs[0])


def layers(a):
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dump = Dump(a.directory)
    if dump.run["kind"] not in KINDS:
        sys.exit(f"vision.py: {a.directory}: expected model.kind {' or '.join(KINDS)}, found "
                 f"{dump.run['kind']}")
    whole = Step(dump, torch.float64, device, False).seen
    exact = Step(dump, torch.float64, device, True)
    single = Step(dump, torch.float32, device, True).seen
    compared = {k: v for k, v in whole.items() if k[0] in ("output", "convolution")}
    compared.update((k, v) for k, v in exact.seen.items() if k not in compared)
    worst, failed, nothing, left_out = 0.0, 0, 0, 0
    for (kind, name), theirs in compared.items():
        ours = dump.get(kind, name)
        ours = (to_torch(ours, theirs) if kind == "parameter_gradient" else
                ours.reshape(theirs.shape))
        if kind == "gradient":
            clear = exact.clear[name]
            left_out += int((~clear).sum())
            ours, theirs = ours[clear], theirs[clear]
        error = relative(ours, theirs)
        their_error = 0.0
        if kind == "parameter_gradient":
            their_error = relative(single[(kind, name)], theirs)
        if their_error > 0.1:
            nothing += 1  # but rounding
            continue
        worst = max(worst, error)
        bad = not error <= max(a.limit, 1.5 * their_error)
        failed += bad
        if error > a.limit or a.verbose:
            print(f"{kind:18s} {name:32s} {error:.1e}, torchvision's fp32 {their_error:.1e}"
                  f"{'  BAD' if bad else ''}")
    print(f"{len(compared)} tensors compared, {failed} too far from the exact value; largest error "
          f"{worst:.1e}; {nothing} gradients are zero but for rounding, {left_out} elements "
          "next to a corner left out")
    return 0 if compared and not failed else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    p = modes.add_parser("time", help="milliseconds per training step")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--warmup", type=int, default=12)
    p.add_argument("--steps", type=int, default=30)
    p.add_argument("--only", help="run only this mode")
    p = modes.add_parser("cpu", help="milliseconds per training step on the CPU")
    p.add_argument("--shape", choices=SHAPES, required=True)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    p.add_argument("--warmup", type=int, default=5)
    p.add_argument("--steps", type=int, default=30)
    p = modes.add_parser("layers", help="compare layer by layer with torchvision")
    p.add_argument("directory")
    p.add_argument("--limit", type=float, default=1e-4)
    p.add_argument("--verbose", action="store_true")
    a = parser.parse_args()
    return {"time": measure, "cpu": measure_cpu, "layers": layers}[a.mode](a)


if __name__ == "__main__":
    sys.exit(main())
