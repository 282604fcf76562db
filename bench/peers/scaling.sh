#!/usr/bin/env bash
# How much faster two processes train than one, on a core each: Taper's ranks beside PyTorch's DistributedDataParallel with
# gloo, on the demo's ResNet; arguments go to scaling.py (see --help). PyTorch is installed into .cache/peers, as for compare.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/dependencies.sh build peers demo
cmake --preset bench >/dev/null
cmake --build build-bench --target taper
[ -x .cache/peers/bin/python ] || /usr/bin/python3 -m venv .cache/peers
.cache/peers/bin/pip install --quiet --requirement bench/peers/requirements.txt
exec .cache/peers/bin/python bench/peers/scaling.py "$@"
