#include "recipes/hugging_face.h"

#include <nlohmann/json.hpp>

#include "layers/weights.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLargestFile = int64_t{16} << 20;

Json parse(std::string_view text, const std::string& shown) {
  try {
    Json json = Json::parse(text);
    if (!json.is_object()) throw UserError("{} is not a JSON object, as a config.json is", shown);
    return json;
  } catch (const Json::parse_error& error) {
    throw UserError("{} is not JSON at byte {}", shown, error.byte);
  } catch (const Json::out_of_range& error) {
    throw UserError("{} has a number that is too large: {}", shown, error.what());
  }
}

std::string read_text(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path, kLargestFile);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Reads keys; what is missing keeps its value.
struct Keys {
  const Json& json;
  const std::string& shown;

  void read(const char* key, int64_t& value) const {
    constexpr int64_t kMost = 1 << 24;
    if (!json.contains(key)) return;
    const Json& found = json.at(key);
    if (!found.is_number_integer() || found < 1 || found > kMost)
      throw UserError("{}: {} is {}; it is a whole number from 1 to {}", shown, key, found.dump(), kMost);
    value = found.get<int64_t>();
  }
  void read(const char* key, double& value, double most) const {
    if (!json.contains(key)) return;
    const Json& found = json.at(key);
    if (!found.is_number() || found < 0.0 || found > most)
      throw UserError("{}: {} is {}; it is a number from 0 to {:g}", shown, key, found.dump(), most);
    value = found.get<double>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    if (!json.contains(key) || json.at(key).is_null()) return otherwise;
    if (!json.at(key).is_string())
      throw UserError("{}: {} is {}; it is a text", shown, key, json.at(key).dump());
    return json.at(key).get<std::string>();
  }
  bool truth(const char* key, bool otherwise) const {
    if (!json.contains(key) || json.at(key).is_null()) return otherwise;
    if (!json.at(key).is_boolean())
      throw UserError("{}: {} is {}; it is true or false", shown, key, json.at(key).dump());
    return json.at(key).get<bool>();
  }
};

const char* architecture(BertSpec::Head head) {
  switch (head) {
    case BertSpec::Head::masked_lm:
      return "BertForMaskedLM";
    case BertSpec::Head::classification:
      return "BertForSequenceClassification";
    case BertSpec::Head::question_answering:
      return "BertForQuestionAnswering";
    case BertSpec::Head::encoder:
      break;
  }
  return "BertModel";
}

}  // namespace

BertSpec read_bert_config(const std::filesystem::path& path) {
  return parse_bert_config(read_text(path), path.string());
}

BertSpec parse_bert_config(std::string_view text, const std::string& shown) {
  const Json json = parse(text, shown);
  const Keys keys{json, shown};
  if (const std::string type = keys.text("model_type", "bert"); type != "bert")
    throw UserError("{}: model_type is \"{}\"; Taper reads \"bert\"", shown, type);
  if (const std::string kind = keys.text("position_embedding_type", "absolute"); kind != "absolute")
    throw UserError("{}: position_embedding_type is \"{}\"; Taper's BERT has \"absolute\"", shown, kind);
  for (const char* key : {"is_decoder", "add_cross_attention"})
    if (keys.truth(key, false)) throw UserError("{}: {} is true; Taper's BERT is an encoder", shown, key);
  BertSpec spec{.head = BertSpec::Head::encoder};
  keys.read("vocab_size", spec.vocabulary);
  keys.read("max_position_embeddings", spec.positions);
  keys.read("type_vocab_size", spec.types);
  keys.read("hidden_size", spec.hidden);
  keys.read("num_hidden_layers", spec.layers);
  keys.read("num_attention_heads", spec.heads);
  keys.read("intermediate_size", spec.intermediate);
  keys.read("num_labels", spec.classes);
  keys.read("layer_norm_eps", spec.eps, 1);
  keys.read("hidden_dropout_prob", spec.dropout, 0.999);
  keys.read("attention_probs_dropout_prob", spec.attention_dropout, 0.999);
  if (json.contains("id2label") && json.at("id2label").is_object() && !json.at("id2label").empty())
    spec.classes = std::ssize(json.at("id2label"));
  const std::string act = keys.text("hidden_act", "gelu");
  if (act == "gelu_new" || act == "gelu_pytorch_tanh")
    spec.activation = Activation::gelu_tanh;
  else if (act != "gelu")
    throw UserError("{}: hidden_act is \"{}\"; Taper's BERT has \"gelu\" and \"gelu_new\"", shown, act);
  return spec;
}

std::string write_bert_config(const BertSpec& spec, const std::vector<std::string>& labels) {
  if (spec.inner != 1)
    throw UserError(
        "a network widened inside its layers has {:g} times the heads that its hidden width has room for, "
        "and no config.json can "
        "say so; export the thin one",
        spec.inner);
  Json json = {{"architectures", {architecture(spec.head)}},
               {"attention_probs_dropout_prob", spec.attention_dropout},
               {"hidden_act", spec.activation == Activation::gelu_tanh ? "gelu_new" : "gelu"},
               {"hidden_dropout_prob", spec.dropout},
               {"hidden_size", spec.hidden},
               {"intermediate_size", spec.intermediate},
               {"layer_norm_eps", spec.eps},
               {"max_position_embeddings", spec.positions},
               {"model_type", "bert"},
               {"num_attention_heads", spec.heads},
               {"num_hidden_layers", spec.layers},
               {"pad_token_id", 0},
               {"position_embedding_type", "absolute"},
               {"type_vocab_size", spec.types},
               {"vocab_size", spec.vocabulary}};
  if (spec.head == BertSpec::Head::classification) {
    for (int64_t i = 0; i < spec.classes; ++i) {
      const std::string label =
          labels.empty() ? fmt::format("LABEL_{}", i) : labels.at(static_cast<size_t>(i));
      json["id2label"][std::to_string(i)] = label;
      json["label2id"][label] = i;
    }
    if (spec.classes == 1) json["problem_type"] = "regression";
  }
  return json.dump(2) + "\n";
}

void write_pretrained(const std::filesystem::path& output, const BertSpec& spec, const Vocabulary& vocabulary,
                      bool lowercase, Stream& stream, const ParameterStore& store,
                      const std::vector<std::string>& labels) {
  const std::string config = write_bert_config(spec, labels);
  const bool file = output.extension() == ".safetensors";
  const std::filesystem::path folder = !file ? output : output.has_parent_path() ? output.parent_path() : ".";
  std::error_code error;
  if (!file && !std::filesystem::create_directories(folder, error) && error)
    throw UserError("{}: the folder cannot be made: {}", folder.string(), error.message());
  write_weights(file ? output : folder / "model.safetensors", stream, store, {{"format", "pt"}});
  write_vocabulary(folder / "vocab.txt", vocabulary);
  const Json tokenizer = {{"do_lower_case", lowercase},
                          {"model_max_length", spec.positions},
                          {"tokenizer_class", "BertTokenizer"}};
  write_file_atomically(folder / "tokenizer_config.json", tokenizer.dump(2) + "\n");
  write_file_atomically(folder / "config.json", config);
}

PretrainedBert::PretrainedBert(const std::filesystem::path& folder) : weights(folder / "model.safetensors") {
  if (!std::filesystem::is_directory(folder))
    throw UserError("{} is not a folder; name one with config.json, model.safetensors and vocab.txt",
                    folder.string());
  if (!std::filesystem::exists(weights) && std::filesystem::exists(folder / "pytorch_model.bin"))
    throw UserError(
        "{} has its weights in pytorch_model.bin only; make model.safetensors of it: in Python, "
        "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER, safe_serialization=True)",
        folder.string());
  for (const char* part : {"config.json", "model.safetensors", "vocab.txt"})
    if (!std::filesystem::exists(folder / part))
      throw UserError(
          "{} has no {}; a folder of transformers' has config.json, model.safetensors and vocab.txt",
          folder.string(), part);
  spec = read_bert_config(folder / "config.json");
  vocabulary = std::make_shared<const Vocabulary>(read_vocabulary(folder / "vocab.txt"));
  if (vocabulary->size() > spec.vocabulary)
    throw UserError("{}: vocab.txt has {} tokens, and config.json says {}; they do not belong together",
                    folder.string(), vocabulary->size(), spec.vocabulary);
  if (const auto path = folder / "tokenizer_config.json"; std::filesystem::exists(path)) {
    const std::string shown = path.string();
    const Json json = parse(read_text(path), shown);
    lowercase = Keys{json, shown}.truth("do_lower_case", true);
  }
}

}  // namespace taper
