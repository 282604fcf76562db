#!/usr/bin/env python3
"""What the compiler made of the CUDA kernels, compared with their budget.

usage: scripts/kernel_resources.py [--build build-cuda] [--write] [--report FILE]

For every kernel and architecture in the objects of the build: registers, static shared memory, theoretical occupancy
(blocks of the size that __launch_bounds__ states), and how many HMMA, FFMA, LDGSTS and LDSM instructions there are.
Fails where
  - a kernel spills: it has a stack, or loads and stores of local memory;
  - a kernel does not state its block size;
  - its occupancy is below the budget's;
  - an instruction that the budget names (tensor cores, asynchronous copies, matrix loads) is gone;
  - the objects are larger than the budget allows, or the kernels and the budget's are not the same.
--write makes the budget, kernels/cuda/budget.json, from the build; dynamic shared memory, which only the launch knows,
stays as written there by hand. --report writes the table in Markdown. Needs cuobjdump and nvdisasm (scripts/cuda-toolkit.sh).
"""

import argparse
import functools
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUDGET = ROOT / "kernels/cuda/budget.json"
# An instruction of these that a kernel had and has no more is a loss of an order of magnitude, not of a per cent.
KEPT = ("HMMA", "LDGSTS", "LDSM")
COUNTED = ("HMMA", "FFMA", "LDGSTS", "LDSM")
LOCAL = ("LDL", "STL")
# Per multiprocessor: warps, blocks, KiB of shared memory (CUDA C++ Programming Guide, "Compute Capabilities").
# All have 65536 registers, given to warps in portions of 256, and keep 1 KiB of shared memory per block; from 9.0 on it is
# among what cuobjdump calls SHARED, where there is any.
PROCESSORS = {"80": (64, 32, 164), "86": (48, 16, 100), "89": (48, 24, 100), "90a": (64, 32, 228), "100": (64, 32, 228)}
KEPT_SHARED = 1024
SLACK = 1.25  # of the objects' size, when the budget is written


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr}")
    return result.stdout


@functools.cache
def readable(mangled, source):
    """"elementwise: map_one<float, Relu>" of a mangled name: without the file's hash and the parameters."""
    name = run("c++filt", mangled).strip()
    name = re.sub(r"_GLOBAL__N__\w+::|\(anonymous namespace\)::|taper::|cuda::|__nv_|^void ", "", name)
    depth, end = 0, len(name)
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = i
            break
    return f"{source}: {name[:end]}"


def block_sizes(path):
    """Threads of each kernel's block, from the PTX."""
    sizes, kernel = {}, None
    for line in run("cuobjdump", "-ptx", path).splitlines():
        if entry := re.match(r"(?:\.visible |\.weak )?\.entry (\w+)", line):
            kernel = entry[1]
        elif bound := re.match(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", line):
            sizes[kernel] = int(bound[1]) * int(bound[2] or 1) * int(bound[3] or 1)
    return sizes


def usage(path):
    """{(kernel, architecture): {"registers", "stack", "local", "shared"}}"""
    found, architecture, kernel = {}, None, None
    for line in run("cuobjdump", "-res-usage", path).splitlines():
        if match := re.match(r"arch = sm_(\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            kernel = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            if shared and int(architecture.rstrip("a")) >= 90:
                shared -= KEPT_SHARED
            found[kernel, architecture] = {"registers": registers, "stack": stack, "shared": shared, "local": local}
    return found


def instructions(path):
    """{(kernel, architecture): {"HMMA": 128, ...}}"""
    found, architecture, counts = {}, None, None
    for line in run("cuobjdump", "-sass", path).splitlines():
        if match := re.match(r"\s*code for sm_(\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function : (\w+)", line):
            counts = found[match[1], architecture] = dict.fromkeys(COUNTED + LOCAL, 0)
        elif counts is not None and (match := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", line)):
            if match[1] == "FFMA2":  # two at once, from 10.0 on
                counts["FFMA"] += 2
            elif match[1] in counts:
                counts[match[1]] += 1
    return found


def occupancy(architecture, threads, registers, shared):
    """Warps that fit on a multiprocessor, in per cent of those that it can hold."""
    most_warps, most_blocks, kib = PROCESSORS[architecture]
    warps = -(-threads // 32)
    registers_of_warp = -(-registers * 32 // 256) * 256
    blocks = min(most_blocks, most_warps // warps, 65536 // registers_of_warp // warps, kib * 1024 // (shared + KEPT_SHARED))
    return 100 * blocks * warps // most_warps


def measure(build, dynamic):
    """The kernels of a build, by readable name, and the size of their objects."""
    kernels, size = {}, 0
    objects = sorted(pathlib.Path(build).glob("kernels/cuda/CMakeFiles/taper_cuda.dir/**/*.cu.o"))
    if not objects:
        sys.exit(f"{build} has no objects of CUDA kernels: 'cmake --preset cuda', then 'cmake --build {build}'")
    for path in objects:
        size += path.stat().st_size
        source, sizes, counts = path.name.removesuffix(".cu.o"), block_sizes(path), instructions(path)
        for (mangled, architecture), used in usage(path).items():
            name = readable(mangled, source)
            kernel = kernels.setdefault(name, {"threads": sizes.get(mangled), "architectures": {}})
            used |= counts[mangled, architecture]
            shared = used["shared"] + dynamic.get(name, 0)
            if kernel["threads"]:
                used["occupancy"] = occupancy(architecture, kernel["threads"], used["registers"], shared)
            kernel["architectures"][architecture] = used
    return kernels, size


def complaints(kernels, size, budget):
    """What is wrong, a sentence each."""
    for name in sorted(budget["kernels"].keys() - kernels.keys()):
        yield f"{name} is in the budget and not in the build; write the budget anew if it is meant to be gone"
    if size > budget["bytes"]:
        yield f"the objects have {size} bytes, and the budget is {budget['bytes']}"
    for name, kernel in sorted(kernels.items()):
        planned = budget["kernels"].get(name)
        if planned is None:
            yield f"{name} is not in the budget; write the budget anew to add it"
        if kernel["threads"] is None:
            yield f"{name} does not state its block size (__launch_bounds__)"
            continue
        for architecture, used in kernel["architectures"].items():
            if used["stack"] or used["local"] or used["LDL"] or used["STL"]:
                yield (f"{name} spills on sm_{architecture}: {used['stack']} bytes of stack, {used['LDL']} loads and "
                       f"{used['STL']} stores of local memory")
            if planned is None:
                continue
            least = planned["occupancy"].get(architecture, 0)
            if used["occupancy"] < least:
                yield (f"{name} has an occupancy of {used['occupancy']} % on sm_{architecture} ({used['registers']} "
                       f"registers, {used['shared']} bytes of static shared memory); the budget is {least} %")
            for lost in (kind for kind in planned["uses"] if not used[kind]):
                yield f"{name} has no {lost} instruction on sm_{architecture} any more"


def write_budget(kernels, size, dynamic):
    lines = []
    for name, kernel in sorted(kernels.items()):
        of = kernel["architectures"]
        entry = {"occupancy": {a: used.get("occupancy", 0) for a, used in of.items()},
                 "uses": [kind for kind in KEPT if all(used[kind] for used in of.values())]}
        if name in dynamic:
            entry["dynamic_shared"] = dynamic[name]
        lines.append(f"    {json.dumps(name)}: {json.dumps(entry)}")
    BUDGET.write_text('{\n  "bytes": %d,\n  "kernels": {\n%s\n  }\n}\n' % (int(size * SLACK), ",\n".join(lines)))


def write_report(kernels, path):
    with open(path, "w", encoding="utf-8") as file:
        file.write("| kernel | threads | sm | registers | static shared | occupancy % | " + " | ".join(COUNTED) + " |\n")
        file.write("| --- " * (6 + len(COUNTED)) + "|\n")
        for name, kernel in sorted(kernels.items()):
            for architecture, used in kernel["architectures"].items():
                cells = [f"`{name}`", kernel["threads"], architecture, used["registers"], used["shared"],
                         used.get("occupancy", "?"), *(used[kind] for kind in COUNTED)]
                file.write("| " + " | ".join(map(str, cells)) + " |\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=ROOT / "build-cuda", help="the build folder (default: build-cuda)")
    parser.add_argument("--write", action="store_true", help="write the budget from the build")
    parser.add_argument("--report", help="write a table of all kernels, in Markdown")
    arguments = parser.parse_args()
    budget = json.loads(BUDGET.read_text()) if BUDGET.exists() else {"bytes": 0, "kernels": {}}
    dynamic = {name: entry.get("dynamic_shared", 0) for name, entry in budget["kernels"].items()
               if "dynamic_shared" in entry}
    kernels, size = measure(arguments.build, dynamic)
    if arguments.report:
        write_report(kernels, arguments.report)
    if arguments.write:
        write_budget(kernels, size, dynamic)
        budget = json.loads(BUDGET.read_text())
    wrong = list(complaints(kernels, size, budget))
    for sentence in wrong:
        print(f"scripts/kernel_resources.py: {sentence}", file=sys.stderr)
    architectures = sorted({a for kernel in kernels.values() for a in kernel["architectures"]})
    print(f"{len(kernels)} kernels for sm {', '.join(architectures)}, {size} bytes of objects: "
          f"{'within' if not wrong else 'NOT within'} the budget")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
