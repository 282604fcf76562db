"""Training steps in PyTorch, in the forms that Taper is compared with.

Run by compare.py, one process per form, so that one form's memory and threads leave the next alone:

    peer_step.py --network resnet50 --form eager --precision f32 --weights w.safetensors --data d.safetensors

Reads numbers from standard input, one per line; for each it makes that many steps and prints their seconds as a JSON list, by
the wall's clock or by the processor's.
"""

import argparse
import json
import sys
import time

import torch

import bert_step
import resnet50_step

NETWORKS = ["resnet50", "bert-mini", "bert-base"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # process_time: of all threads


def module_of(network):
    """What makes a network's inputs, losses and steps."""
    return resnet50_step if network == "resnet50" else bert_step


def main():
    parser = argparse.ArgumentParser(description="Times training steps in PyTorch.")
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--form", choices=["eager", "compile"], required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=list(CLOCKS), required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    now = CLOCKS[arguments.clock]
    inputs = arguments.network, arguments.weights, arguments.data
    step = module_of(arguments.network).make_step(*inputs, arguments.form == "compile", arguments.precision)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = now()
            step()
            seconds.append(now() - start)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
