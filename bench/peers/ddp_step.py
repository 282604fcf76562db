"""Training steps of the demo's ResNet in PyTorch on one or several processes: started by mpirun, for scaling.py.

    mpirun -n 2 python ddp_step.py --batch 128 --steps 20

Process 0 prints the seconds of each step as a JSON list. Each process has its part of the batch, in memory.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import torch
from torch import nn

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"))
from make_resnet_golden import Cifar  # noqa: E402


def make_network():
    """The thin network of recipes/configurations/fashion-resnet.toml."""
    network = Cifar([3, 3, 3], 8, bottleneck=True)
    network.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
    return network


def main():
    parser = argparse.ArgumentParser(description="Times training steps in PyTorch, on the processes that mpirun starts.")
    parser.add_argument("--batch", type=int, required=True, help="of all processes together")
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()

    rank, ranks = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = make_network().to(memory_format=torch.channels_last).train()
    if ranks > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)  # at MASTER_ADDR and MASTER_PORT
        network = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    count = arguments.batch // ranks
    images = torch.randn(count, 1, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (count,))
    seconds = []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        print(json.dumps(seconds))


if __name__ == "__main__":
    main()
