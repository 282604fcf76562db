#pragma once
// A BERT as Hugging Face's transformers keeps it: a folder with config.json, model.safetensors and vocab.txt.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "layers/bert.h"
#include "layers/bert_weights.h"
#include "recipes/text/tokenizer.h"

namespace taper {

/// The network that a config.json describes, without a head (classification's classes are num_labels). What
/// is not there has transformers' default, which is BERT base's. UserError names the file, the key and what
/// is right: not JSON, another model_type than bert, a width out of range, an activation, position embedding
/// or decoder that Taper lacks.
BertSpec read_bert_config(const std::filesystem::path& path);
/// The same from memory; `shown` is the file's name in errors.
BertSpec parse_bert_config(std::string_view json, const std::string& shown);
/// The other way; `labels` are the classes' names, where they have any. UserError for a network widened
/// inside its layers: transformers' heads share the hidden width.
std::string write_bert_config(const BertSpec& spec, const std::vector<std::string>& labels = {});

/// Writes a BERT as PretrainedBert and transformers' from_pretrained read it. `output` is a folder, made if
/// need be; or a file *.safetensors, beside which the other files go. They are config.json, vocab.txt and
/// tokenizer_config.json. UserError as write_bert_config, before anything is written, and as
/// write_file_atomically.
void write_pretrained(const std::filesystem::path& output, const BertSpec& spec, const Vocabulary& vocabulary,
                      bool lowercase, Stream& stream, const ParameterStore& store,
                      const std::vector<std::string>& labels = {});

/// A folder's parts; its weights are not read yet.
struct PretrainedBert {
  /// UserError as read_bert_config and read_vocabulary; or a file is missing, or vocab.txt has more tokens
  /// than the network.
  explicit PretrainedBert(const std::filesystem::path& folder);

  BertSpec spec;  ///< the head is for the caller to set
  std::shared_ptr<const Vocabulary> vocabulary;
  bool lowercase = true;  ///< tokenizer_config.json's do_lower_case
  std::filesystem::path weights;
};

}  // namespace taper
