#!/usr/bin/env bash
# Installs what is missing and builds Taper; the binary is build/taper. Arguments go to the build tool: scripts/build.sh -j1
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/dependencies.sh build
cmake --preset default -DTAPER_TESTS=OFF >/dev/null  # without GoogleTest, which only scripts/test.sh installs
cmake --build build --target taper "$@"
