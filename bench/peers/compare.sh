#!/usr/bin/env bash
# Times whole training steps of Taper and PyTorch side by side, ResNet-50's or a BERT's (--network bert-mini, bert-base);
# arguments go to compare.py (see --help).
# PyTorch is installed into .cache/peers, with the CUDA libraries that its wheel cannot be loaded without: 5.5 GB.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/dependencies.sh build peers
cmake --preset bench >/dev/null
cmake --build build-bench --target bench_step
# Debian's python3, whose headers are installed; another one may come first in PATH.
[ -x .cache/peers/bin/python ] || /usr/bin/python3 -m venv .cache/peers
.cache/peers/bin/pip install --quiet --requirement bench/peers/requirements.txt
exec .cache/peers/bin/python bench/peers/compare.py "$@"
