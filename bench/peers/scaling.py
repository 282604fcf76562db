"""Times training of the demo's ResNet on one process and on two, a core each: Taper beside PyTorch. Started by scaling.sh.

Rounds: in each, Taper and PyTorch train on one process and on two, one after the other, so that a machine that slows down slows
all of them. mpirun starts all, and binds each process to a core. Taper's steps are those of `taper train` with data
loading and augmentation; PyTorch's take one batch from memory. Both must have the same number of parameters.

On a machine that has other work the second process finds less of a second core, and these figures say little.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

import ddp_step

HERE = pathlib.Path(__file__).resolve().parent
CONFIGURATION = HERE.parents[1] / "recipes" / "configurations" / "fashion-resnet.toml"
RANKS = [1, 2]
WARM_UP = 20  # steps, which Taper's smoothed rate takes as well


def mpirun(ranks, command):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    launch = ["mpirun", "--allow-run-as-root", "--bind-to", "core", "-n", str(ranks)] + command
    result = subprocess.run(launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"scaling: '{' '.join(launch)}' ended with exit code {result.returncode}:\n{result.stderr}")
    return result.stdout


def run_taper(arguments, ranks):
    """Images per second of each step."""
    settings = ['stages=["baseline"]', f"baseline.batch_size={arguments.batch}", "baseline.epochs=0", "baseline.warmup_steps=0"]
    settings += [f"baseline.{key}={arguments.steps}" for key in ["steps", "evaluate_every", "checkpoint_every"]]
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.taper, "train", str(CONFIGURATION), "--output", os.path.join(folder, "run")]
        for setting in settings:
            command += ["--set", setting]
        mpirun(ranks, command)
        events = [json.loads(line) for line in open(os.path.join(folder, "run", "metrics.jsonl"))]
    return [event["images_per_s"] for event in events if event["event"] == "train"]


def run_pytorch(arguments, ranks):
    command = [sys.executable, str(HERE / "ddp_step.py"), "--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    return [arguments.batch / seconds for seconds in json.loads(mpirun(ranks, command))]


def check_size(arguments):
    command = [arguments.taper, "describe", str(CONFIGURATION), "--json"]
    described = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    taper = next(row["parameters"] for row in described["networks"] if row["network"] == "thin")
    peer = sum(parameter.numel() for parameter in ddp_step.make_network().parameters())
    if taper != peer:
        sys.exit(f"scaling: Taper's network has {taper} parameters and PyTorch's {peer}: there is nothing to compare")


def main():
    parser = argparse.ArgumentParser(description="Compares how Taper and PyTorch scale from one process to two.")
    parser.add_argument("--taper", default="build-bench/taper", help="Taper's side (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="of all processes together (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each in a round (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP:
        parser.error(f"--steps {arguments.steps}: the first {WARM_UP} are not counted")
    if len(os.sched_getaffinity(0)) < RANKS[-1]:
        parser.error(f"{RANKS[-1]} processes need a core each, and there is one")
    check_size(arguments)
    rates = {(name, ranks): [] for name in ["Taper", "PyTorch DDP"] for ranks in RANKS}
    for _ in range(arguments.rounds):
        for ranks in RANKS:
            rates["Taper", ranks] += run_taper(arguments, ranks)[WARM_UP:]
            rates["PyTorch DDP", ranks] += run_pytorch(arguments, ranks)[WARM_UP:]
    medians = {key: statistics.median(values) for key, values in rates.items()}
    rows = [{"name": name, "one": medians[name, 1], "two": medians[name, 2], "efficiency": medians[name, 2] / medians[name, 1] / 2}
            for name in ["Taper", "PyTorch DDP"]]
    if arguments.json:
        print(json.dumps({"batch": arguments.batch, "rounds": arguments.rounds, "steps": arguments.steps, "rows": rows}, indent=1))
        return
    load = os.getloadavg()[0]
    print(f"Images per second, batch {arguments.batch}, medians of the steps of {arguments.rounds} rounds; load average at the end {load:.1f}:")
    print("| | 1 process | 2 processes | efficiency |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row['name']} | {row['one']:.0f} | {row['two']:.0f} | {100 * row['efficiency']:.0f} % |")


if __name__ == "__main__":
    main()
