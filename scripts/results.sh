#!/usr/bin/env bash
# Trains the arms of docs/results.md over several seeds and prints its tables. Resumable: run it again after an
# interruption; what is done is kept in runs/results.
#   scripts/results.sh                          all families, seeds 0 to 4
#   scripts/results.sh --seeds 3 plain-24       one family, seeds 0 to 2
#   scripts/results.sh --table                  only the tables of what is there
# Sample budget: 12,000 training images; 400 steps of 64 images for every arm of every network, 600 in plain-32.
set -euo pipefail
cd "$(dirname "$0")/.."

families=() seeds=5 train=yes
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

# train FAMILY FOLDER OPTIONS...: starts a run, or goes on with it; a finished one costs a second.
train() {
  local configuration=recipes/configurations/results/$1.toml folder=$2
  shift 2
  local resume=()
  [ ! -e "$folder/config.toml" ] || resume=(--resume)
  build/taper train "$configuration" --output "$folder" "${resume[@]}" "$@" >/dev/null
}

if [ $train = yes ]; then
  scripts/dependencies.sh demo
  scripts/build.sh
  for ((seed = 0; seed < seeds; ++seed)); do
    for family in "${families[@]}"; do
      folder=runs/results/$family/$seed
      mkdir -p "$folder"
      # The thin net from scratch, the wide net, and the three stages.
      train "$family" "$folder/stages" --set seed=$seed
      # The thin net by the wide net's outputs alone.
      [ -e "$folder/wide.safetensors" ] || build/taper export "$folder/stages" "$folder/wide.safetensors" --network wide
      train "$family" "$folder/match" --set seed=$seed --set 'stages=["wide","match","merge"]' --set wide.weights="$folder/wide.safetensors"
      # The three stages with less imitation and more fine-tuning, and with all units imitating in every step: the same number
      # of steps in all.
      case $family in
        residual) short=(20 340) together=(60 340 0.3) ;;
        plain-16) short=(4 332) together=(200 200 0.01) ;;
        plain-24) short=(4 300) together=(200 200 0.01) ;;
        plain-32) short=(4 472) together=(300 300 0.01) ;;
      esac
      stages=(--set "seed=$seed" --set 'stages=["wide","imitate","finetune","merge"]' --set wide.weights="$folder/wide.safetensors")
      train "$family" "$folder/short" "${stages[@]}" --set imitate.steps="${short[0]}" --set finetune.steps="${short[1]}"
      train "$family" "$folder/together" "${stages[@]}" --set imitate.order=together --set imitate.steps="${together[0]}" \
        --set finetune.steps="${together[1]}" --set imitate.lr="${together[2]}"
      # A thin net twice as deep from scratch.
      depths=$(sed -n 's/^depths = \[\(.*\)\]$/\1/p' "recipes/configurations/results/$family.toml" | awk -F', ' '{for (i = 1; i <= NF; ++i) printf "%s%d", (i > 1 ? "," : ""), 2 * $i}')
      train "$family" "$folder/deep" --set seed=$seed --set 'stages=["baseline"]' --set "network.depths=[$depths]"
    done
  done
fi
python3 scripts/results_table.py "${families[@]/#/runs/results/}"
