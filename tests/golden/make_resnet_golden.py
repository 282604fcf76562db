#!/usr/bin/env python3
"""Makes tests/golden/resnet/*.safetensors: what PyTorch computes with the networks of tests/parity_test.cpp.

Needs torch, torchvision and safetensors; the test needs none of them. Run without arguments from anywhere:
    python3 tests/golden/make_resnet_golden.py [case ...]

Weights, images and labels are not stored: both sides draw them by Philox from a tensor's name and an element's
index in Taper's memory order (filters KRSC, images NHWC). Of each network, in train and in eval mode, from a run
in float64: logits and loss (summed over images); of each tensor's gradient, and in train mode of the running
statistics after one step, the norm, four projections on random signs and eight elements. From runs in float32
and under bfloat16 autocast: the error of each of these tensors against float64, as |a - b| / |b| over the tensor,
the larger of contiguous and channels_last. In bfloat16 it hangs on a few relus that come out on the other side of
0; so it is measured several times, with weights, images and labels drawn anew from the seeds that follow.
"""
import pathlib
import sys

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import Bottleneck

OUT = pathlib.Path(__file__).parent / "resnet"
VALUES, SIGNS, PLACES = 0, 1, 2  # what words are drawn for: the second word of the counter


def philox(index, purpose, key):
    """Philox4x32-10 for counters (index, purpose, 0, 0): [n, 4] words (Salmon et al., SC 2011)."""
    low = np.uint64(0xFFFFFFFF)
    c = [index.astype(np.uint64), np.full(index.shape, purpose, np.uint64)] + [np.zeros(index.shape, np.uint64)] * 2
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & low,
             (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, -1)


def words(name, count, purpose):
    """Word i of what is called `name`, with its seed; the key is FNV-1a of the name."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    return philox(np.arange((count + 3) // 4), purpose, key).reshape(-1)[:count]


def symmetric(name, count):
    """Uniform in [-1, 1): the upper 24 bits."""
    return (words(name, count, VALUES) >> np.uint64(8)).astype(np.float64) * 2.0**-23 - 1


def memory_order(tensor):
    """Taper's order of the elements: channels last."""
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)


def draw_weights(model, seed, noise):
    """Every tensor rounded to float32. Filters have the variance 2 / fan_out of torchvision's initialisation;
    norms and running statistics vary from channel to channel; the last norm of a block with a shortcut is small,
    as in trained networks, so that errors do not double from block to block. `noise`: seeds half an ulp."""
    state = model.state_dict()
    last = "bn3.weight" if "layer1.0.bn3.weight" in state else "bn2.weight"
    rng = np.random.default_rng(noise)
    with torch.no_grad():
        for name, tensor in state.items():
            if name.endswith("num_batches_tracked"):
                continue
            u = symmetric(f"{seed}/{name}", tensor.numel())
            if tensor.dim() == 4:
                k, c, r, s = tensor.shape
                u = (u * np.sqrt(6.0 / (k * r * s))).reshape(k, r, s, c).transpose(0, 3, 1, 2)
            elif name.startswith("fc."):
                u = u * np.sqrt(1.0 / model.fc.in_features)
            elif name.endswith("running_var"):
                u = 1 + 0.5 * u
            elif name.endswith("weight"):
                u = 0.75 + 0.25 * u
                if name.endswith(last) and getattr(model, "shortcuts", True):
                    u = u * 0.25
            else:
                u = 0.25 * u
            u = np.ascontiguousarray(u).astype(np.float32)
            if noise:
                u = u * (1 + 2.0**-24 * rng.uniform(-1, 1, u.shape))
            tensor.copy_(torch.from_numpy(u.astype(np.float32)).reshape(tensor.shape))


class CifarBlock(nn.Module):
    def __init__(self, bottleneck, shortcuts, act, inputs, width, inner, out, stride):
        super().__init__()
        self.act, self.shortcuts, self.count = act, shortcuts, 3 if bottleneck else 2
        mid = round(width * inner)
        if bottleneck:
            sizes = [(inputs, mid, 1, 1), (mid, mid, 3, stride), (mid, out, 1, 1)]
        else:
            sizes = [(inputs, mid, 3, stride), (mid, out, 3, 1)]
        for i, (a, b, size, step) in enumerate(sizes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, size, step, size // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.downsample = None
        if shortcuts and (stride != 1 or inputs != out):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = self.act(y)
        if self.shortcuts:
            y = y + (self.downsample(x) if self.downsample else x)
        return self.act(y)


class Cifar(nn.Module):
    """The CIFAR networks of He et al. with torchvision's names and projections where the shape changes."""

    def __init__(self, depths, width, bottleneck=False, shortcuts=True, act=torch.relu, inner=1, classes=10):
        super().__init__()
        self.act, self.shortcuts = act, shortcuts
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                mid = width * 2**stage
                out = 4 * mid if bottleneck else mid
                blocks.append(CifarBlock(bottleneck, shortcuts, act, inputs, mid, inner, out,
                                         2 if stage > 0 and i == 0 else 1))
                inputs = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages, self.fc = len(depths), nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


# name: (network, images [n, height, width], label smoothing); tests/parity_test.cpp has the same table.
CASES = {
    "resnet18": (lambda: torchvision.models.resnet18(), (4, 64, 64), 0.0),
    "resnet50": (lambda: torchvision.models.resnet50(), (4, 64, 64), 0.1),
    "wide-bottleneck": (lambda: torchvision.models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10,
                                                          width_per_group=128), (4, 45, 51), 0.0),
    "cifar-basic": (lambda: Cifar([3, 3, 3], 16), (4, 16, 16), 0.0),
    "cifar-bottleneck": (lambda: Cifar([2, 2, 2], 8, bottleneck=True, inner=2), (4, 16, 16), 0.1),
    "cifar-plain": (lambda: Cifar([2, 2, 2], 12, shortcuts=False), (4, 16, 16), 0.0),
    "cifar-tanh": (lambda: Cifar([2, 2, 2], 8, act=torch.tanh, inner=1.5), (4, 13, 15), 0.0),
}
LARGE = ["resnet18", "resnet50", "wide-bottleneck"]  # so many relus that some flip in float32 too


def inputs(seed, n, height, width, classes):
    """Images of 8 bits each, exact in bfloat16."""
    pixels = (words(f"{seed}/images", n * height * width * 3, VALUES) >> np.uint64(24)).astype(np.float32)
    images = torch.from_numpy((pixels - 128) / 64).reshape(n, height, width, 3).permute(0, 3, 1, 2).contiguous()
    labels = (words(f"{seed}/labels", n, VALUES) % np.uint64(classes)).astype(np.int64)
    return images, torch.from_numpy(labels)


def run(case, seed, training, dtype, layout=torch.contiguous_format, noise=0):
    """Logits, loss, and gradients and running statistics by name, as float64."""
    network, shape, smoothing = CASES[case]
    model = network()
    draw_weights(model, seed, noise)
    images, labels = inputs(seed, *shape, model.fc.out_features)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    model = model.to(working).to(memory_format=layout).train(training)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(images.to(working).to(memory_format=layout))
    logits = logits.to(working)
    loss = nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    loss.backward()
    tensors = {name: p.grad for name, p in model.named_parameters()}
    if training:
        tensors |= {name: b for name, b in model.named_buffers() if "running" in name}
    tensors = {name: memory_order(t.detach()).double().numpy() for name, t in tensors.items()}
    return logits.detach().double().numpy(), loss.item(), tensors


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def digest(name, values):
    signs = words(name, values.size, SIGNS)
    projections = [np.sum(np.where(signs >> np.uint64(j) & np.uint64(1), -values, values)) for j in range(4)]
    places = words(name, 8, PLACES) * np.uint64(values.size) >> np.uint64(32)
    return [np.linalg.norm(values)] + projections + list(values[places.astype(np.int64)])


def errors_of(case, seed, training, dtype, noises, truth):
    """Of the logits and each tensor: the largest error over layouts and noises."""
    logits, _, tensors = truth
    errors = []
    for noise in noises:
        for layout in [torch.contiguous_format, torch.channels_last]:
            other_logits, _, other = run(case, seed, training, dtype, layout, noise)
            errors.append([relative(other_logits, logits)] + [relative(other[name], tensors[name]) for name in tensors])
    return np.max(errors, 0)


def measure(case, seed):
    """The content of the file; None if a relu flips that should not."""
    content, names = {}, {}
    for mode in ["train", "eval"]:
        losses, bf16_errors = [], []
        for draw in range(4 if case in LARGE else 16):
            truth = run(case, seed + draw, mode == "train", torch.float64)
            logits, loss, tensors = truth
            if draw == 0:
                errors = errors_of(case, seed, mode == "train", torch.float32, [0, 1, 2], truth)
                if case not in LARGE and np.max(errors) > 1e-4:
                    return None
                report(case, seed, mode, "f32", errors)
                names[mode] = list(tensors)
                content[f"{mode}.logits"] = logits
                content[f"{mode}.digests"] = np.array([digest(name, tensors[name]) for name in tensors])
                content[f"{mode}.f32.errors"] = errors
            losses.append(loss)
            bf16_errors.append(errors_of(case, seed + draw, mode == "train", torch.bfloat16, [0], truth))
            report(case, seed + draw, mode, "bf16", bf16_errors[-1])
        content[f"{mode}.losses"] = np.array(losses)
        content[f"{mode}.bf16.errors"] = np.array(bf16_errors)
    metadata = {"made by": f"torch {torch.__version__}, torchvision {torchvision.__version__}", "seed": str(seed)}
    return content, metadata | {f"{mode}.names": "\n".join(names[mode]) for mode in names}


def report(case, seed, mode, dtype, errors):
    print(f"{case}, seed {seed}, {mode}, {dtype}: logits {errors[0]:.1e}, median {np.median(errors):.1e}, "
          f"worst {np.max(errors):.1e}", flush=True)


if __name__ == "__main__":
    assert philox(np.array([0]), 0, 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    OUT.mkdir(exist_ok=True)
    for selected in sys.argv[1:] or CASES:
        content, metadata = next(filter(None, (measure(selected, seed) for seed in range(100))))
        save_file({k: torch.from_numpy(v.astype(np.float64)) for k, v in content.items()},
                  OUT / f"{selected}.safetensors", metadata)
