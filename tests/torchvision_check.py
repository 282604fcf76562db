#!/usr/bin/env python3
"""Loads an export into torchvision's model of the same name, strictly, and compares logits.

usage: torchvision_check.py EXPORT.safetensors MODEL [SAMPLE.safetensors]

MODEL is torchvision's name, such as resnet50. SAMPLE holds `images`, f32 [n, height, width, 3], and `logits`, f32
[n, classes]: what Taper computes from them in evaluation mode. Exit code 0: loaded, and logits agree; 77: torch or
torchvision is not installed; 1: anything else, with a sentence on stderr.
"""
import json
import pathlib
import struct
import sys

try:
    import torch
    import torchvision
except ImportError as error:
    print(f"torchvision_check.py: {error}", file=sys.stderr)
    sys.exit(77)

# Both sides compute in f32. PyTorch's own error against float64 is below 1e-6 for such networks
# (tests/golden/make_resnet_golden.py prints it); weights that were loaded wrongly give errors near 1.
TOLERANCE = 1e-5


def read(path):
    """The f32 tensors of a safetensors file (read by hand: Debian 12 does not package the library)."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise SystemExit(f"{path}: {name} is of {entry['dtype']}, not F32")
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return tensors


def main(export, name, sample=None):
    weights = read(export)
    model = getattr(torchvision.models, name)(num_classes=weights["fc.weight"].shape[0])
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise SystemExit(f"{export}: {error}")
    print(f"{export}: torchvision's {name} loads it strictly")
    if sample is None:
        return
    tensors = read(sample)
    with torch.no_grad():
        logits = model.eval()(tensors["images"].permute(0, 3, 1, 2))
    error = ((logits - tensors["logits"]).norm() / logits.norm()).item()
    print(f"{sample}: logits differ by {error:.1e} of their norm")
    if not error <= TOLERANCE:
        raise SystemExit(f"{sample}: more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
