"""BERT's masked-LM step in PyTorch, by transformers' network: for peer_step.py and compare.py."""

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

SIZES = {  # bench_step.cpp has the same
    "bert-mini": dict(vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024),
    "bert-base": dict(),
}


def masked_of(tokens):
    return tokens * 15 // 100


def title(arguments):
    batch = f"batch {arguments.batch} of {arguments.tokens} tokens, {masked_of(arguments.tokens)} masked"
    return f"{arguments.network} masked-LM training step, {batch}, AdamW"


def make_model(network):
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES[network]))


def make_inputs(arguments, weights_path, data_path, seed=0):
    """Writes transformers' initial weights, and `words` [batch, tokens], `places` and `labels` [batch, masked], int64."""
    torch.manual_seed(seed)
    model = make_model(arguments.network)
    batch, tokens = arguments.batch, arguments.tokens
    tied = "cls.predictions.decoder."
    weights = {name: value.contiguous().numpy() for name, value in model.state_dict().items() if not name.startswith(tied)}
    save_file(weights, weights_path)
    random = np.random.default_rng(seed)
    words = random.integers(0, model.config.vocab_size, (batch, tokens))
    places = np.stack([np.sort(random.permutation(tokens)[: masked_of(tokens)]) for _ in range(batch)])
    save_file({"words": words, "places": places, "labels": random.integers(0, model.config.vocab_size, places.shape)}, data_path)


def load(network, weights_path, data_path, device):
    model = make_model(network)
    weights = {name: torch.from_numpy(value) for name, value in load_file(weights_path).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("decoder" in name for name in missing), (missing, unexpected)
    model.tie_weights()
    model.to(device)
    data = {name: torch.from_numpy(value).to(device) for name, value in load_file(data_path).items()}
    # Logits of the masked tokens alone, as Taper makes them: all of them would be several times the work.
    count, tokens = data["words"].shape
    rows = (torch.arange(count, device=device)[:, None] * tokens + data["places"]).reshape(-1)

    def forward(words, rows):
        hidden = model.bert(words)[0]
        return model.cls(hidden.reshape(-1, hidden.shape[-1])[rows])

    return model, forward, data["words"], rows, data["labels"].reshape(-1)


def autocast(device, precision):
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def losses(network, weights_path, data_path, shards, precision, device):
    """The loss of every masked token [batch * masked], without dropout. `precision` is f32, tf32, bf16 or f64."""
    model, forward, words, rows, labels = load(network, weights_path, data_path, device)
    model.eval()
    if precision == "f64":
        model.double()
    with torch.no_grad(), autocast(device, precision):
        logits = forward(words, rows)
        logits = logits if precision == "f64" else logits.float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().cpu().numpy()


def make_step(network, weights_path, data_path, compiled, precision, device):
    """A function that trains one step, with dropout, as Taper's does."""
    model, forward, words, rows, labels = load(network, weights_path, data_path, device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    forward = torch.compile(forward) if compiled else forward

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = torch.nn.functional.cross_entropy(forward(words, rows), labels)
        loss.backward()
        optimizer.step()

    return step
