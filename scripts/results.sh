#!/usr/bin/env bash
# Trains the arms of docs/results.md over several seeds and prints its tables. Resumable: run it again after an
# interruption; what is done is kept in runs/results.
#   scripts/results.sh                          all families of images, seeds 0 to 4
#   scripts/results.sh --seeds 3 plain-24       one family, seeds 0 to 2
#   scripts/results.sh bert                     text: BERT, pre-trained once, the tasks with seeds 0 to 2
#   scripts/results.sh --table                  only the tables of what is there
# Sample budget of images: 12,000 for training; 400 steps of 64 for every arm of every network, 600 in plain-32.
# Token budget of text: 2,000 steps of 16 sequences of 128 tokens for every arm, 4.1 million tokens of the 10 of the corpus; 200
# steps of 32 texts for every task.
set -euo pipefail
cd "$(dirname "$0")/.."

families=() seeds= train=yes
while [ $# -gt 0 ]; do
  case $1 in
    --seeds) seeds=$2; shift ;;
    --table) train=no ;;
    -h | --help) sed -n '2,/^set/{s/^# //p}' "$0"; exit 0 ;;
    -*) echo "scripts/results.sh: no option is called $1; there are --seeds, --table and --help." >&2; exit 2 ;;
    *)
      [ -f "recipes/configurations/results/$1.toml" ] || {
        echo "scripts/results.sh: no family is called $1; there are $(cd recipes/configurations/results && echo *.toml)." >&2
        exit 2
      }
      families+=("$1")
      ;;
  esac
  shift
done
[ ${#families[@]} -gt 0 ] || families=(residual plain-16 plain-24 plain-32)

# train CONFIGURATION FOLDER OPTIONS...: starts a run, or goes on with it; a finished one costs a second.
train() {
  local configuration=$1 folder=$2
  shift 2
  local resume=()
  [ ! -e "$folder/config.toml" ] || resume=(--resume)
  build/taper train "$configuration" --output "$folder" "${resume[@]}" "$@" >/dev/null
}

# images FAMILY: every arm, seed by seed.
images() {
  local family=$1 configuration=recipes/configurations/results/$1.toml seed folder short together stages depths
  for ((seed = 0; seed < ${seeds:-5}; ++seed)); do
    folder=runs/results/$family/$seed
    mkdir -p "$folder"
    # The thin net from scratch, the wide net, and the three stages.
    train "$configuration" "$folder/stages" --set seed=$seed
    # The thin net by the wide net's outputs alone.
    [ -e "$folder/wide.safetensors" ] || build/taper export "$folder/stages" "$folder/wide.safetensors" --network wide
    train "$configuration" "$folder/match" --set seed=$seed --set 'stages=["wide","match","merge"]' --set wide.weights="$folder/wide.safetensors"
    # The three stages with less imitation and more fine-tuning, and with all units imitating in every step: the same number
    # of steps in all.
    case $family in
      residual) short=(20 340) together=(60 340 0.3) ;;
      plain-16) short=(4 332) together=(200 200 0.01) ;;
      plain-24) short=(4 300) together=(200 200 0.01) ;;
      plain-32) short=(4 472) together=(300 300 0.01) ;;
    esac
    stages=(--set "seed=$seed" --set 'stages=["wide","imitate","finetune","merge"]' --set wide.weights="$folder/wide.safetensors")
    train "$configuration" "$folder/short" "${stages[@]}" --set imitate.steps="${short[0]}" --set finetune.steps="${short[1]}"
    train "$configuration" "$folder/together" "${stages[@]}" --set imitate.order=together --set imitate.steps="${together[0]}" \
      --set finetune.steps="${together[1]}" --set imitate.lr="${together[2]}"
    # A thin net twice as deep from scratch.
    depths=$(sed -n 's/^depths = \[\(.*\)\]$/\1/p' "$configuration" | awk -F', ' '{for (i = 1; i <= NF; ++i) printf "%s%d", (i > 1 ? "," : ""), 2 * $i}')
    train "$configuration" "$folder/deep" --set seed=$seed --set 'stages=["baseline"]' --set "network.depths=[$depths]"
  done
}

# text FAMILY: the arms are pre-trained once, each in a run that then learns the tasks with seed 0; the other seeds take the
# tasks' own configurations, and so does the thin network that was never pre-trained.
text() {
  local folder=runs/results/$1 configuration=recipes/configurations/results/$1.toml seed arm task network
  mkdir -p "$folder"
  train "$configuration" "$folder/wide" --set 'stages=["wide","task"]' --set 'task.networks=["wide"]'
  train "$configuration" "$folder/direct" --set 'stages=["baseline","task"]' --set 'task.networks=["baseline"]'
  train "$configuration" "$folder/match" --set 'stages=["wide","match","merge","task"]' --set wide.weights="$folder/wide/tasks/wide.safetensors"
  train "$configuration" "$folder/stages" --set wide.weights="$folder/wide/tasks/wide.safetensors"
  for ((seed = 0; seed < ${seeds:-3}; ++seed)); do
    for task in "$folder"/direct/tasks/*/; do
      task=$(basename "$task")
      mkdir -p "$folder/seeds/$seed/$task"
      train "$folder/direct/tasks/$task/baseline/config.toml" "$folder/seeds/$seed/$task/scratch" --set seed=$seed --set 'network.encoder=""'
      [ $seed -gt 0 ] || continue
      for arm in wide direct match stages; do
        case $arm in wide) network=wide ;; direct) network=baseline ;; *) network=thin ;; esac
        train "$folder/$arm/tasks/$task/$network/config.toml" "$folder/seeds/$seed/$task/$arm" --set seed=$seed
      done
    done
  done
}

if [ $train = yes ]; then
  scripts/build.sh
  for family in "${families[@]}"; do
    if [ "$family" = bert ]; then
      scripts/fetch-text.sh
      text bert
    else
      scripts/dependencies.sh demo
      images "$family"
    fi
  done
fi
python3 scripts/results_table.py "${families[@]/#/runs/results/}"
