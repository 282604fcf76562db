"""ResNet-50's training step in PyTorch, by torchvision's network: for peer_step.py and compare.py."""

import numpy as np
import torch
import torchvision
from safetensors.numpy import load_file, save_file

def title(arguments):
    return f"{arguments.network} training step, batch {arguments.batch} of {arguments.size}x{arguments.size}, SGD with momentum"


def make_inputs(arguments, weights_path, images_path, seed=0):
    """Writes torchvision's initial weights, and `images` [batch, size, size, 3] f32 with `labels` [batch] int64."""
    torch.manual_seed(seed)
    model = torchvision.models.resnet50()
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, weights_path)
    random = np.random.default_rng(seed)
    images = random.standard_normal((arguments.batch, arguments.size, arguments.size, 3), dtype=np.float32)
    save_file({"images": images, "labels": random.integers(0, 1000, arguments.batch)}, images_path)


def load(weights_path, images_path, device):
    model = torchvision.models.resnet50()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(weights_path).items()})
    model = model.to(device, memory_format=torch.channels_last).train()
    batch = {name: torch.from_numpy(value).to(device) for name, value in load_file(images_path).items()}
    # NHWC in memory, NCHW by index: exactly what PyTorch calls channels_last, without a copy.
    return model, batch["images"].permute(0, 3, 1, 2), batch["labels"]


def autocast(device, precision):
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def losses(network, weights_path, images_path, shards, precision, device):
    """The loss of every sample [batch], in training mode, the batch cut into `shards` contiguous sub-batches.

    `precision` is f32, tf32, bf16 or f64; every sub-batch has its own batch-norm statistics.
    """
    model, images, labels = load(weights_path, images_path, device)
    if precision == "f64":
        model, images = model.double(), images.double()
    parts = []
    with torch.no_grad(), autocast(device, precision):
        for x, y in zip(images.chunk(shards), labels.chunk(shards)):
            logits = model(x) if precision == "f64" else model(x).float()
            parts.append(torch.nn.functional.cross_entropy(logits, y, reduction="none"))
    return torch.cat(parts).double().cpu().numpy()


def make_step(network, weights_path, data_path, compiled, precision, device):
    """A function that trains one step."""
    model, images, labels = load(weights_path, data_path, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    forward = torch.compile(model) if compiled else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return step
