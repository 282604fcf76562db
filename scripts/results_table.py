"""Prints a family's table of docs/results.md from the logs under runs/results/FAMILY: mean and standard deviation over seeds."""

import json
import pathlib
import statistics
import sys


def networks(run):
    """The finished networks of a run by name, from its log; none if it is not finished."""
    log = run / "metrics.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {event["network"]: event for event in events if event["event"] == "network"}


def arms(seed):
    """The rows of one seed: (arm, network event, teacher FLOPs)."""
    runs = [networks(seed / name) for name in ["stages", "match", "short", "together", "deep"]]
    if not all(runs):
        return None
    stages, match, short, together, deep = runs
    teacher = stages["wide"]["training_flops"]
    return {
        "thin, from scratch": (stages["baseline"], 0),
        "thin, output KL only": (match["thin"], teacher + match["thin"]["teacher_flops"]),
        "thin, three stages": (stages["thin"], stages["thin"]["teacher_flops"]),
        "thin, three stages, short imitation": (short["thin"], teacher + short["thin"]["teacher_flops"]),
        "thin, three stages, units together": (together["thin"], teacher + together["thin"]["teacher_flops"]),
        "thin, twice as deep, from scratch": (deep["baseline"], 0),
        "wide": (stages["wide"], 0),
    }


def main():
    family = pathlib.Path(sys.argv[1])
    seeds = [rows for folder in sorted(family.iterdir()) if (rows := arms(folder))]
    if not seeds:
        sys.exit(f"results_table: {family} holds no seed of which every arm is finished")
    print(f"**{family.name}**, {len(seeds)} seeds\n")
    print("| network | top-1 % (mean ± sd) | parameters | MFLOPs / image | training TFLOPs | teacher TFLOPs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for arm in seeds[0]:
        top1 = [100 * rows[arm][0]["top1"] for rows in seeds]
        spread = statistics.stdev(top1) if len(top1) > 1 else float("nan")
        network, teacher = seeds[0][arm]
        print(f"| {arm} | {statistics.mean(top1):.1f} ± {spread:.1f} | {network['parameters']:,} | {network['flops'] / 1e6:.2f} "
              f"| {network['training_flops'] / 1e12:.2f} | {teacher / 1e12:.2f} |")
    print("\n| above training from scratch | seed by seed | mean ± sd | t |\n| --- | --- | ---: | ---: |")
    for arm in seeds[0]:
        if not arm.startswith("thin, ") or "from scratch" in arm:
            continue
        gains = [100 * (rows[arm][0]["top1"] - rows["thin, from scratch"][0]["top1"]) for rows in seeds]
        mean, spread = statistics.mean(gains), statistics.stdev(gains) if len(gains) > 1 else float("nan")
        print(f"| {arm} | {', '.join(f'{gain:+.1f}' for gain in gains)} | {mean:+.1f} ± {spread:.1f} | {mean / (spread / len(gains) ** 0.5):.1f} |")
    print()


if __name__ == "__main__":
    main()
