"""Writes python.safetensors beside this file: what Hugging Face's package makes of one small set of tensors.

Needs torch and safetensors (the file in the repository was made with safetensors 0.8.0). The test that reads
the file needs neither.
"""

import pathlib

import torch
from safetensors.torch import save_file

TENSORS = {
    "layer1.0.conv1.weight": torch.arange(8, dtype=torch.float32).reshape(2, 1, 2, 2) / 4,
    "bn1.num_batches_tracked": torch.tensor(2**40 + 3),
    "double": torch.tensor([0.1, -1e300], dtype=torch.float64),
    "labels": torch.tensor([[-1, 7, 2**31 - 1]], dtype=torch.int32),
    "half": torch.tensor([1, -2, float("inf")], dtype=torch.bfloat16),
    "pixels": torch.tensor([0, 127, 255], dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
    'größe "x"\n': torch.zeros(0, dtype=torch.uint8),
}

if __name__ == "__main__":
    save_file(TENSORS, pathlib.Path(__file__).with_name("python.safetensors"), metadata={"format": "pt"})
