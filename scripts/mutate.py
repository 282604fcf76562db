#!/usr/bin/env python3
"""Break the CUDA kernels, one small fault at a time, and see whether the tests notice.

A mutant is one fault in the device code of one file of kernels/cuda: a barrier, a wait or a guard that is gone, an
index or a bound off by one, a shared array too small, fragments or coordinates swapped. The mutated file lies in
a folder of its own that comes first on the include path: the sources are never touched. One unit that includes the
file is compiled, linked in front of the libraries, and the tests of its ops run on the device sim; when they pass,
the next unit that includes it. A mutant is

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
import pathlib
import queue
import random
import re
import shlex
import subprocess
import sys
import threading
import time

from kernel_mutants import KERNELS, ROOT, kernel_files, mutants_of

RESULTS = ROOT / "tests/mutant_results.jsonl"
LISTED = ROOT / "tests/mutants.json"
DOCS = ROOT / "docs/kernels.md"
BEGIN, END = "<!-- scripts/mutate.py --table: begin -->", "<!-- scripts/mutate.py --table: end -->"
# Copies land as late as they may, so that a missing wait shows.
ENVIRONMENT = {"TAPER_SIMT_SCHEDULE": "order=random,copies=late,streams=late,seed=7", "OMP_NUM_THREADS": "1"}
# Limits of a test: seconds of a core by preset (by default the slowest needs 10), and seconds, for one that only waits.
CPU_LIMIT = {"default": 60, "check": 400, "asan": 400}
TIME_LIMIT = 900
# The tests of a unit's ops, by the first pattern that matches its name: executables with filters.
TESTS = [
    (r"ladder/(\w+)", "simt_ladder_test", "*Ladder*/{0}"),
    (r"attention_forward_plain", "ops_attention_test", "*Forward/sim_f32"),
    (r"attention_forward_tensor", "ops_attention_test", "*Forward/sim_bf16"),
    (r"attention_backward_plain", "ops_attention_test", "*Backward/sim_f32"),
    (r"attention_backward_tensor", "ops_attention_test", "*Backward/sim_bf16"),
    (r"embedding", "ops_softmax_test", "*Embedding/sim*"),
    (r"sum_rows", "ops_matmul_test", "*SumRows/sim*"),
    (r"loss", "ops_loss_test", "*/sim*", "ops_imitation_test", "*SquaredError/sim*"),
    (r"lamb|optimizer", "ops_optimizer_test", "*/sim*"),
    (r"(conv|batch_norm|attention)", "ops_{0}_test", "*/sim*"),
    (r"(\w+)", "ops_{0}_test", "*/sim*"),
]

def included(path, known):
    """The files of kernels/cuda that a file includes, itself too."""
    if path not in known:
        known[path] = {path}
        for name in re.findall(r'#include "(kernels/cuda/[^"]+)"', path.read_text()):
            known[path] |= included(ROOT / name, known)
    return known[path]


class Build:
    """A build folder with the tests, and how a unit is compiled and a test linked in it."""

    def __init__(self, preset, folder, jobs):
        self.folder = ROOT / (folder or ("build-mutate" if preset == "default" else f"build-mutate-{preset}"))
        self.cpu_limit = CPU_LIMIT[preset]
        self.units = {}  # unit: [(test, filter)...]
        known = {}
        for unit in (path for path in kernel_files() if path.suffix == ".cu"):
            name = str(unit.relative_to(KERNELS).with_suffix(""))
            match, words = next((re.match(p, name), words) for p, *words in TESTS if re.match(p, name))
            words = [word.format(*match.groups()) for word in words]
            self.units[unit] = list(zip(words[::2], words[1::2]))
        self.includes = {unit: included(unit, known) for unit in self.units}
        headers = subprocess.run(["scripts/cuda-toolkit.sh", "headers"], cwd=ROOT, text=True, check=True,
                                 stdout=subprocess.PIPE).stdout.strip()
        subprocess.run(["cmake", "--preset", preset, "-B", self.folder, "-DTAPER_TESTS=ON", "-DTAPER_SIMT=ON",
                        f"-DTAPER_CUDA_INCLUDE={headers}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        tests = sorted({test for pairs in self.units.values() for test, _ in pairs})
        subprocess.run(["ninja", "-C", self.folder, f"-j{jobs}", *tests], check=True, stdout=subprocess.DEVNULL)
        self.compile = {}
        for entry in json.loads((self.folder / "compile_commands.json").read_text()):
            words = shlex.split(entry["command"])
            words = words[1:] if words[0].endswith("ccache") else words
            self.compile[pathlib.Path(entry["file"])] = words
        self.link = {test: self.link_command(test) for test in tests}
        self.originals = {}
        self.lock = threading.Lock()

    def link_command(self, test):
        lines = subprocess.run(["ninja", "-C", self.folder, "-t", "commands", f"tests/{test}"], text=True,
                               check=True, stdout=subprocess.PIPE).stdout.splitlines()
        command = next(line for line in reversed(lines) if f" -o tests/{test} " in line)
        return shlex.split(command.split(" && ")[1])

    def units_of(self, file):
        """The units that include a file, the cheapest first."""
        return sorted((unit for unit in self.units if file in self.includes[unit]),
                      key=lambda unit: sum(path.stat().st_size for path in self.includes[unit]))

    def object_of(self, unit, folder):
        """Compiles a unit with what `folder` has in front of the sources; None if that fails."""
        words = self.compile[unit]
        source = folder / unit.relative_to(ROOT)
        out = folder / "unit.o"
        replaced = {"-O3": "-O1", str(unit): str(source if source.exists() else unit)}
        words = [replaced.get(word, word) for word in words]
        words[words.index("-o") + 1] = str(out)
        words.insert(1, f"-I{folder}")
        done = subprocess.run([*words, "-w"], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return out if done.returncode == 0 else None

    def passes(self, unit, folder):
        """Whether all tests of a unit pass with the object in `folder`."""
        for test, tests in self.units[unit]:
            words = list(self.link[test])
            at = words.index("-o")
            words[at + 1] = str(folder / "test")
            words.insert(at, str(folder / "unit.o"))
            subprocess.run(words, cwd=self.folder, check=True)
            if not self.test_passes(folder / "test", tests):
                return False
        return True

    def test_passes(self, test, tests):
        try:
            done = subprocess.run(["prlimit", f"--cpu={self.cpu_limit}", test, f"--gtest_filter={tests}",
                                   "--gtest_fail_fast", "--gtest_brief=1"],
                                  cwd=self.folder, env={**os.environ, **ENVIRONMENT}, timeout=TIME_LIMIT,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return False
        if b" 0 tests from 0 test suites" in done.stdout:
            sys.exit(f"No test of {test.name} matches '{tests}': correct TESTS in scripts/mutate.py.")
        return done.returncode == 0

    def is_sound(self, pair):
        return self.test_passes(self.folder / "tests" / pair[0], pair[1])

    def original(self, unit):
        """The object of the unchanged unit."""
        with self.lock:
            if unit not in self.originals:
                folder = self.folder / "mutants/original"
                folder.mkdir(parents=True, exist_ok=True)
                self.originals[unit] = self.object_of(unit, folder).read_bytes()
            return self.originals[unit]

    def run(self, mutant, folder):
        source = folder / mutant.file
        source.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / mutant.file).read_text()
        source.write_text(text[:mutant.begin] + mutant.after + text[mutant.end:])
        result = "equivalent"
        try:
            for unit in self.units_of(ROOT / mutant.file):
                compiled = self.object_of(unit, folder)
                if compiled is None:
                    return "invalid"
                if not self.passes(unit, folder):
                    return "caught"
                if compiled.read_bytes() != self.original(unit):
                    result = "survived"
        finally:
            source.unlink()
        return result


def run_all(mutants, preset, folder, jobs, done):
    """Runs mutants, `jobs` at a time; done(mutant, result) gets each as it ends."""
    build = Build(preset, folder, jobs)
    pairs = sorted({pair for mutant in mutants for unit in build.units_of(ROOT / mutant.file)
                    for pair in build.units[unit]})
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for pair, passed in zip(pairs, pool.map(build.is_sound, pairs)):
            if not passed:
                sys.exit(f"{pair[0]} --gtest_filter='{pair[1]}' fails without any mutant: repair that first.")
    folders = queue.Queue()
    for number in range(jobs):
        folders.put(build.folder / "mutants" / str(number))

    def one(mutant):
        folder = folders.get()
        try:
            return mutant, build.run(mutant, folder)
        finally:
            folders.put(folder)

    start, counts = time.time(), collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for number, task in enumerate(concurrent.futures.as_completed([pool.submit(one, m) for m in mutants]), 1):
            mutant, result = task.result()
            counts[result] += 1
            done(mutant, result)
            if result == "survived":
                print(f"\r\033[Ksurvived: {describe(mutant)}", flush=True)
            if sys.stderr.isatty() or number == len(mutants):
                bar = "#" * (30 * number // len(mutants))
                counted = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
                print(f"\r\033[K[{bar:30}] {number}/{len(mutants)} in {time.time() - start:.0f} s: {counted}",
                      end="", file=sys.stderr, flush=True)
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
        lines += ["", f"{left} were not run yet; those that were are drawn at random (`scripts/mutate.py` goes on)."]
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
    random.Random(arguments.seed).shuffle(mutants)  # what is done when it is stopped is a fair sample
    with RESULTS.open("a") as out:
        def record(mutant, result):
            fields = {"id": mutant.id, "file": mutant.file, "preset": arguments.preset, "result": result}
            print(json.dumps(fields), file=out, flush=True)
        run_all(mutants, arguments.preset, arguments.build, arguments.jobs, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
