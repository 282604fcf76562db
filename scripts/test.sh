#!/usr/bin/env bash
# shellcheck disable=SC2317  # parts are called by their names
# Installs what is missing, builds, and runs every test. Parts can be run alone:
#   scripts/test.sh                    all parts, then a summary with the time of each
#   scripts/test.sh format unit        only these
# Parts:
#   format    clang-format would change nothing
#   unit      the optimised build, all tests; of the slow ones a third, drawn by the commit
#   check     the ops' CUDA kernels with each access to memory checked; the same bits under random schedules
#   sanitize  half of the tests, drawn by the commit, under AddressSanitizer and UBSan; none of the slow ones
#   fuzz      every fuzz target for ten seconds
#   run       a small run through every stage; TensorBoard reads its events, chromium its report, torchvision its export
#   bench     every benchmark runs, of a network's convolutions those of the first stage
#   cuda      nvcc compiles the CUDA kernels for one architecture, drawn by the commit (CUDA_ARCHITECTURES=all: for every one);
#             their resources are within the budget
#   mutate    (only where named) the tests notice 20 faults in the CUDA kernels, drawn by the commit (scripts/mutate.py)
#   tidy      clang-tidy finds nothing; with other parts, it runs beside them at the lowest priority
set -euo pipefail
cd "$(dirname "$0")/.."

all_parts=(format unit check run sanitize fuzz bench cuda tidy)
if [ "${1:-}" = --help ]; then
  sed -n '3,/^set/{s/^# //p}' "$0"
  exit 0
fi
jobs=$(($(nproc) + 1))  # one more than cores, for some wait for files or processes

draw() { echo $((16#$(git rev-parse HEAD | cut -c1-7) % $1)); }  # draw N: 0 .. N-1, by the commit

sources() { git ls-files --cached --others --exclude-standard '*.cpp' '*.h' '*.cu' '*.cuh'; }

configure() {  # configure PRESET [cmake options...]
  local preset=$1
  shift
  cmake --preset "$preset" -DTAPER_SIMT=ON -DTAPER_CUDA_INCLUDE="$(scripts/cuda-toolkit.sh headers)" "$@" >/dev/null
}

build() {  # build PRESET FOLDER [cmake options...]
  local preset=$1 folder=$2
  shift 2
  configure "$preset" "$@"
  cmake --build "$folder" --parallel "$jobs"
}

# Every C++ file is as clang-format would write it.
part_format() { sources | xargs clang-format --dry-run -Werror; }

# The optimised build and all tests. Debian's python3 has Debian's torchvision; another may come first in PATH.
part_unit() {
  build default build -DTAPER_TESTS=ON
  export TAPER_PYTHON=/usr/bin/python3
  ctest --test-dir build --parallel "$jobs" --output-on-failure --label-exclude slow
  ctest --test-dir build --parallel "$jobs" --output-on-failure --label-regex slow --no-tests=error \
    --tests-information "$(($(draw 3) + 1)),,3"
}

# clang-tidy over every file, with the warnings that .clang-tidy lists as errors. Files share translation units (preset tidy),
# which takes a quarter of the time; two files of a library must then not give one name to two things of their own.
part_tidy() {
  local left_out='^(tests|bench|runtime/simt/check)/'
  # What speaks to NVIDIA's libraries can be read only where their headers are.
  printf '#include <cublasLt.h>\n#include <cudnn.h>\n' |
    clang++-16 -I"$(scripts/cuda-toolkit.sh headers)" -fsyntax-only -x c++ - 2>/dev/null ||
    left_out='^(tests|bench|runtime/simt/check|kernels/cuda/vendor)/'
  configure tidy
  {
    find build-tidy -name 'unity_*.cxx'
    sources | grep '\.cpp$' | grep -Ev "$left_out" |
      grep -vxFf <(find build-tidy -name 'unity_*.cxx' -exec sed -n "s|^#include \"$PWD/\(.*\)\"|\1|p" {} +)
  } | xargs --max-procs="$jobs" --max-args=1 clang-tidy-16 -p build-tidy --quiet --checks=-bugprone-suspicious-include \
    --extra-arg=-Wno-unknown-warning-option 2>&1 |
    { grep -Ev '^[0-9]+ warnings? (and [0-9]+ errors? )?generated' || true; }
}

# The ops' CUDA kernels with each access to memory checked; then as they are, under three random schedules, which give the bits
# of the fixed one, whose results part unit compares with the reference's. Left out is TwoWorkersDoNotDisturbEachOther, which
# repeats cases of other tests 30 times.
repeated=TwoWorkers
part_check() {
  local ops simt kernels='/sim_(f32|tf32|bf16)( |$)' bits=.cache/op-bits seed=0 copies schedule
  mapfile -t ops < <(basename --suffix=.cpp tests/ops_*_test.cpp)
  mapfile -t simt < <(basename --suffix=.cpp tests/simt_*test.cpp | grep -v graph)
  configure default -DTAPER_TESTS=ON
  cmake --build build --parallel "$jobs" --target "${ops[@]}"
  configure check -DTAPER_TESTS=ON -DTAPER_TEST_OBJECTS="$PWD/build"
  cmake --build build-check --parallel "$jobs" --target "${ops[@]}" "${simt[@]}"
  TAPER_OP_BRIEF=1 ctest --test-dir build-check --parallel "$jobs" --output-on-failure --no-tests=error \
    --tests-regex "$kernels|^Simt|Ladder" --exclude-regex "$repeated"

  rm -rf "$bits"
  mkdir -p "$bits"
  for copies in fixed early late random; do
    schedule="order=random,streams=late,copies=$copies,seed=$seed"
    [ "$copies" != fixed ] || schedule=order=fixed
    TAPER_OP_BITS_ONLY=1 TAPER_SIMT_SCHEDULE=$schedule TAPER_OP_BITS="$PWD/$bits/$copies" ctest --test-dir build \
      --parallel "$jobs" --output-on-failure --no-tests=error --tests-regex "$kernels" --exclude-regex "$repeated"
    LC_ALL=C sort --output "$bits/$copies" "$bits/$copies"
    diff "$bits/fixed" "$bits/$copies"
    seed=$((seed + 1))
  done
}

# AddressSanitizer and UndefinedBehaviourSanitizer; oneDNN itself is the distribution's, not instrumented, nor is the reference.
# Left out for their time, besides what check leaves out, are runs that are killed or lose a rank, evaluations of the networks
# whose training steps run, and a test of memory's size; on simulated GPUs whole runs, tf32, whose code runs in parts, in other
# types and under check, and of f32 and bf16 one, drawn by the commit. Of the rest every second runs, drawn by the commit, too.
part_sanitize() {
  local types=(f32 bf16)
  build default build -DTAPER_TESTS=ON  # whose tests it links
  build asan build-asan
  TAPER_OP_BRIEF=1 ctest --test-dir build-asan --parallel "$jobs" --output-on-failure --no-tests=error --label-exclude slow \
    --tests-information "$(($(draw 4) / 2 + 1)),,2" --exclude-regex \
    "$repeated|Killed|ALost|/reference_|WithPyTorch/.*_eval|SimulatedGpus|/sim_(tf32|${types[$(draw 2)]})( |\$)|BertMemory"
}

fuzz() {  # fuzz TARGET
  local name corpora
  name=$(basename "$1")
  corpora=(".cache/fuzz/$name")
  mkdir -p "${corpora[0]}"
  if [ -d "tests/fuzz/seeds/$name" ]; then corpora+=("tests/fuzz/seeds/$name/"); fi
  "$1" "${corpora[@]}" -max_total_time="${FUZZ_SECONDS:-10}" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix=.cache/fuzz/ 2>&1 | sed "s/^/$name: /"
}

# Every fuzz target for ten seconds (FUZZ_SECONDS), from its seed inputs; as many at once as there are cores.
part_fuzz() {
  cmake --preset fuzz >/dev/null
  cmake --build build-fuzz --parallel "$jobs" --target fuzz_targets
  export -f fuzz
  printf '%s\n' build-fuzz/fuzz_* | xargs --max-procs="$jobs" -I{} bash -euo pipefail -c 'fuzz {}'
}

# The environment of the Python checks, .cache/venv, on top of Debian's torch, torchvision and numpy.
python_environment() {
  [ -x .cache/venv/bin/python ] || /usr/bin/python3 -m venv --system-site-packages .cache/venv
  .cache/venv/bin/pip install --quiet --requirement tests/requirements.txt
}

# Device code for real GPUs, by nvcc with warnings as errors; no GPU is needed. Of the architectures that cmake/cuda.cmake names
# one alone, drawn by the commit, with its part of the budget (CUDA_ARCHITECTURES=all: all, and the size of the objects). No
# "-real" behind its name: the PTX tells the blocks' sizes.
part_cuda() {
  local toolkit architectures=(80 86 89 90a 100) folder=build-cuda-one options=()
  if [ "${CUDA_ARCHITECTURES:-}" = all ]; then
    folder=build-cuda
  else
    options=(-DCMAKE_CUDA_ARCHITECTURES="${architectures[$(draw ${#architectures[@]})]}")
  fi
  toolkit=$(scripts/cuda-toolkit.sh compiler)
  PATH=$toolkit:$PATH cmake --preset cuda -B "$folder" -DTAPER_TESTS=OFF "${options[@]}" >/dev/null
  cmake --build "$folder" --parallel "$jobs" --target taper_cuda
  PATH=$toolkit:$PATH scripts/kernel_resources.py --build "$folder"
}

# Twenty small faults in the CUDA kernels, other ones for every commit and the same ones for the same commit, in the build
# of part unit.
part_mutate() {
  scripts/mutate.py --sample 20 --seed "$(draw 1000000)" --build build --jobs "$jobs"
}

# What the binary writes, read by the programs that it is written for.
part_run() {
  scripts/build.sh
  python_environment
  local run=.cache/tiny-run
  rm -rf "$run"
  build/taper train recipes/configurations/tiny-resnet.toml --output "$run"
  build/taper evaluate "$run"
  .cache/venv/bin/python tests/tensorboard_check.py "$run"
  scripts/check-report.sh "$run/report.html"
}

# Every benchmark executable, one short round of its benchmarks, so that they are known to work; the times mean nothing.
part_bench() {
  local first=--benchmark_filter='-layer[2-4]'
  build default build -DTAPER_TESTS=ON -DTAPER_BENCH=ON  # the libraries are those of the unit part
  build/bench_kernels --benchmark_min_time=0.0001 "$first"
  mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 build/bench_ranks --largest 1 --repetitions 1
  printf '%s\n' build/*_bench | xargs --max-procs="$jobs" -I{} \
    env {} --benchmark_min_time=0.001 "$first"  # env: xargs replaces no command
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
  if ! declare -F "part_$part" >/dev/null; then
    echo "scripts/test.sh: no part is called '$part'; there are ${all_parts[*]}." >&2
    exit 2
  fi
done

scripts/dependencies.sh build test

# clang-tidy needs nothing of the other parts, which seldom keep every core busy.
tidy=
if [[ ${#parts[@]} -gt 1 && " ${parts[*]} " = *' tidy '* ]]; then
  mkdir -p .cache
  set -m  # a process group of its own, which ends with this script
  nice -n 19 scripts/test.sh tidy >.cache/tidy.log 2>&1 &
  tidy=$!
  set +m
  trap 'kill -- "-$tidy" 2>/dev/null || true' EXIT
fi

summary=()
failed=0
for part in "${parts[@]}"; do
  printf '\n=== %s ===\n' "$part"
  start=$SECONDS
  set +e  # a part runs under its own set -e, in a subshell that is no condition, so that its first failure ends it
  if [ -n "$tidy" ] && [ "$part" = tidy ]; then
    wait "$tidy"
    status=$?
    cat .cache/tidy.log
  else
    (set -e; "part_$part")
    status=$?
  fi
  set -e
  result=passed
  if [ "$status" -ne 0 ]; then
    result=FAILED
    failed=1
  fi
  summary+=("$(printf '%-10s %-7s %4d s' "$part" "$result" $((SECONDS - start)))")
done

printf '\n=== summary ===\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
