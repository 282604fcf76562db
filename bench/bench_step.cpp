// Whole training steps of a torchvision ResNet, for bench/peers: given weights and a batch, prints the first
// losses of every shard's sub-batch (before any update) and the seconds of each step.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "layers/resnet.h"
#include "layers/weights.h"
#include "recipes/data/loader.h"
#include "recipes/models.h"
#include "recipes/step.h"
#include "runtime/safetensors.h"

namespace {

using namespace taper;

ImageBatch read_batch(const std::string& path, int64_t count) {
  SafetensorsFile file = SafetensorsFile::read(path);
  const TensorBytes &images = file.tensor("images"), &labels = file.tensor("labels");
  if (images.dtype != DType::f32 || images.shape.size() != 4 || images.shape[0] != count ||
      labels.dtype != DType::i64)
    throw UserError("{}: expected images [{}, size, size, 3] of f32 and labels of i64", path, count);
  ImageBatch batch;
  batch.count = count;
  batch.image_size = images.shape[1];
  batch.channels = 3;
  batch.images.resize(images.bytes.size() / sizeof(float));
  std::memcpy(batch.images.data(), images.bytes.data(), images.bytes.size());
  std::vector<int64_t> wide(static_cast<size_t>(count));
  std::memcpy(wide.data(), labels.bytes.data(), labels.bytes.size());
  batch.labels.assign(wide.begin(), wide.end());
  return batch;
}

int run(int argc, char** argv) {
  CLI::App app("Times training steps of a ResNet: SGD with momentum 0.9, learning rate 1e-3.", "bench_step");
  std::string network, weights, images;
  Configuration configuration;
  int64_t batch_size = 16, steps = 3;
  bool json = false;
  app.add_option("--network", network, "resnet18, 34, 50, 101 or 152")->required();
  app.add_option("--precision", configuration.precision)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--batch", batch_size);
  app.add_option("--shards", configuration.shards);
  app.add_option("--weights", weights, "safetensors with torchvision's names")->required();
  app.add_option("--images", images, "safetensors with images and labels")->required();
  app.add_option("--steps", steps);
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  Engine engine(configuration);
  int64_t depth = std::stoll(network.substr(network.find_first_of("0123456789")));
  ResNetSpec spec;
  spec.block = depth < 50 ? ResNetSpec::BlockKind::basic : ResNetSpec::BlockKind::bottleneck;
  spec.depths = resnet_depths(spec.style, spec.block, depth);
  auto model = make_resnet(spec);
  engine.team->run_one([&](Stream& stream) {
    model->store().allocate(stream, engine.type);
    read_weights(weights, stream, model->store());
  });
  ImageBatch batch = read_batch(images, batch_size);
  Objective objective = [&](Tape& tape, const ShardInput& input) {
    return ShardLoss{cross_entropy(tape, model->forward(tape, input.input), input.labels, 0), input.count};
  };
  std::vector<double> losses(static_cast<size_t>(engine.shards)), seconds;
  engine.team->run(engine.shards, [&](Stream& stream, int64_t i) {
    Tape tape(*engine.backend, stream, engine.type);
    tape.training = true;
    ShardInput input =
        batch.upload(tape, i * batch.count / engine.shards, (i + 1) * batch.count / engine.shards);
    losses[static_cast<size_t>(i)] =
        objective(tape, input).sum.host<float>(stream)[0] / static_cast<double>(input.count);
  });
  StepContext where{*engine.team, *model, engine.type, engine.shards};
  Optimizer optimizer(*engine.team, model->store(), {});
  for (int64_t i = 0; i < steps; ++i) {
    auto begin = std::chrono::steady_clock::now();
    train_step(where, batch, objective, optimizer, 1e-3);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  if (json) {
    fmt::print(
        "{}\n",
        nlohmann::json{{"loss", losses}, {"seconds", seconds}, {"peak_bytes", engine.team->memory().peak}}
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
