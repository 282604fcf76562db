#!/usr/bin/env bash
# Trains a thin network by way of a wide one on Fashion-MNIST and shows what came out; a few minutes on two cores.
# Stopped half-way, it goes on where it was when run again.
#   scripts/demo.sh            the result is in runs/demo
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
  echo "scripts/demo.sh: there is no demo called '$1'. The one demo, Fashion-MNIST, takes no argument." >&2
  exit 2
fi
scripts/dependencies.sh build demo
scripts/build.sh
resume=()
[ ! -d runs/demo ] || resume=(--resume)
build/taper train recipes/configurations/fashion-resnet.toml --output runs/demo "${resume[@]}"
build/taper evaluate runs/demo
echo "The report, one page with everything in it: $PWD/runs/demo/report.html"
