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


TEXT_ARMS = {  # the arm's name: its run, and the network in it
    "thin, from scratch": ("scratch", "baseline"),
    "thin, masked words": ("direct", "baseline"),
    "thin, output KL only": ("match", "thin"),
    "thin, three stages": ("stages", "thin"),
    "wide": ("wide", "wide"),
}


def task_accuracies(family, task, arm, network):
    """Test accuracy in percent by seed, of the seeds that are finished; seed 0 lies in the pre-training run itself."""
    runs = [family / "seeds" / str(seed) / task / arm for seed in range(len(list((family / "seeds").iterdir())))]
    if arm != "scratch":
        runs[0] = family / arm / "tasks" / task / network
    return [100 * event["accuracy"] for run in runs for event in networks(run).values()]


def print_text(family):
    """What each arm guesses of masked words, and what its encoder then learns; differences are taken seed by seed."""
    tasks = sorted(folder.name for folder in (family / "direct" / "tasks").iterdir() if folder.is_dir())
    teacher = networks(family / "wide")["wide"]["training_flops"]
    stages = [event for log in family.rglob("metrics.jsonl") for event in events(log.parent) if event["event"] == "stage" and event["state"] == "end"]
    seconds = sum(event["seconds"] for event in stages if event["stage"] != "task")  # whose runs have logs of their own
    print(f"**{family.name}**, trained in {seconds / 60:.0f} minutes\n")
    print("| network | perplexity | masked words % | parameters | GFLOPs / sequence | pre-training PFLOPs | teacher PFLOPs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (arm, network) in TEXT_ARMS.items():
        if arm == "scratch":
            continue
        event = networks(family / arm)[network]
        cost = event["teacher_flops"] + (teacher if network == "thin" else 0)
        print(f"| {name} | {event['perplexity']:.1f} | {100 * event['accuracy']:.1f} | {event['parameters']:,} | {event['flops'] / 1e9:.2f} "
              f"| {event['training_flops'] / 1e15:.4f} | {cost / 1e15:.4f} |")
    results = {name: [task_accuracies(family, task, *arm) for task in tasks] for name, arm in TEXT_ARMS.items()}
    print(f"\n| network, {len(results['wide'][0])} seeds | {' | '.join(f'{task} %' for task in tasks)} |")
    print(f"| --- |{' ---: |' * len(tasks)}")
    for name, values in results.items():
        print(f"| {name} | {' | '.join(f'{statistics.mean(seeds):.1f} ± {statistics.stdev(seeds):.1f}' for seeds in values)} |")
    for task, direct, stages in zip(tasks, results["thin, masked words"], results["thin, three stages"]):
        print(f"\n{task}: three stages above masked words alone, seed by seed: {', '.join(f'{b - a:+.1f}' for a, b in zip(direct, stages))}")


def print_images(families):
    everything = {}
    for family in families:
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
    if len(families) > 1:
        print("**these families together**")
        print_gains(everything)


def main():
    families = list(map(pathlib.Path, sys.argv[1:]))
    print_images([family for family in families if family.name != "bert"])
    if text := [family for family in families if family.name == "bert"]:
        print_text(text[0])


if __name__ == "__main__":
    main()
