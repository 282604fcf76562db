#!/usr/bin/env python3
"""Break the CUDA kernels, one small fault at a time, and see whether the tests notice.

A mutant is one fault in the device code of one file of kernels/cuda: a barrier, a wait or a guard that is gone, an
index or a bound off by one, a shared array too small, fragments or coordinates swapped. The mutated file lies in
a folder of its own that comes first on the include path: the sources are never touched. One unit that includes the
file is compiled, linked in front of the libraries, and the tests of its ops run on the device sim; when they pass,
the next unit that includes it. Where many mutants of a file run, most share one source (scripts/mutant_switch.py). A mutant is

    caught      a test failed, crashed or ran out of time
    survived    the tests of every unit passed
    equivalent  the compiler makes the same code of it (not counted)
    invalid     it does not compile (not counted)

Examples:
    scripts/mutate.py --list softmax             what would be run, for files whose names contain "softmax"
    scripts/mutate.py --sample 20 --seed 7       twenty at random; fails on a survivor that tests/mutants.json lacks
    scripts/mutate.py                            all that have no result yet (hours); stop it and go on at any time
    scripts/mutate.py --survivors --preset check the survivors again, each access to memory checked
    scripts/mutate.py --survivors                the survivors again, after a test was made stronger
    scripts/mutate.py --table                    the table of docs/kernels.md

Results lie in tests/mutant_results.jsonl, one line each, and are committed: all of them are hours of work, done in parts. A
sample is run afresh and its results are not kept. Change no source while mutants run: what is compiled would no longer be
what was mutated.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import queue
import random
import sys
import threading
import time

import mutant_switch
from kernel_mutants import ROOT, kernel_files, mutants_of
from mutant_build import Build

RESULTS = ROOT / "tests/mutant_results.jsonl"
LISTED = ROOT / "tests/mutants.json"
DOCS = ROOT / "docs/kernels.md"
BEGIN, END = "<!-- scripts/mutate.py --table: begin -->", "<!-- scripts/mutate.py --table: end -->"
# So many mutants of a file are worth a source with switches, which takes longer to compile.
LEAST_TOGETHER = 4


def tasks_of(mutants):
    """The mutants in lists that one source holds, most of one element or of many."""
    files = collections.defaultdict(list)
    for mutant in mutants:
        files[mutant.file].append(mutant)
    for file, of_file in files.items():
        text = (ROOT / file).read_text()
        together = [m for m in of_file if mutant_switch.switched(m, 1, text[m.begin:m.end])]
        if len(together) < LEAST_TOGETHER:
            together = []
        yield from mutant_switch.layers(together)
        yield from ([mutant] for mutant in of_file if mutant not in together)


def run_all(mutants, preset, folder, jobs, done):
    """Runs mutants, `jobs` at a time; done(mutant, result) gets each as it ends."""
    build = Build(preset, folder, jobs)
    folders = queue.Queue()
    for number in range(jobs):
        folders.put(build.folder / "mutants" / str(number))
        (build.folder / "mutants" / str(number)).mkdir(parents=True, exist_ok=True)
    results, stopped = queue.Queue(), threading.Event()

    def run(task):
        folder = folders.get()
        try:
            for result in build.run(task, folder):
                results.put(result)
                if stopped.is_set():
                    break
        except BaseException as error:
            results.put(error)
            raise
        finally:
            folders.put(folder)

    start, counts = time.time(), collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            for task in tasks_of(mutants):
                pool.submit(run, task)
            for number in range(1, len(mutants) + 1):
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                mutant, result = result
                counts[result] += 1
                done(mutant, result)
                if result == "survived":
                    print(f"\r\033[Ksurvived: {describe(mutant)}", flush=True)
                if sys.stderr.isatty() or number == len(mutants):
                    bar = "#" * (30 * number // len(mutants))
                    counted = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
                    print(f"\r\033[K[{bar:30}] {number}/{len(mutants)} in {time.time() - start:.0f} s: {counted}",
                          end="", file=sys.stderr, flush=True)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    print(file=sys.stderr)


def describe(mutant):
    return f"{mutant.id} {mutant.file}:{mutant.line} {mutant.rule}: {mutant.text}  =>  {' '.join(mutant.after.split())}"


def recorded():
    """Each mutant's result: the last that was found, but caught by one build is caught."""
    results = {}
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else []:
        entry = json.loads(line)
        if results.get(entry["id"]) != "caught":
            results[entry["id"]] = entry["result"]
    return results


def table(mutants, results, listed):
    rows = collections.defaultdict(collections.Counter)
    for mutant in mutants:
        for name in (mutant.file, "**all**"):
            rows[name]["mutants"] += 1
            rows[name][results.get(mutant.id, "not run")] += 1
    lines = ["| file | mutants | run | invalid or equivalent | caught | survived | caught of those that count |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, row in sorted(rows.items(), key=lambda item: item[0].replace("*", "~")):
        counted = row["caught"] + row["survived"]
        share = f"{100 * row['caught'] / counted:.1f} %" if counted else ""
        lines.append(f"| {name.removeprefix('kernels/cuda/')} | {row['mutants']} | {row['mutants'] - row['not run']} | "
                     f"{row['invalid'] + row['equivalent']} | {row['caught']} | {row['survived']} | {share} |")
    left = rows["**all**"]["not run"]
    if left:
        lines += ["", f"{left} were not run yet: `scripts/mutate.py` goes on, a file after the other."]
    lines += ["", "Survivors:", ""]
    for mutant in mutants:
        if results.get(mutant.id) == "survived":
            lines.append(f"- `{mutant.file.removeprefix('kernels/cuda/')}`, {mutant.rule}: `{mutant.text}` to "
                         f"`{' '.join(mutant.after.split())}`. {listed.get(mutant.id, 'No test sees it yet.')}")
    return "\n".join(lines)


def write_table(text):
    page = DOCS.read_text() if DOCS.exists() else "# The CUDA kernels\n"
    if BEGIN not in page:
        page += (f"\n## Mutation test\n\n`scripts/mutate.py` breaks the kernels one small fault at a time and runs the "
                 f"tests of\nthe ops that the fault belongs to; `--help` says how.\n\n{BEGIN}\n{END}\n")
    before, rest = page.split(BEGIN)
    new = DOCS.with_suffix(".new")
    new.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    new.replace(DOCS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="only files whose names contain one of these")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--table", action="store_true", help="write the results into docs/kernels.md and stop")
    parser.add_argument("--sample", type=int, metavar="N", help="run N of them, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--survivors", action="store_true", help="run again those that survived")
    parser.add_argument("--preset", default="default", choices=["default", "check", "asan"],
                        help="what to build (default)")
    parser.add_argument("--build", metavar="FOLDER",
                        help="where to build (build-mutate or build-mutate-PRESET, so that the others stay free)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time (all cores)")
    arguments = parser.parse_args()

    everything = [mutant for path in kernel_files() for mutant in mutants_of(path)]
    mutants = [m for m in everything if not arguments.files or any(part in m.file for part in arguments.files)]
    if not mutants:
        parser.error(f"no file of kernels/cuda has a name with {' or '.join(arguments.files)}")
    listed = {entry["id"]: entry["reason"] for entry in json.loads(LISTED.read_text())}
    if arguments.list:
        print("\n".join(map(describe, mutants)))
        return 0
    if arguments.table:
        write_table(table(everything, recorded(), listed))
        return 0
    if arguments.sample is not None:
        drawn = random.Random(arguments.seed).sample(mutants, min(arguments.sample, len(mutants)))
        unknown = []
        run_all(drawn, arguments.preset, arguments.build, arguments.jobs,
                lambda m, result: unknown.append(m) if result == "survived" and m.id not in listed else None)
        for mutant in unknown:
            print(f"No test notices {describe(mutant)}\n"
                  "  Make one that does, or give the reason in tests/mutants.json.")
        return 1 if unknown else 0
    results = recorded()
    wanted = "survived" if arguments.survivors else None
    mutants = [mutant for mutant in mutants if results.get(mutant.id) == wanted]
    if not mutants:
        print("Nothing to run: every mutant has a result.")
        return 0
    with RESULTS.open("a") as out:
        def record(mutant, result):
            fields = {"id": mutant.id, "file": mutant.file, "preset": arguments.preset, "result": result}
            print(json.dumps(fields), file=out, flush=True)
        run_all(mutants, arguments.preset, arguments.build, arguments.jobs, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
