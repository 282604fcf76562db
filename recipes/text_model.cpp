#include "recipes/text_model.h"

#include <cstdio>

#include "layers/bert_weights.h"
#include "recipes/hugging_face.h"
#include "recipes/open_run.h"
#include "recipes/run.h"
#include "recipes/text/lines.h"
#include "runtime/error.h"

namespace taper {

namespace {

// Lines of a batch, and batches of a portion: each keeps a worker busy for a while.
constexpr int64_t kLines = 32, kBatches = 16;

}  // namespace

TextModel::TextModel(const std::filesystem::path& path, const std::string& network, BertSpec::Head head,
                     const std::string& device) {
  spec_.head = head;
  if (std::filesystem::exists(path / "config.json"))
    open_folder(path, device);
  else if (std::filesystem::exists(path / "config.toml"))
    open_run(path, network, device);
  else
    throw UserError("{} is neither a folder of transformers' (with config.json) nor a run (with config.toml)",
                    path.string());
}

std::unique_ptr<Network> TextModel::allocate() {
  std::unique_ptr<Network> network = make_bert(spec_);
  engine_->team->run_one([&](Stream& stream) { network->store().allocate(stream, engine_->type); });
  return network;
}

void TextModel::open_folder(const std::filesystem::path& folder, const std::string& device) {
  const PretrainedBert pretrained(folder);
  const BertSpec::Head head = spec_.head;
  spec_ = pretrained.spec;
  spec_.head = head;
  vocabulary_ = pretrained.vocabulary;
  tokenizer_ = std::make_unique<Tokenizer>(vocabulary_, pretrained.lowercase);
  Configuration defaults;
  defaults.shards = kBatches;
  engine_ = std::make_unique<Engine>(defaults, device.empty() ? "cpu" : device);
  network_ = allocate();
  const SafetensorsFile weights = SafetensorsFile::read(pretrained.weights);
  const std::string shown = pretrained.weights.string();
  engine_->team->run_one([&](Stream& stream) {
    const BertImport read = read_bert_weights(weights, shown, spec_, stream, *network_);
    if (!read.kept.empty())
      throw UserError("{} has no {}: it was not saved as a masked language model", shown,
                      fmt::join(read.kept, ", "));
  });
}

void TextModel::open_run(const std::filesystem::path& directory, const std::string& wanted,
                         const std::string& device) {
  const Configuration own = read_run_configuration(directory);
  if (own.network.kind != "bert" || own.data.format != "text")
    throw UserError("{} is not a run of masked language modelling (data.format = \"text\")",
                    directory.string());
  Configuration configuration = own;
  configuration.shards = kBatches;  // how many batches may be under way; it changes no bit of what is read
  const Checkpoint checkpoint = load_run_checkpoint(directory, own);
  const DataFacts facts = facts_of(checkpoint);
  vocabulary_ = vocabulary_of(own, facts);
  tokenizer_ = std::make_unique<Tokenizer>(vocabulary_, !own.data.cased);
  engine_ = std::make_unique<Engine>(engine_of(configuration, device));
  Models models(own, *engine_, facts);
  models.load(checkpoint.weights, checkpoint.name, merged(own, std::stoll(checkpoint.metadata.at("stage"))));
  const std::string name = !wanted.empty() ? wanted : models.has("thin") ? "thin" : "baseline";
  if (!models.has(name))
    throw UserError("{} has no {} network yet; it has {}", directory.string(), name,
                    fmt::join(models.names(), ", "));
  if (name == "thin" && !models["thin"].bridged->units().empty()) models.merge();
  const BertSpec::Head head = spec_.head;
  spec_ = bert_spec(own, facts, name == "wide");
  spec_.head = head;
  network_ = allocate();
  engine_->team->run_one([&](Stream& stream) {
    HostTensors host;
    copy_weights(stream, models[name].network->store(), "", host);
    std::erase_if(host.tensors,
                  [&](const TensorBytes& tensor) { return network_->store().find(tensor.name) == nullptr; });
    set_weights(host.tensors, directory.string(), "", stream, network_->store());
  });
}

std::vector<Token> TextModel::encode(std::string_view line, int64_t number, bool truncate) {
  std::vector<Token> tokens = {{vocabulary_->cls, 0, 0}};
  tokenizer_->encode(line, tokens);
  const auto most = static_cast<size_t>(spec_.positions) - 1;
  if (tokens.size() > most) {
    if (!truncate)
      throw UserError(
          "standard input: line {} has {} tokens, and the network has {} positions; shorten it, or let "
          "--truncate leave out the "
          "last ones",
          number, tokens.size() + 1, spec_.positions);
    tokens.resize(most, Token{});
  }
  tokens.push_back({vocabulary_->sep, 0, 0});
  return tokens;
}

std::vector<std::vector<float>> run_batches(Engine& engine, const Network& network,
                                            const std::vector<TextBatch>& batches) {
  std::vector<std::vector<float>> results(batches.size());
  engine.team->run(std::ssize(batches), [&](Stream& stream, int64_t i) {
    const TextBatch& batch = batches[static_cast<size_t>(i)];
    Tape tape(*engine.backend, stream, engine.type);
    const ShardInput input = batch.upload(tape, 0, batch.count);
    const Tensor value = network.forward(tape, input.input)->value;
    Tensor exact(stream, DType::f32, value.shape());
    tape.backend.cast(stream, value.size(), value.dtype(), value.data(), DType::f32, exact.data());
    results[static_cast<size_t>(i)] = exact.host<float>(stream);
  });
  return results;
}

void read_lines(Engine& engine, const Network& network,
                const std::function<void(TextBatch&, std::string_view, int64_t)>& encode,
                const std::function<void(const TextBatch&, const std::vector<float>&)>& write) {
  LineReader reader(stdin, "standard input", InvalidText::refuse);
  std::vector<TextBatch> batches;
  const auto finish = [&] {
    const std::vector<std::vector<float>> results = run_batches(engine, network, batches);
    for (size_t i = 0; i < batches.size(); ++i) write(batches[i], results[i]);
    batches.clear();
    if (std::fflush(stdout) != 0) throw Failure("standard output could not be written");
  };
  for (std::string_view line; reader.next(line);) {
    if (batches.empty() || batches.back().count == kLines) {
      if (std::ssize(batches) == kBatches) finish();
      batches.emplace_back();
    }
    encode(batches.back(), line, reader.lines());
  }
  if (!batches.empty()) finish();
}

}  // namespace taper
