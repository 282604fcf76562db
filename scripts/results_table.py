"""Prints the tables of docs/results.md from the logs under runs/results/FAMILY, for each family given: mean and standard deviation over seeds."""

import json
import pathlib
import statistics
import sys


def events(run):
    log = run / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def networks(run):
    """The finished networks of a run by name, from its log; none if it is not finished."""
    return {event["network"]: event for event in events(run) if event["event"] == "network"}


def minutes(family):
    """What training all arms and seeds took on the machine that did it."""
    return sum(event["seconds"] for log in family.glob("*/*/metrics.jsonl") for event in events(log.parent) if event["event"] == "stage" and event["state"] == "end") / 60


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


def gains(seeds):
    """By arm, how far each seed lies above training from scratch, in points."""
    start = [rows["thin, from scratch"][0]["top1"] for rows in seeds]
    return {
        arm: [100 * (rows[arm][0]["top1"] - scratch) for rows, scratch in zip(seeds, start)]
        for arm in seeds[0]
        if arm.startswith("thin, ") and "from scratch" not in arm
    }


def print_gains(by_arm):
    print("\n| above training from scratch | seed by seed | mean ± sd | t |\n| --- | --- | ---: | ---: |")
    for arm, values in by_arm.items():
        mean, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"| {arm} | {', '.join(f'{value:+.1f}' for value in values)} | {mean:+.1f} ± {spread:.1f} | {mean / (spread / len(values) ** 0.5):.1f} |")
    print()


def main():
    everything = {}
    for family in map(pathlib.Path, sys.argv[1:]):
        seeds = [rows for folder in sorted(family.iterdir()) if (rows := arms(folder))]
        if not seeds:
            sys.exit(f"results_table: {family} holds no seed of which every arm is finished")
        print(f"**{family.name}**, {len(seeds)} seeds, trained in {minutes(family):.0f} minutes\n")
        print("| network | top-1 % (mean ± sd) | parameters | MFLOPs / image | training TFLOPs | teacher TFLOPs |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for arm in seeds[0]:
            top1 = [100 * rows[arm][0]["top1"] for rows in seeds]
            spread = statistics.stdev(top1) if len(top1) > 1 else float("nan")
            network, teacher = seeds[0][arm]
            print(f"| {arm} | {statistics.mean(top1):.1f} ± {spread:.1f} | {network['parameters']:,} | {network['flops'] / 1e6:.2f} "
                  f"| {network['training_flops'] / 1e12:.2f} | {teacher / 1e12:.2f} |")
        print_gains(gains(seeds))
        for arm, values in gains(seeds).items():
            everything.setdefault(arm, []).extend(values)
    if len(sys.argv) > 2:
        print("**these families together**")
        print_gains(everything)


if __name__ == "__main__":
    main()
