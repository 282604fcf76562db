#!/usr/bin/env python3
"""Makes tests/golden/bert/*.safetensors: what transformers computes with the networks of tests/bert_parity_test.cpp.

Needs what make_resnet_golden.py needs, and transformers 4; the test needs none of them. Run from anywhere, with the
names of networks to make these alone:
    python3 tests/golden/make_bert_golden.py [NETWORK...]

Weights, words and labels are not stored: both sides draw them by Philox from a tensor's name and an element's
index. Of each network, without dropout, from a run in float64: the logits of the masked tokens (of each sequence; of
each token), the loss (summed over them), and of each tensor's gradient the norm, four projections on random signs
and eight elements. From a run in float32: the error of the logits and of each gradient against float64, as
|a - b| / |b| over the tensor. A key's bias moves all scores of a row alike, so its gradient is 0 but for
rounding: its error counts against the norm of its weight's gradient. Where answers compete over tokens, so it is with
the biases behind the last layer.
"""
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from make_resnet_golden import VALUES, digest, symmetric, words

OUT = pathlib.Path(__file__).parent / "bert"
LENGTHS = [7, 12, 1, 5]
MASKED = [0, 3, 6, 7, 11, 18, 19, 22]  # packed rows
VOCABULARY, POSITIONS, TYPES, CLASSES = 61, 12, 2, 3
ANSWERS = ["qa_outputs.bias", "bert.encoder.layer.1.output.LayerNorm.bias"]


def build(case):
    """Two layers of 32, 4 heads, 48 between; `wide`: heads and what is between times 2, as no config can say."""
    labels = 2 if case == "question-answering" else CLASSES
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=POSITIONS, type_vocab_size=TYPES, num_labels=labels, pad_token_id=0,
        hidden_act="gelu_new" if case == "classification" else "gelu", attn_implementation="eager")
    if case == "classification":
        return transformers.BertForSequenceClassification(config)
    if case == "question-answering":
        return transformers.BertForQuestionAnswering(config)
    model = transformers.BertForMaskedLM(config)
    if case == "wide":
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            attention.num_attention_heads, attention.all_head_size = 8, 64
            attention.query, attention.key, attention.value = (nn.Linear(32, 64) for _ in range(3))
            layer.attention.output.dense = nn.Linear(64, 32)
            layer.intermediate.dense, layer.output.dense = nn.Linear(32, 96), nn.Linear(96, 32)
    return model


def draw_weights(model):
    """Rounded to float32: embeddings within 1, matrices within sqrt(3 / inputs), norms near 1, biases within 1/4."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            u = symmetric(name, tensor.numel())
            if tensor.dim() == 2 and "embeddings" not in name:
                u = u * np.sqrt(3.0 / tensor.shape[1])
            elif name.endswith("LayerNorm.weight"):
                u = 0.75 + 0.25 * u
            elif tensor.dim() == 1:
                u = 0.25 * u
            tensor.copy_(torch.from_numpy(u.astype(np.float32)).reshape(tensor.shape))


def drawn(name, count, below):
    return torch.from_numpy((words(name, count, VALUES) % np.uint64(below)).astype(np.int64))


def padded(packed):
    return nn.utils.rnn.pad_sequence(torch.split(packed, LENGTHS), batch_first=True)


def run(case, dtype):
    """Logits, loss and gradients by name, as float64."""
    model = build(case)
    draw_weights(model)
    model = model.to(dtype).eval()
    tokens = sum(LENGTHS)
    inputs = {"input_ids": padded(drawn("words", tokens, VOCABULARY)),
              "token_type_ids": padded(drawn("types", tokens, TYPES)),
              "attention_mask": padded(torch.ones(tokens, dtype=torch.int64))}
    if case == "question-answering":
        starts, ends = (torch.tensor([draw % length for draw, length in zip(drawn(name, len(LENGTHS), 1 << 20), LENGTHS)])
                        for name in ["starts", "ends"])
        output = model(**inputs)
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
        logits = [row[:length] for row, length in zip(logits, LENGTHS)]
        loss = sum(nn.functional.cross_entropy(row.T, torch.stack([start, end]), reduction="sum")
                   for row, start, end in zip(logits, starts, ends))
        return finish(model, torch.cat(logits), loss)
    logits = model(**inputs).logits
    if case == "classification":
        labels = drawn("labels", len(LENGTHS), CLASSES)
    else:
        logits = torch.cat([row[:length] for row, length in zip(logits, LENGTHS)])[MASKED]
        labels = drawn("labels", len(MASKED), VOCABULARY)
    return finish(model, logits, nn.functional.cross_entropy(logits, labels, reduction="sum"))


def finish(model, logits, loss):
    loss.backward()
    gradients = {name: p.grad.reshape(-1).double().numpy() for name, p in model.named_parameters()}
    return logits.detach().double().numpy(), loss.item(), gradients


def scale(gradients, name):
    zero = name.endswith("key.bias") or ("qa_outputs.bias" in gradients and name in ANSWERS)
    return np.linalg.norm(gradients[name.replace("bias", "weight") if zero else name])


def error(ours, truth, name):
    return np.linalg.norm(ours[name] - truth[name]) / scale(truth, name)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for case in sys.argv[1:] or ["masked-lm", "classification", "wide", "question-answering"]:
        logits, loss, gradients = run(case, torch.float64)
        rough, _, others = run(case, torch.float32)
        errors = [np.linalg.norm(rough - logits) / np.linalg.norm(logits)]
        errors += [error(others, gradients, name) for name in gradients]
        print(f"{case}: loss {loss:.6f}, float32 errors: logits {errors[0]:.1e}, worst {np.max(errors):.1e}")
        content = {"logits": logits, "loss": np.array([loss]), "f32.errors": np.array(errors),
                   "digests": np.array([digest(name, gradients[name]) for name in gradients])}
        metadata = {"made by": f"torch {torch.__version__}, transformers {transformers.__version__}",
                    "names": "\n".join(gradients)}
        save_file({k: torch.from_numpy(v) for k, v in content.items()}, OUT / f"{case}.safetensors", metadata)
