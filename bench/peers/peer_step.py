"""Training steps in PyTorch, in the forms that Taper is compared with.

Run by compare.py, one process per form, so that one form's memory and threads leave the next alone:

    peer_step.py --network resnet50 --form eager --precision f32 --weights w.safetensors --data d.safetensors

Reads numbers from standard input, one per line; for each it makes that many steps and prints their seconds as a JSON list, by
the wall's clock or by the processor's.
"""

import argparse
import importlib
import json
import sys
import time

import torch

NETWORKS = ["resnet50", "bert-mini", "bert-base"]
DEVICES = ["cpu", "sim", "cuda"]  # Taper's
PRECISIONS = ["f32", "tf32", "bf16"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # process_time: of all threads


def module_of(network):
    """What makes a network's inputs, losses and steps. It needs torchvision or transformers, which the other one does not."""
    return importlib.import_module("resnet50_step" if network == "resnet50" else "bert_step")


def prepare(device, precision):
    """PyTorch's name of a device of Taper's, with products of f32 as `precision` has them. Beside the device sim it computes
    on the CPU, where there is no tf32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return "cuda" if device == "cuda" else "cpu"


def main():
    parser = argparse.ArgumentParser(description="Times training steps in PyTorch.")
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--form", choices=["eager", "compile"], required=True)
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--device", choices=DEVICES, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=list(CLOCKS), required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    now = CLOCKS[arguments.clock]
    device = prepare(arguments.device, arguments.precision)
    inputs = arguments.network, arguments.weights, arguments.data
    step = module_of(arguments.network).make_step(*inputs, arguments.form == "compile", arguments.precision, device)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(now() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
