#!/usr/bin/env python3
"""Tokenises files with Taper and with Hugging Face's tokenizers and prints, for each, tokens, differences and speed.

  bench/peers/tokenizer_compare.py build/taper vocab.txt FILES...     (Python with tokenizers; see requirements.txt)

Every line's ids and offsets are compared; bytes that are not UTF-8 are replaced on both sides. Speed is the best of
ROUNDS over all files in one thread each, ids only, in processor time, so that other work on the machine counts for
neither: Taper's of the whole process, reading and printing included; the library's inside encode_batch over lines in
memory. Exits with 1 if anything differs.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import BertWordPieceTokenizer  # noqa: E402  (reads the environment)

ROUNDS = 3
BATCH = 1000


def child_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def taper(arguments, data, *options):
    command = [arguments.taper, "tokenizer", "encode", arguments.vocabulary, "--replace", *options]
    if arguments.cased:
        command.append("--cased")
    begin = child_seconds()
    result = subprocess.run(command, input=data, stdout=subprocess.PIPE)
    if result.returncode != 0:
        sys.exit(f"tokenizer_compare: '{' '.join(command)}' ended with exit code {result.returncode}")
    return result.stdout, child_seconds() - begin


def batches(lines):
    return (lines[i : i + BATCH] for i in range(0, len(lines), BATCH))


def compare(arguments, peer, data, lines):
    """Tokens compared, and lines that differ, with the first few printed."""
    output = taper(arguments, data, "--offsets")[0].decode().split("\n")[:-1]
    if len(output) != len(lines):
        sys.exit(f"tokenizer_compare: {len(lines)} lines went in, {len(output)} came out")
    tokens = differences = at = 0
    for batch in batches(lines):
        for encoding in peer.encode_batch(batch):
            want = " ".join(f"{i}:{b}-{e}" for i, (b, e) in zip(encoding.ids, encoding.offsets))
            tokens += len(encoding.ids)
            if want != output[at]:
                differences += 1
                if differences <= 5:
                    print(f"line {at + 1}: {lines[at]!r}\n  taper        {output[at]}\n  tokenizers   {want}")
            at += 1
    return tokens, differences


def peer_seconds(peer, lines):
    seconds = 0.0
    for batch in batches(lines):
        begin = time.process_time()
        peer.encode_batch(batch)
        seconds += time.process_time() - begin
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("taper")
    parser.add_argument("vocabulary")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--cased", action="store_true")
    arguments = parser.parse_args()
    peer = BertWordPieceTokenizer(arguments.vocabulary, lowercase=not arguments.cased)

    all_tokens = all_differences = 0
    corpus = []
    for path in arguments.files:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            data += b"\n"
        lines = data.decode("utf-8", "replace").split("\n")[:-1]
        tokens, differences = compare(arguments, peer, data, lines)
        print(f"{path.name:24} {tokens:12,} tokens  {differences} lines differ")
        all_tokens += tokens
        all_differences += differences
        corpus.append((data, lines))
    data = b"".join(part for part, _ in corpus)
    lines = [line for _, part in corpus for line in part]
    own, other = [], []
    for _ in range(ROUNDS):
        own.append(taper(arguments, data)[1])
        other.append(peer_seconds(peer, lines))
    speed, peer_speed = all_tokens / min(own), all_tokens / min(other)
    print(f"{'all':24} {all_tokens:12,} tokens  {all_differences} lines differ")
    print(f"tokens/s on one core: taper {speed:,.0f}, tokenizers {peer_speed:,.0f}, ratio {speed / peer_speed:.2f}")
    sys.exit(1 if all_differences else 0)


if __name__ == "__main__":
    main()
