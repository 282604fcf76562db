#!/usr/bin/env bash
# shellcheck disable=SC2317  # steps are called by their names
# Everything that a GPU is needed for, in one go, from a clean checkout; writes gpu-report.md.
#   scripts/gpu-check.sh                  on the first GPU that CUDA_VISIBLE_DEVICES leaves; ranks on the first two
#   scripts/gpu-check.sh tests kernels    only these steps, with what an earlier build, perhaps on another machine, left in
#                                         build-cuda
#   scripts/gpu-check.sh --sim            all steps on the device sim, with fewer and smaller cases, to know that they work;
#                                         compute-sanitizer, which needs a GPU, is left out
# Steps:
#   build       the program and the tests of the ops
#   tests       every case of the op table on the device
#   memcheck, racecheck, synccheck, initcheck    the same under compute-sanitizer, 200 seconds for each test program
#   kernels     each kernel on a network's shapes: checked, timed, beside cuBLASLt and cuDNN where they can be loaded
#   recipe      a small run through every stage, twice, to the same bits
#   ranks       the same on two ranks, connected by NCCL, where there are two GPUs
#   peers       steps of ResNet-50 and of BERT beside PyTorch's, after a check that both compute the same loss, where there is a Python
#               with torch and torchvision or transformers: TAPER_PEERS_PYTHON, .cache/peers (bench/peers/compare.sh) or python3
#   graphs      training with CUDA graphs and without, to the same bits, and how much faster it is with them
#   throughput  images per second of training with 1, 2 and 4 shards, each on a stream of its own
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  --help)
    sed -n '3,/^set/{s/^# //p}' "$0"
    exit 0
    ;;
  --sim)
    device=sim folder=build tests='ops_pool_test' shard_images=(8)
    kernel_options=(--benchmark_min_time=0.0001)
    sizes=(--set baseline.steps=2 --set baseline.evaluate_every=2)
    peer_options=(--precision f32 --forms eager --batch 4 --size 33 --tokens 16 --rounds 1 --steps 1) bert=bert-mini
    shift
    ;;
  *)
    device=cuda folder=build-cuda tests='ops_*_test' shard_images=(32 64 128 256)
    kernel_options=(--benchmark_filter='(resnet50_64|bert_[a-z]*_4096|/4096x|/8x512x)' --benchmark_min_time=0.02)
    sizes=(--set network.width=64 --set 'network.depths=[3, 3]' --set data.train_limit=8192 --set baseline.steps=20
      --set baseline.evaluate_every=20)
    peer_options=(--precision tf32 bf16 --batch 64 --rounds 3 --steps 5) bert=bert-base
    ;;
esac
report=gpu-report.md
work=.cache/gpu-check
configuration=recipes/configurations/tiny-resnet.toml
rm -rf "$work"
mkdir -p "$work"

step_build() {
  scripts/dependencies.sh build test
  local targets
  if [ "$device" = cuda ]; then  # for this machine's GPU alone: compiling for all would take most of the time
    PATH=$(scripts/cuda-toolkit.sh compiler):$PATH cmake --preset cuda -DTAPER_TESTS=ON -DTAPER_BENCH=ON -DCMAKE_CUDA_ARCHITECTURES=native
  else
    cmake --preset default -DTAPER_TESTS=ON -DTAPER_BENCH=ON -DTAPER_SIMT=ON -DTAPER_CUDA_INCLUDE="$(scripts/cuda-toolkit.sh headers)"
  fi
  # shellcheck disable=SC2086  # a pattern
  targets=$(cd tests && basename -s .cpp -a $tests.cpp)
  # shellcheck disable=SC2086
  cmake --build "$folder" --parallel "$(nproc)" --target taper bench_kernels bench_step $targets
}

step_tests() {  # step_tests [PROGRAM ARGUMENTS...]: by way of this program
  local test status=0
  for test in "$folder"/tests/$tests; do "$@" "$test" --gtest_filter="*${device}_*" --gtest_brief=1 || status=1; done
  return $status
}

sanitizer() { step_tests timeout 200 compute-sanitizer --tool "$1" --error-exitcode 1; }
step_memcheck() { sanitizer memcheck; }
step_racecheck() { sanitizer racecheck; }
step_synccheck() { sanitizer synccheck; }
step_initcheck() { sanitizer initcheck; }

train() {  # train NAME [OPTIONS...]
  local name=$1
  shift
  "$folder"/taper train "$configuration" --device "$device" --output "$work/$name" "$@"
}

weights() { sha256sum "$work/$1"/checkpoints/step-*/weights.safetensors | cut -d' ' -f1; }

# Batches of 64 and 4096 tokens; all of bench_kernels would take longer than the rest.
step_kernels() {
  "$folder"/bench_kernels "${kernel_options[@]}" --benchmark_out="$work/kernels.json" --benchmark_out_format=json
  python3 - "$work/kernels.json" <<'END' >"$work/kernels.md"
import json, sys

def cell(kernel, key, scale, digits):
    return f"{kernel[key] / scale:.{digits}f}" if key in kernel else "-"

for kernel in json.load(open(sys.argv[1]))["benchmarks"]:
    print("|", " | ".join([kernel["name"].removesuffix("/manual_time"), f"{kernel['real_time']:.1f}",
                           cell(kernel, "FLOP/s", 1e12, 2), cell(kernel, "bytes/s", 1e9, 1),
                           cell(kernel, "of_peak", 0.01, 1), cell(kernel, "vendor", 1, 2)]), "|")
END
}

step_recipe() {
  train one
  train two
  diff <(weights one) <(weights two)
}

step_ranks() {
  mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 \
    "$folder"/taper train "$configuration" --device "$device" --output "$work/ranks"
  diff <(weights one) <(weights ranks)
}

step_peers() {
  local network module python
  for network in resnet50 "$bert"; do
    module=$(if [ "$network" = resnet50 ]; then echo torchvision; else echo transformers; fi)
    for python in "${TAPER_PEERS_PYTHON:-}" .cache/peers/bin/python python3 ''; do
      if "$python" -c "import torch, safetensors, $module; assert '$device' == 'sim' or torch.cuda.is_available()"; then break; fi
    done
    if [ -z "$python" ]; then
      echo "$network: left out, for no Python here has torch for the device, $module and safetensors" | tee -a "$work/peers.txt"
      continue
    fi
    "$python" bench/peers/compare.py --device "$device" --taper "$folder/bench_step" --network "$network" "${peer_options[@]}" |
      tee -a "$work/peers.txt"
  done
}

images_per_second() {  # images_per_second NAME: in the last steps of a run
  sed -n '/"event":"train"/s/.*"images_per_s":\([0-9]*\).*/\1/p' "$work/$1/metrics.jsonl" | tail -n 1
}

step_graphs() {
  local precision graphs
  for precision in f32 bf16; do
    for graphs in false true; do
      train "$precision-graphs-$graphs" --set precision="$precision" --set cuda_graphs="$graphs" --set shards=4 \
        --set 'stages=["baseline"]' --set baseline.batch_size=$((4 * shard_images[0])) "${sizes[@]}"
    done
    diff <(weights "$precision-graphs-false") <(weights "$precision-graphs-true")
    printf '| %s | %s | %s |\n' "$precision" "$(images_per_second "$precision-graphs-false")" \
      "$(images_per_second "$precision-graphs-true")" | awk '{ printf "%s %.2f |\n", $0, $6 / $4 }' >>"$work/graphs.md"
  done
}

step_throughput() {
  local shards images precision
  for precision in f32 tf32 bf16; do
    for images in "${shard_images[@]}"; do
      for shards in 1 2 4; do
        train "$precision-$images-$shards" --set precision="$precision" --set shards="$shards" --set 'stages=["baseline"]' \
          --set baseline.batch_size=$((images * shards)) "${sizes[@]}"
        printf '| %s | %s | %s | %s |\n' "$precision" "$images" "$shards" \
          "$(images_per_second "$precision-$images-$shards")" >>"$work/throughput.md"
      done
    done
  done
}

steps=("$@")
for step in "${steps[@]}"; do
  declare -F "step_$step" >/dev/null || { echo "scripts/gpu-check.sh: no step is called '$step'; see --help." >&2; exit 2; }
done
if [ ${#steps[@]} -eq 0 ]; then
  steps=(build tests)
  [ "$device" = sim ] || steps+=(memcheck racecheck synccheck initcheck)
  steps+=(kernels recipe)
  if [ "$device" = sim ] || [ "$(nvidia-smi --list-gpus | wc -l)" -gt 1 ]; then steps+=(ranks); fi
  steps+=(peers graphs throughput)
fi
failed=0
for step in "${steps[@]}"; do
  echo "=== $step (its output: $work/$step.log)"
  start=$SECONDS
  set +e  # a step runs under its own set -e, in a subshell that is no condition, so that its first failure ends it
  (set -e; "step_$step") >"$work/$step.log" 2>&1
  status=$?
  set -e
  result=passed
  if [ "$status" -ne 0 ]; then
    result=FAILED
    failed=1
    tail -n 20 "$work/$step.log"
  fi
  printf '| %s | %s | %d |\n' "$step" "$result" $((SECONDS - start)) >>"$work/steps.md"
  [ "$step $result" != 'build FAILED' ] || break
done

{
  echo "# Taper on the device $device"
  printf '\nCommit %s, %s.\n\n' "$(git describe --always --dirty)" "$(date -u +%FT%TZ)"
  if [ "$device" = sim ]; then
    echo 'No GPU: the kernels ran on the CPU, on few and small cases; compute-sanitizer is left out. Times mean nothing.'
  else
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
  fi
  printf '\n| step | result | seconds |\n| --- | --- | --- |\n'
  cat "$work/steps.md"
  if [ -s "$work/kernels.md" ]; then
    printf '\nThe vendor'"'"'s column is its time over ours: above 1 where ours is faster.\n'
    printf '\n| kernel | us | TFLOP/s | GB/s | %% of peak | vendor |\n| --- | ---: | ---: | ---: | ---: | ---: |\n'
    cat "$work/kernels.md"
  fi
  if [ -s "$work/peers.txt" ]; then
    printf '\n'
    sed 's/^/    /' "$work/peers.txt"
  fi
  if [ -f "$work/graphs.md" ]; then
    printf '\n| precision | images per second without graphs | with | ratio |\n| --- | ---: | ---: | ---: |\n'
    cat "$work/graphs.md"
  fi
  if [ -f "$work/throughput.md" ]; then
    printf '\n| precision | images of a shard | shards | images per second |\n| --- | --- | --- | --- |\n'
    cat "$work/throughput.md"
  fi
  if [ "$failed" = 1 ]; then printf '\nThe end of what the failed steps said:\n'; fi
  for step in "${steps[@]}"; do
    if grep -q "^| $step | FAILED" "$work/steps.md"; then printf '\n%s:\n\n' "$step" && tail -n 40 "$work/$step.log" | sed 's/^/    /'; fi
  done
} >"$report"
echo "the report is in $report"
exit "$failed"
