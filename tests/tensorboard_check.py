#!/usr/bin/env python3
"""Reads a run's events with the tensorboard package and compares every scalar with metrics.jsonl.

usage: tensorboard_check.py RUN_DIRECTORY

Exit code 0: the same scalars, no more and no fewer, each equal to the value in metrics.jsonl as float32.
"""

import collections
import json
import math
import pathlib
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRAIN = ("loss", "lr", "images_per_s", "gflops", "grad_norm")
EVALUATE = ("loss", "top1", "top5")


def expected(run: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) in order, from metrics.jsonl; null stands for a value that is not finite."""
    scalars = collections.defaultdict(list)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        kind = event["event"]
        prefix = event.get("stage", "")
        if kind in ("train", "evaluate") and "unit" in event:
            prefix += f"/unit{event['unit']:02}"
        if kind == "train":
            for key in TRAIN:
                scalars[f"{prefix}/train/{key}"].append((event["step"], event[key]))
        elif kind == "evaluate":
            for key in EVALUATE:
                scalars[f"{prefix}/{event['network']}/{key}"].append((event["step"], event[key]))
        elif kind == "unit":
            for key in ("error_before", "error_after"):
                scalars[f"{prefix}/{key}"].append((event["unit"], event[key]))
        elif kind == "network":
            for key in EVALUATE:
                scalars[f"network/{event['network']}/{key}"].append((0, event[key]))
    return scalars


def same(wanted: float | None, found: float) -> bool:
    if wanted is None:
        return not math.isfinite(found)
    return np.float32(wanted) == np.float32(found)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    run = pathlib.Path(sys.argv[1])
    wanted = expected(run)
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    errors = [f"{tag}: only in the events" for tag in tags if tag not in wanted]
    errors += [f"{tag}: not in the events" for tag in wanted if tag not in tags]
    for tag in set(tags) & set(wanted):
        found = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        if len(found) != len(wanted[tag]):
            errors.append(f"{tag}: {len(found)} values in the events, {len(wanted[tag])} in metrics.jsonl")
        for (step, value), (found_step, found_value) in zip(wanted[tag], found):
            if step != found_step or not same(value, found_value):
                errors.append(f"{tag}: step {found_step} is {found_value}, expected step {step}: {value}")
    if not wanted:
        errors.append(f"{run}/metrics.jsonl holds no scalar")
    for error in errors[:20]:
        print(f"tensorboard_check.py: {error}", file=sys.stderr)
    print(f"{sum(map(len, wanted.values()))} scalars under {len(wanted)} tags: {len(errors)} differences")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
