#include "layers/bert_weights.h"

#include <algorithm>
#include <set>
#include <utility>

#include "layers/weights.h"

namespace taper {

namespace {

void replace_end(std::string& name, std::string_view end, std::string_view by) {
  if (name.ends_with(end)) name.replace(name.size() - end.size(), end.size(), by);
}

/// A name as transformers has it today.
std::string current_name(std::string name) {
  for (const char* part : {"embeddings.", "encoder.", "pooler."})
    if (name.starts_with(part)) name.insert(0, "bert.");
  replace_end(name, "LayerNorm.gamma", "LayerNorm.weight");
  replace_end(name, "LayerNorm.beta", "LayerNorm.bias");
  return name;
}

bool of_encoder(const std::string& name) {
  return name.starts_with("bert.embeddings.") || name.starts_with("bert.encoder.");
}

bool same(const TensorBytes& a, const TensorBytes& b) {
  return a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

}  // namespace

BertImport read_bert_weights(const SafetensorsFile& file, const std::string& shown, const BertSpec& spec,
                             Stream& stream, Network& network) {
  const std::string words = "bert.embeddings.word_embeddings.weight", output = "cls.predictions.bias",
                    decoder = "cls.predictions.decoder.weight", decoder_bias = "cls.predictions.decoder.bias";
  std::vector<TensorBytes> tensors;
  std::set<std::string> names;
  for (TensorBytes tensor : file.tensors()) {
    std::string original = std::exchange(tensor.name, current_name(tensor.name));
    if (tensor.name == "bert.embeddings.position_ids") continue;
    if (!names.insert(tensor.name).second)
      throw UserError("{} has the tensor {} under two names, {} being one; remove one", shown, tensor.name,
                      original);
    tensors.push_back(std::move(tensor));
  }
  const auto find = [&](const std::string& name) {
    return std::ranges::find(tensors, name, &TensorBytes::name);
  };
  if (const auto table = find(words);
      table != tensors.end() && !table->shape.empty() && table->shape[0] != spec.vocabulary)
    throw UserError(
        "{} has a vocabulary of {} tokens, and the network one of {}; use the vocab.txt that belongs to it",
        shown, table->shape[0], spec.vocabulary);
  // What transformers ties it may write twice, or in one of the two places.
  for (const auto& [tied, place] : {std::pair(decoder, words), std::pair(decoder_bias, output)}) {
    const auto copy = find(tied);
    if (copy == tensors.end()) continue;
    const auto original = find(place);
    if (original == tensors.end()) {
      copy->name = place;
      continue;
    }
    if (!same(*copy, *original))
      throw UserError("{} has a {} that is not {}; in this network they are one", shown, tied, place);
    tensors.erase(copy);
  }
  BertImport result;
  std::erase_if(tensors, [&](const TensorBytes& tensor) {
    if (of_encoder(tensor.name) || network.store().find(tensor.name) != nullptr) return false;
    result.ignored.push_back(tensor.name);
    return true;
  });
  HostTensors own;
  copy_weights(stream, network.store(), "", own);
  for (const TensorBytes& tensor : own.tensors) {
    if (of_encoder(tensor.name) || find(tensor.name) != tensors.end()) continue;
    result.kept.push_back(tensor.name);
    tensors.push_back(tensor);
  }
  set_weights(tensors, shown, "", stream, network.store());
  return result;
}

}  // namespace taper
