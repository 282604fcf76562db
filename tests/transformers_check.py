#!/usr/bin/env python3
"""transformers loads what `taper export` wrote of a BERT, with no key missing or unexpected, and computes what Taper does.

    transformers_check.py TAPER RUN [TASK]

TAPER is the binary, RUN a run of masked language modelling; with TASK, of which it compares the probabilities of labels
rather than those of masked words. Needs torch and transformers 4.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

TEXTS = ["the [MASK] is a [MASK] of the people.", "In the beginning [MASK] created the heaven and the earth.", "a good film"]
# Of a probability's logarithm: both compute in float32, sums in different orders, and errors of 1e-6 of logits about 10.
TOLERANCE = 1e-4


def taper(*arguments, text=None):
    return subprocess.run(arguments, input=text, capture_output=True, text=True, check=True).stdout


def main(binary, run, task=None):
    options = ["--task", task] if task else []
    texts = TEXTS if task else TEXTS[:2]
    with tempfile.TemporaryDirectory() as folder:
        out = str(pathlib.Path(folder) / "bert")
        subprocess.run([binary, "export", run, out, *options], check=True)
        kind = transformers.AutoModelForSequenceClassification if task else transformers.AutoModelForMaskedLM
        model, report = kind.from_pretrained(out, output_loading_info=True)
        assert not any(report[key] for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]), report
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    command = ["predict", run, *options, "--json"] if task else ["fill-mask", run, "--json"]
    rows = [json.loads(row) for row in taper(binary, *command, text="\n".join(texts) + "\n").splitlines()]
    worst = 0
    for number, text in enumerate(texts, 1):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logs = model.eval()(**inputs).logits[0].double().log_softmax(-1)
        mine = [row for row in rows if row["line"] == number]
        if task:
            assert len(mine) == 1
            pairs = [(logs[model.config.label2id[label]], p) for label, p in mine[0]["probabilities"].items()]
        else:
            masks = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
            assert len(mine) == len(masks) > 0
            pairs = [(logs[place, word["id"]], word["probability"])
                     for place, row in zip(masks, mine) for word in row["words"]]
        worst = max([worst] + [abs(float(theirs) - math.log(ours)) for theirs, ours in pairs])
    print(f"{len(rows)} rows, the largest difference of a probability's logarithm is {worst:.1e}")
    assert worst <= TOLERANCE, "Taper and transformers disagree"


if __name__ == "__main__":
    main(*sys.argv[1:])
