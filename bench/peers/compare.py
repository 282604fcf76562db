"""Times whole training steps of Taper and PyTorch side by side and prints the ratios. Started by compare.sh.

First, untimed: Taper's loss must equal PyTorch's on the same sub-batches, or there is nothing to compare. Then rounds: in
each, every form makes a few steps, one form after the other, so that a machine that slows down slows all of them. The
timed peer uses the whole batch; Taper cuts it into shards.

On a machine that has other work, threads that wait for each other lose more than threads that do not, so wall time speaks against
PyTorch there. `--threads 1 --clock cpu` compares what the processor has to do, which other work disturbs least.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import torch

import peer_step

HERE = pathlib.Path(__file__).resolve().parent
FORMS = ["eager", "compile"]


def run_taper(arguments, precision, steps, inputs):
    command = [arguments.taper, "--network", arguments.network, "--device", arguments.device, "--precision", precision]
    command += ["--batch", str(arguments.batch), "--shards", str(arguments.shards), "--steps", str(steps), "--json"]
    command += ["--weights", inputs[0], "--data", inputs[1]]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"compare: '{' '.join(command)}' ended with exit code {result.returncode}")
    return json.loads(result.stdout)


def check_loss(arguments, precision, inputs):
    """Stops unless Taper's mean loss of every sub-batch is as near to the float64 one as its precision allows.

    Tolerance: twice the root mean square, over samples (masked tokens), of PyTorch's own error in this precision (the error of a mean is
    at most that), and 8 units in the last place of the f32 that the loss is reported in.
    """
    device = peer_step.prepare(arguments.device, precision)
    losses = peer_step.module_of(arguments.network).losses
    exact = losses(arguments.network, *inputs, arguments.shards, "f64", device)
    peer = losses(arguments.network, *inputs, arguments.shards, precision, device)
    tolerance = 2 * np.sqrt(np.mean((peer - exact) ** 2)) + 8 * np.spacing(np.float32(exact.max()))
    want = exact.reshape(arguments.shards, -1).mean(axis=1)
    got = np.array(run_taper(arguments, precision, 1, inputs)["loss"], dtype=np.float64)
    if got.shape != want.shape or not (np.abs(got - want) <= tolerance).all():
        sys.exit(f"compare: in {precision}, Taper's losses {got} differ from PyTorch's {want} by more than {tolerance:.3g}")
    return {"taper": got.tolist(), "pytorch_f64": want.tolist(), "tolerance": float(tolerance)}


class Peer:
    """One form of PyTorch's step in a process of its own, warmed up and waiting."""

    def __init__(self, arguments, form, precision, inputs):
        command = [sys.executable, str(HERE / "peer_step.py"), "--network", arguments.network, "--form", form]
        command += ["--threads", str(arguments.threads), "--clock", arguments.clock]
        command += ["--device", arguments.device, "--precision", precision, "--weights", inputs[0], "--data", inputs[1]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def steps(self, count):
        print(count, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"compare: '{' '.join(self.process.args)}' ended with exit code {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(arguments, precision, inputs):
    losses = check_loss(arguments, precision, inputs)
    clock = {"wall": "seconds", "cpu": "cpu_seconds"}[arguments.clock]
    seconds = {name: [] for name in ["taper"] + arguments.forms}
    peers = {form: Peer(arguments, form, precision, inputs) for form in arguments.forms}
    for peer in peers.values():
        peer.steps(2)  # compiles, and fills PyTorch's caches
    for _ in range(arguments.rounds):
        # Taper's process is new in every round: its first step, which builds primitives, is its warm-up.
        seconds["taper"] += run_taper(arguments, precision, 1 + arguments.steps, inputs)[clock][1:]
        for form, peer in peers.items():
            seconds[form] += peer.steps(arguments.steps)
    for peer in peers.values():
        peer.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(arguments.forms, key=medians.get)
    return {
        "precision": precision,
        "losses": losses,
        "seconds": seconds,
        "samples_per_second": {name: arguments.batch / median for name, median in medians.items()},
        "best_peer": best,
        "ratio": medians[best] / medians["taper"],
    }


def main():
    parser = argparse.ArgumentParser(description="Compares whole training steps of Taper and PyTorch.")
    parser.add_argument("--network", choices=peer_step.NETWORKS, default="resnet50")
    parser.add_argument("--taper", default="build-bench/bench_step", help="Taper's side (default: %(default)s)")
    parser.add_argument("--device", choices=peer_step.DEVICES, default="cpu", help="Taper's; beside sim PyTorch is on the CPU")
    parser.add_argument("--precision", nargs="+", choices=peer_step.PRECISIONS, default=["f32", "bf16"], help="(default: f32 bf16)")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="of PyTorch (default: both)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="of an image (default: 224)")
    parser.add_argument("--tokens", type=int, default=128, help="of a BERT's sequence, 7 to 512 (default: 128)")
    parser.add_argument("--shards", type=int, default=2, help="sub-batches that Taper's step is cut into (default: 2)")
    parser.add_argument("--threads", type=int, default=2, help="threads, and cores, of each (default: 2)")
    parser.add_argument("--clock", choices=list(peer_step.CLOCKS), default="wall", help="what times a step (default: wall)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each form in a round (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()

    if not 7 <= arguments.tokens <= 512:
        parser.error(f"--tokens {arguments.tokens}: a BERT has 512 positions, and of fewer than 7 tokens none is masked")
    if arguments.device == "cuda" and arguments.clock == "cpu":
        parser.error("--clock cpu: the processor's time says nothing of a GPU's")
    if arguments.device != "cuda" and "tf32" in arguments.precision:
        parser.error(f"--precision tf32: PyTorch has none on the CPU, beside the device {arguments.device}")
    cores = sorted(os.sched_getaffinity(0))[: arguments.threads]
    if len(cores) < arguments.threads:
        parser.error(f"--threads {arguments.threads}, but there are {len(cores)} cores")
    os.sched_setaffinity(0, cores)  # Taper has as many workers as it has cores
    torch.set_num_threads(arguments.threads)
    network = peer_step.module_of(arguments.network)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = (os.path.join(folder, "weights.safetensors"), os.path.join(folder, "data.safetensors"))
        network.make_inputs(arguments, *inputs)
        for precision in arguments.precision:
            results.append(compare(arguments, precision, inputs))
    if arguments.json:
        facts = {key: vars(arguments)[key] for key in ["network", "device", "batch", "size", "tokens", "shards", "threads", "clock"]}
        print(json.dumps(facts | {"results": results}, indent=1))
        return
    print(f"{network.title(arguments)}, {arguments.threads} threads;")
    second = {"wall": "second", "cpu": "second of the processor"}[arguments.clock]
    print(f"Taper: {arguments.shards} shards. Samples per {second}, medians of {arguments.rounds * arguments.steps} steps:")
    names = ["taper"] + arguments.forms
    print(f"{'':6}" + "".join(f"{name:>9}" for name in names) + "   Taper / PyTorch's best")
    for result in results:
        rates = result["samples_per_second"]
        print(f"{result['precision']:6}" + "".join(f"{rates[name]:9.2f}" for name in names)
              + f"   {result['ratio']:.2f} ({result['best_peer']})")


if __name__ == "__main__":
    main()
