// Whole training steps for bench/peers: given weights and a batch, prints the first losses of every shard's
// sub-batch (before any update, without dropout) and the seconds of each step, by the wall's clock and the
// processor's.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "layers/bert_weights.h"
#include "layers/resnet.h"
#include "layers/weights.h"
#include "recipes/data/loader.h"
#include "recipes/models.h"
#include "recipes/step.h"
#include "recipes/text/text_batch.h"
#include "runtime/safetensors.h"

namespace {

using namespace taper;

std::vector<int64_t> integers(const SafetensorsFile& file, const std::string& name, int64_t rows) {
  const TensorBytes& tensor = file.tensor(name);
  if (tensor.dtype != DType::i64 || tensor.shape.empty() || tensor.shape[0] != rows)
    throw UserError("{} is no i64 of {} rows", name, rows);
  std::vector<int64_t> values(tensor.bytes.size() / sizeof(int64_t));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

/// images [count, size, size, 3] of f32, labels [count] of i64.
std::unique_ptr<Batch> read_images(const SafetensorsFile& file, int64_t count) {
  const TensorBytes& images = file.tensor("images");
  if (images.dtype != DType::f32 || images.shape.size() != 4 || images.shape[0] != count)
    throw UserError("images are no [{}, size, size, 3] of f32", count);
  auto batch = std::make_unique<ImageBatch>();
  batch->count = count;
  batch->image_size = images.shape[1];
  batch->channels = 3;
  batch->images.resize(images.bytes.size() / sizeof(float));
  std::memcpy(batch->images.data(), images.bytes.data(), images.bytes.size());
  std::vector<int64_t> labels = integers(file, "labels", count);
  batch->labels.assign(labels.begin(), labels.end());
  return batch;
}

/// words [count, tokens], places and labels [count, masked], all of i64.
std::unique_ptr<Batch> read_text(const SafetensorsFile& file, int64_t count) {
  auto rows = [&](const std::string& name) {
    std::vector<int64_t> wide = integers(file, name, count);
    return std::vector<int32_t>(wide.begin(), wide.end());
  };
  const std::vector<int32_t> words = rows("words"), places = rows("places"), labels = rows("labels");
  auto part = [&](const std::vector<int32_t>& values, int64_t i) {
    const size_t each = values.size() / static_cast<size_t>(count);
    return std::span(values).subspan(static_cast<size_t>(i) * each, each);
  };
  const std::vector<int32_t> types(words.size() / static_cast<size_t>(count), 0);
  auto batch = std::make_unique<TextBatch>();
  for (int64_t i = 0; i < count; ++i) batch->add(i, part(words, i), types, part(places, i), part(labels, i));
  return batch;
}

/// A network with the weights of a file.
std::unique_ptr<Network> read_network(const std::string& name, const std::string& weights, Engine& engine) {
  const SafetensorsFile file = SafetensorsFile::read(weights);
  std::unique_ptr<Network> network;
  if (name.starts_with("bert")) {
    BertSpec spec;  // base
    if (name == "bert-mini")
      spec = {.vocabulary = 8000, .hidden = 256, .layers = 4, .heads = 4, .intermediate = 1024};
    network = make_bert(spec);
    engine.team->run_one([&](Stream& stream) {
      network->store().allocate(stream, engine.type);
      read_bert_weights(file, weights, spec, stream, *network);
    });
    return network;
  }
  int64_t depth = std::stoll(name.substr(name.find_first_of("0123456789")));
  ResNetSpec spec;
  spec.block = depth < 50 ? ResNetSpec::BlockKind::basic : ResNetSpec::BlockKind::bottleneck;
  spec.depths = resnet_depths(spec.style, spec.block, depth);
  network = make_resnet(spec);
  engine.team->run_one([&](Stream& stream) {
    network->store().allocate(stream, engine.type);
    set_weights(file, weights, "", stream, network->store());
  });
  return network;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times training steps with a learning rate of 1e-3: of a ResNet by SGD with momentum 0.9, of a BERT's "
      "masked LM "
      "by AdamW.",
      "bench_step");
  std::string name, weights, data;
  Configuration configuration;
  int64_t batch_size = 16, steps = 3;
  bool json = false;
  app.add_option("--network", name)
      ->required()
      ->check(CLI::IsMember(
          {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "bert-mini", "bert-base"}));
  app.add_option("--device", configuration.device)->check(CLI::IsMember({"cpu", "sim", "cuda"}));
  app.add_option("--precision", configuration.precision)->check(CLI::IsMember({"f32", "bf16", "tf32"}));
  app.add_option("--batch", batch_size);
  app.add_option("--shards", configuration.shards);
  app.add_option("--weights", weights, "safetensors with torchvision's or transformers' names")->required();
  app.add_option("--data", data, "safetensors with images and labels, or words, places and labels")
      ->required();
  app.add_option("--steps", steps);
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  const bool bert = name.starts_with("bert");
  Engine engine(configuration);
  const std::unique_ptr<Network> model = read_network(name, weights, engine);
  const SafetensorsFile file = SafetensorsFile::read(data);
  const std::unique_ptr<Batch> batch = bert ? read_text(file, batch_size) : read_images(file, batch_size);
  Objective objective = [&](Tape& tape, const ShardInput& input) {
    return ShardLoss{cross_entropy(tape, model->forward(tape, input.input), input.labels, 0),
                     input.labels.size()};
  };
  std::vector<double> losses(static_cast<size_t>(engine.shards)), seconds, cpu_seconds;
  engine.team->run(engine.shards, [&](Stream& stream, int64_t i) {
    Tape tape(*engine.backend, stream, engine.type);
    tape.training = !bert;  // a batch's own statistics, but no dropout
    ShardInput input =
        batch->upload(tape, i * batch->count / engine.shards, (i + 1) * batch->count / engine.shards);
    auto [sum, terms] = objective(tape, input);
    losses[static_cast<size_t>(i)] = sum.host<float>(stream)[0] / static_cast<double>(terms);
  });
  StepContext where{*engine.team, *model, engine.type, engine.shards};
  Optimizer optimizer(*engine.team, model->store(),
                      {.rule = bert ? OptimizerOptions::Rule::adamw : OptimizerOptions::Rule::sgd,
                       .weight_decay = bert ? 0.01 : 0});
  for (int64_t i = 0; i < steps; ++i) {
    auto begin = std::chrono::steady_clock::now();
    const std::clock_t used = std::clock();  // by all threads
    train_step(where, *batch, objective, optimizer, 1e-3);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    cpu_seconds.push_back(static_cast<double>(std::clock() - used) / CLOCKS_PER_SEC);
  }
  if (json) {
    fmt::print("{}\n", nlohmann::json{{"loss", losses},
                                      {"seconds", seconds},
                                      {"cpu_seconds", cpu_seconds},
                                      {"peak_bytes", engine.team->memory().peak}}
                           .dump());
  } else {
    fmt::print("loss of each shard {}, seconds of each step {:.3f}\n", fmt::join(losses, ", "),
               fmt::join(seconds, ", "));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "bench_step: {}\n", error.what());
    return error.exit_code();
  }
}
