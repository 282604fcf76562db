"""A build of the tests in which mutants are compiled, linked and run, for scripts/mutate.py."""
import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading

import mutant_switch
from kernel_mutants import KERNELS, ROOT, kernel_files

# Copies land as late as they may, so that a missing wait shows.
ENVIRONMENT = {"TAPER_SIMT_SCHEDULE": "order=random,copies=late,streams=late,seed=7", "OMP_NUM_THREADS": "1"}
# A test may take so many times the seconds of a core that it takes without a mutant, and as many more; and so many seconds on
# the clock, if it only waits.
CPU_FACTOR, CPU_SLACK, TIME_LIMIT = 4, 5, 900
# The tests of a unit's ops, by the first pattern that matches its name: executables with filters.
TESTS = [
    (r"ladder/(\w+)", "simt_ladder_test", "*Ladder*/{0}"),
    (r"attention_forward_plain", "ops_attention_test", "*Forward/sim_f32"),
    (r"attention_forward_tensor", "ops_attention_test", "*Forward/sim_bf16"),
    (r"attention_backward_plain", "ops_attention_test", "*Backward/sim_f32"),
    (r"attention_backward_tensor", "ops_attention_test", "*Backward/sim_bf16"),
    (r"attention_divergence", "ops_attention_divergence_test", "*/sim*"),
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
        self.environment = {**os.environ, **ENVIRONMENT}
        if preset != "default":
            self.environment["TAPER_OP_BRIEF"] = "1"  # what watches memory sees it in one run
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
        self.originals, self.limits = {}, {}
        self.locks = {key: threading.Lock() for unit, pairs in self.units.items() for key in [unit, *pairs]}

    def link_command(self, test):
        lines = subprocess.run(["ninja", "-C", self.folder, "-t", "commands", f"tests/{test}"], text=True,
                               check=True, stdout=subprocess.PIPE).stdout.splitlines()
        command = next(line for line in reversed(lines) if f" -o tests/{test} " in line)
        return shlex.split(command.split(" && ")[1])

    def units_of(self, file):
        """The units that include a file, the cheapest first."""
        return sorted((unit for unit in self.units if file in self.includes[unit]),
                      key=lambda unit: sum(path.stat().st_size for path in self.includes[unit]))

    def object_of(self, unit, folder, *options):
        """Compiles a unit with what `folder` has in front of the sources: the object, or None, and the compiler's errors."""
        words = self.compile[unit]
        source = folder / unit.relative_to(ROOT)
        out = folder / "unit.o"
        replaced = {"-O3": "-O1", str(unit): str(source if source.exists() else unit)}
        words = [replaced.get(word, word) for word in words]
        words[words.index("-o") + 1] = str(out)
        words[1:1] = [f"-I{folder}", *options]
        done = subprocess.run([*words, "-w"], cwd=self.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return out if done.returncode == 0 else None, done.stderr

    def link_tests(self, unit, folder):
        """The tests of a unit, with the object in `folder`: executables and filters."""
        for number, (test, tests) in enumerate(self.units[unit]):
            words = list(self.link[test])
            at = words.index("-o")
            words[at + 1] = str(folder / f"test{number}")
            words.insert(at, str(folder / "unit.o"))
            subprocess.run(words, cwd=self.folder, check=True)
        return [(folder / f"test{number}", tests) for number, (_, tests) in enumerate(self.units[unit])]

    def run_test(self, test, tests, limit="unlimited", chosen=0):
        """Whether tests pass with mutant number `chosen` within `limit` seconds of a core, and how many they took."""
        process = subprocess.Popen(["prlimit", f"--cpu={limit}", test, f"--gtest_filter={tests}", "--gtest_fail_fast",
                                    "--gtest_brief=1"], cwd=self.folder,
                                   env={**self.environment, "TAPER_MUTANT": str(chosen)},
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        late = threading.Timer(TIME_LIMIT, process.kill)
        late.start()
        output = process.stdout.read()
        process.stdout.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        late.cancel()
        if b" 0 tests from 0 test suites" in output:
            sys.exit(f"No test of {test.name} matches '{tests}': correct TESTS in scripts/mutate.py.")
        return process.returncode == 0, used.ru_utime + used.ru_stime

    def limit_of(self, test, tests):
        """Seconds of a core for tests with a mutant, which pass without; None where they do not."""
        passed, seconds = self.run_test(test, tests)
        return int(CPU_FACTOR * seconds) + CPU_SLACK if passed else None

    def limit_alone(self, pair):
        """Of tests as they are built."""
        with self.locks[pair]:
            if pair not in self.limits:
                self.limits[pair] = self.limit_of(self.folder / "tests" / pair[0], pair[1])
        if self.limits[pair] is None:
            sys.exit(f"{pair[0]} --gtest_filter='{pair[1]}' fails without any mutant: repair that first.")
        return self.limits[pair]

    def original(self, unit):
        """The object of the unchanged unit."""
        with self.locks[unit]:
            if unit not in self.originals:
                folder = self.folder / "mutants" / unit.stem
                folder.mkdir(parents=True, exist_ok=True)
                self.originals[unit] = self.object_of(unit, folder)[0].read_bytes()
            return self.originals[unit]

    def run_alone(self, mutant, folder):
        """Compiles a mutant and runs its tests."""
        result = "equivalent"
        with changed(folder / mutant.file, (ROOT / mutant.file).read_text(), [mutant]):
            for unit in self.units_of(ROOT / mutant.file):
                compiled, _ = self.object_of(unit, folder)
                if compiled is None:
                    return "invalid"
                limits = map(self.limit_alone, self.units[unit])
                if not all(self.run_test(*tests, limit)[0] for tests, limit in zip(self.link_tests(unit, folder), limits)):
                    return "caught"
                if compiled.read_bytes() != self.original(unit):
                    result = "survived"
        return result

    def differs(self, mutant, folder):
        """Whether the compiler makes another code of a mutant that compiles, in any unit."""
        with changed(folder / mutant.file, (ROOT / mutant.file).read_text(), [mutant]):
            return any(self.object_of(unit, folder)[0].read_bytes() != self.original(unit)
                       for unit in self.units_of(ROOT / mutant.file))

    def run_together(self, mutants, folder):
        """Runs mutants of one file that do not overlap; yields (mutant, result), and None for those that have to run alone."""
        text, left = (ROOT / mutants[0].file).read_text(), list(mutants)
        prelude = folder / "mutants.h"
        prelude.write_text(mutant_switch.PRELUDE)
        for unit in self.units_of(ROOT / mutants[0].file):
            while left:
                with changed(folder / mutants[0].file, text, left, together=True):
                    compiled, errors = self.object_of(unit, folder, "-include", str(prelude))
                if compiled:
                    break
                refused = mutant_switch.blamed(errors, f"{folder}/{mutants[0].file}", left) or set(left)
                yield from ((mutant, None) for mutant in left if mutant in refused)
                left = [mutant for mutant in left if mutant not in refused]
            if not left:
                return
            tests = self.link_tests(unit, folder)
            limits = [self.limit_of(*pair) for pair in tests]
            if None in limits:
                sys.exit(f"{tests[limits.index(None)]} fails though no mutant is chosen: the switches of "
                         f"{mutants[0].file} change what it computes (scripts/mutant_switch.py).")
            passed = []
            for number, mutant in enumerate(left, 1):
                if all(self.run_test(*pair, limit, number)[0] for pair, limit in zip(tests, limits)):
                    passed.append(mutant)
                else:
                    yield mutant, "caught"
            left = passed
        for mutant in left:
            yield mutant, "survived" if self.differs(mutant, folder) else "equivalent"

    def run(self, mutants, folder):
        """Runs mutants of one file; yields (mutant, result)."""
        for mutant, result in [(mutants[0], None)] if len(mutants) == 1 else self.run_together(mutants, folder):
            yield mutant, result or self.run_alone(mutant, folder)


@contextlib.contextmanager
def changed(path, text, mutants, together=False):
    """A file with mutants in it, for as long as the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if together:
        path.write_text(mutant_switch.source(text, mutants))
    else:
        [mutant] = mutants
        path.write_text(text[:mutant.begin] + mutant.after + text[mutant.end:])
    try:
        yield
    finally:
        path.unlink()
