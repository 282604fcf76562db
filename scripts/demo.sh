#!/usr/bin/env bash
# Trains a thin network by way of a wide one and shows what came out; a few minutes on two cores. Stopped half-way, it goes on
# where it was when run again.
#   scripts/demo.sh         a ResNet on Fashion-MNIST; the result is in runs/demo
#   scripts/demo.sh bert    a BERT on text, then on a task: news by topic; the result is in runs/demo-bert
set -euo pipefail
cd "$(dirname "$0")/.."
case $#:${1:-} in
  0:) configuration=fashion-resnet output=runs/demo ;;
  1:bert) configuration=small-bert output=runs/demo-bert ;;
  1:-h | 1:--help) sed -n '2,/^set/{s/^# //p}' "$0"; exit 0 ;;
  *)
    echo "scripts/demo.sh: there is no demo called '$*'; there are 'bert' and, without an argument, Fashion-MNIST." >&2
    exit 2
    ;;
esac
if [ $configuration = small-bert ]; then
  scripts/fetch-text.sh
else
  scripts/dependencies.sh build demo
fi
scripts/build.sh
resume=()
[ ! -d $output ] || resume=(--resume)
build/taper train recipes/configurations/$configuration.toml --output $output "${resume[@]}"
build/taper evaluate $output
[ $configuration != small-bert ] || build/taper evaluate $output --task reuters-r8
echo "The report, one page with everything in it: $PWD/$output/report.html"
