#!/usr/bin/env python3
"""Writes optimizer.json beside this file: five steps of torch.optim.SGD and AdamW in double and in float.

Needs torch (the file in the repository was made with 2.15.0 on a CPU). The test that reads the file does not.
All inputs are multiples of 2^-12: both precisions start from the same numbers.
"""
import json
import pathlib

import torch

STEPS, SIZE = 5, 24
CASES = [
    {"rule": "sgd", "lr": 0.1},
    {"rule": "sgd", "lr": 0.1, "momentum": 0.9},
    {"rule": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    {"rule": "sgd", "lr": 0.03, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    {"rule": "adamw", "lr": 0.001, "weight_decay": 0.01},
    {"rule": "adamw", "lr": 0.01, "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1},
    {"rule": "adamw", "lr": 0.01, "weight_decay": 0.0},
]


def run(case, start, gradients, dtype):
    options = {k: tuple(v) if k == "betas" else v for k, v in case.items() if k != "rule"}
    parameter = torch.nn.Parameter(start.to(dtype, copy=True))
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[case["rule"]]
    optimizer = kind([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.to(dtype)
        optimizer.step()
    return parameter.tolist()


def main():
    torch.manual_seed(1)
    grid = lambda *shape: torch.round(torch.randn(*shape, dtype=torch.float64) * 4096) / 4096
    start, gradients = grid(SIZE), grid(STEPS, SIZE)
    gradients[:, 0] = 0  # AdamW's denominator is eps alone
    cases = [
        {**case, "f64": run(case, start, gradients, torch.float64), "f32": run(case, start, gradients, torch.float32)}
        for case in CASES
    ]
    golden = {"start": start.tolist(), "gradients": gradients.tolist(), "cases": cases}
    path = pathlib.Path(__file__).with_name("optimizer.json")
    path.write_text(json.dumps(golden, indent=1).replace("\n   ", " ").replace("\n  ]", "]") + "\n")


if __name__ == "__main__":
    main()
