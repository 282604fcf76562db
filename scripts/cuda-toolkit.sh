#!/usr/bin/env bash
# Finds what a build with CUDA's kernels needs, and gets from PyPI into .cache/cuda what the machine lacks.
#   scripts/cuda-toolkit.sh headers     prints the folder of CUDA 13's headers: all that the device sim needs
#   scripts/cuda-toolkit.sh compiler    prints folders for PATH: nvcc 13, cuobjdump, nvdisasm; for the device cuda, which
#                                       also needs NCCL (200 MB from PyPI), found by cmake/cuda.cmake
set -euo pipefail
cd "$(dirname "$0")/.."

# One release, so that the kernels' resources are those of the budget; the disassemblers are younger, for PyPI has none of 13.0.
header_packages=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85)
compiler_packages=("${header_packages[@]}" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88)
tool_packages=(nvidia-cuda-cuobjdump==13.2.86 nvidia-cuda-nvdisasm==13.2.86)
nccl_packages=(nvidia-nccl-cu13==2.28.9)

root=$PWD/.cache/cuda

folder() {  # where PyPI's packages put their files
  local folders=("$root"/lib/python3*/site-packages/nvidia/cu13)
  echo "${folders[0]}"
}

install() {
  [ -x "$root/bin/pip" ] || python3 -m venv "$root"
  "$root/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
  [ -d "$(folder)/lib" ] || return 0  # the disassemblers alone, to go with the machine's own nvcc, have no libraries
  ln -sfn lib "$(folder)/lib64"  # where CMake looks, and by which name
  ln -sfn libcudart.so.13 "$(folder)/lib/libcudart.so"
}

is_13() {  # is_13 FOLDER: a toolkit's headers, of 13.0 or later
  local version
  version=$(sed -n 's/^#define CUDART_VERSION *\([0-9]*\).*/\1/p' "$1/include/cuda_runtime_api.h" 2>/dev/null) || true
  [ "${version:-0}" -ge 13000 ] && [ -f "$1/include/cuda_bf16.h" ]
}

# A toolkit that the machine has, or nothing.
toolkit() {
  local nvcc candidate
  nvcc=$(command -v nvcc || true)
  for candidate in "${CUDA_HOME:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda; do
    if [ -n "$candidate" ] && is_13 "$candidate"; then
      echo "$candidate"
      return
    fi
  done
}

has_nccl() {  # has_nccl FOLDER...: NCCL's header in one of them
  local candidate
  for candidate in "$@"; do
    if [ -f "$candidate/include/nccl.h" ]; then return; fi
  done
  return 1
}

found=$(toolkit)
case "${1:-}" in
  headers)
    if [ -z "$found" ]; then
      is_13 "$(folder)" || install "${header_packages[@]}"
      found=$(folder)
    fi
    echo "$found/include"
    ;;
  compiler)
    if [ -z "$found" ] || [ ! -x "$found/bin/nvcc" ]; then
      [ -x "$(folder)/bin/nvcc" ] || install "${compiler_packages[@]}"
      found=$(folder)
    fi
    has_nccl "$found" /usr /usr/local "$(folder)/../nccl" || install "${nccl_packages[@]}"
    if [ ! -x "$found/bin/cuobjdump" ] || [ ! -x "$found/bin/nvdisasm" ]; then
      [ -x "$(folder)/bin/nvdisasm" ] || install "${tool_packages[@]}"
      echo "$found/bin:$(folder)/bin"
    else
      echo "$found/bin"
    fi
    ;;
  *)
    echo "usage: scripts/cuda-toolkit.sh headers|compiler" >&2
    exit 2
    ;;
esac
