#!/usr/bin/env python3
"""Writes metrics.json beside this file: what scikit-learn, SciPy and SQuAD's scripts make of small cases.

Needs numpy, scikit-learn, SciPy and transformers 4, without PyTorch (the file in the repository was made with
scikit-learn 1.9.1, SciPy 1.17.1, transformers 4.40.2). The test that reads the file needs none of them.

transformers.data.metrics.squad_metrics holds the functions of evaluate-v2.0.py; those of evaluate-v1.1.py that differ
are below. Windows and answers are those of transformers' port of run_squad.py, on random logits.
"""
import collections
import json
import os
import pathlib
import tempfile
import warnings

os.environ["USE_TORCH"] = "0"

import numpy as np
import scipy.stats
import sklearn.metrics as sk
from transformers import BertTokenizer
from transformers.data.metrics import squad_metrics as v2
from transformers.data.processors import squad as processor

rng = np.random.default_rng(5)


def classification():
    cases = [([1, 0, 1, 1], [1, 0, 0, 1]), ([0, 0, 0], [0, 1, 0]), ([1, 1], [1, 1]), ([0], [0]), ([0, 1, 0], [1, 0, 1]),
             ([0, 2, 2, 0], [0, 2, 1, 0]), ([5, 5], [2, 5])]
    for classes, count in [(2, 37), (2, 1000), (3, 50), (8, 301)]:
        labels = rng.integers(classes, size=count)
        cases.append((np.where(rng.random(count) < 0.6, labels, rng.integers(classes, size=count)).tolist(), labels.tolist()))
    for predicted, labels in cases:
        case = {"predicted": predicted, "labels": labels, "accuracy": sk.accuracy_score(labels, predicted),
                "f1_macro": sk.f1_score(labels, predicted, average="macro", zero_division=0),
                "matthews": sk.matthews_corrcoef(labels, predicted)}
        if max(predicted + labels) < 2:
            case["f1"] = sk.f1_score(labels, predicted, zero_division=0)
        yield case


def correlation(function, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants
        value = float(function(x, y)[0])
    return None if np.isnan(value) else value


def regression():
    cases = [([1, 2, 3], [2, 4, 6]), ([1, 2, 3], [3, 2, 1]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 2, 3], [1, 1, 2, 2]),
             ([0.1, 0.1, 0.3, -5], [5, 0, 0, 2.5])]
    x = rng.normal(size=200)
    cases += [(x.tolist(), (x + rng.normal(size=200)).tolist()), (np.round(x).tolist(), np.round(x * 2 + 1).tolist()),
              ((1e6 + x).tolist(), x.tolist())]
    for predicted, scores in cases:
        yield {"predicted": predicted, "scores": scores, "pearson": correlation(scipy.stats.pearsonr, predicted, scores),
               "spearman": correlation(scipy.stats.spearmanr, predicted, scores)}


def f1_of_version1(prediction, truth):
    ours, theirs = v2.normalize_answer(prediction).split(), v2.normalize_answer(truth).split()
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if same == 0:
        return 0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def squad():
    texts = ["the Eiffel Tower", "Eiffel tower!", "a  an the", "", "An apple, a pear", "apple pear", "the the cat sat", "cat cat sat",
             "U.S.", "us", "São Paulo\u00a0–\u2003the city", "São Paulo – city", "ÉCOLE the_", "ΟΔΥΣΣΕΥΣ", "οδυσσευς", "thé a\u0301 an½ ½",
             "3.5 %", "35", "«the» end", "the-end theend", "\x1cx\x1dy", "İstanbul", "wordA a a", "\u200bthe\u200b"]
    for text in texts:
        yield {"prediction": text, "normalized": v2.normalize_answer(text)}
    for prediction in texts:
        for answers in [[texts[int(i)] for i in rng.integers(len(texts), size=3)], [prediction, "x"], []]:
            golds = [answer for answer in answers if v2.normalize_answer(answer)] or [""]
            case = {"prediction": prediction, "answers": answers,
                    "version2": [max(v2.compute_exact(gold, prediction) for gold in golds),
                                 max(v2.compute_f1(gold, prediction) for gold in golds)]}
            if answers:
                case["version1"] = [
                    max(float(v2.normalize_answer(prediction) == v2.normalize_answer(answer)) for answer in answers),
                    max(f1_of_version1(prediction, answer) for answer in answers)]
            yield case


def windows():
    """Contexts of whole words, so that an answer's text is that of its tokens."""
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(6) for j in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "."] + words
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocab.txt"
        path.write_text("".join(token + "\n" for token in vocabulary))
        tokenizer = BertTokenizer(str(path))
    processor.squad_convert_example_to_features_init(tokenizer)
    cases = []
    for number, (length, asked, max_length, stride, version2) in enumerate(
            [(20, 3, 40, 8, False), (60, 4, 24, 6, False), (60, 9, 20, 5, True), (61, 2, 16, 11, True), (1, 1, 16, 4, True)]):
        chosen = [words[int(i)] for i in rng.integers(len(words), size=length)]
        context = " ".join(word + ("," if i % 7 == 3 else "") for i, word in enumerate(chosen))
        first = int(rng.integers(length))
        answer = " ".join(context.split(" ")[first:first + 3]).rstrip(",")
        start = len(" ".join(context.split(" ")[:first])) + (first > 0)
        impossible = version2 and number % 2 == 0
        question = " ".join(words[int(i)] for i in rng.integers(len(words), size=asked))
        example = processor.SquadExample(
            f"q{number}", question, context, None if impossible else answer, None if impossible else start, "", [], impossible)
        features = processor.squad_convert_example_to_features(example, max_length, stride, 6, "do_not_pad", True)
        for i, feature in enumerate(features):
            feature.unique_id, feature.example_index = i, 0
        logits = [np.round(rng.normal(size=(len(feature.input_ids), 2)) * 3, 3) for feature in features]
        for l in logits:
            l[0] += 4.5  # no answer is about as good as the best
        results = [processor.SquadResult(i, l[:, 0].tolist(), l[:, 1].tolist()) for i, l in enumerate(logits)]
        predictions = {}
        for threshold in [0.0, -8.0, -30.0, 8.0]:
            with tempfile.TemporaryDirectory() as folder:
                files = [f"{folder}/{name}" for name in ["best", "n-best", "null"]]
                found = v2.compute_predictions_logits([example], features, results, 10, 7, True, *files, False, version2,
                                                      threshold, tokenizer)
            predictions[str(threshold)] = found[example.qas_id]
        cases.append({
            "question": question, "context": context, "answer": None if impossible else answer,
            "answer_start": None if impossible else start, "max_length": max_length, "stride": stride, "version2": version2,
            "predictions": predictions,
            "windows": [{"ids": f.input_ids, "start": f.start_position, "end": f.end_position,
                         "widest": [bool(f.token_is_max_context[i]) for i in sorted(f.token_is_max_context)],
                         "logits": l.reshape(-1).tolist()} for f, l in zip(features, logits)]})
    return {"vocabulary": vocabulary, "max_question": 6, "best": 10, "max_answer": 7, "cases": cases}


if __name__ == "__main__":
    golden = {"classification": list(classification()), "regression": list(regression()), "squad": list(squad()), "windows": windows()}
    path = pathlib.Path(__file__).resolve().parent / "metrics.json"
    path.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")
