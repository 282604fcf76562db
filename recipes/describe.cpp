// taper describe: what a configuration would cost. Its data need not be there.

#include <algorithm>
#include <bit>
#include <chrono>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/imitation_plan.h"
#include "recipes/models.h"
#include "recipes/progress.h"
#include "recipes/run.h"
#include "recipes/step.h"
#include "recipes/table.h"
#include "runtime/error.h"

namespace taper {

namespace {

// What a dry run must know of the data.
struct DataFacts {
  int64_t channels, classes, image_size, train_images;
  std::string source;
};

DataFacts facts(const Configuration& c) {
  if (std::filesystem::exists(c.data.path)) {
    Images images(c);
    return {images.channels(), c.network.classes > 0 ? c.network.classes : images.classes(),
            images.image_size(), images.train().size(), "the data in " + c.data.path};
  }
  if (c.data.image_size == 0 || c.network.classes == 0 || c.data.train_limit == 0)
    throw UserError(
        "{} is not there, so data.image_size, data.train_limit and network.classes must say what its images "
        "are; set them, or put the data there",
        c.data.path);
  int64_t channels = c.data.channels > 0 ? c.data.channels : c.data.format == "idx" ? 1 : 3;
  return {channels, c.network.classes, c.data.image_size, c.data.train_limit,
          "the configuration; " + c.data.path + " is not there"};
}

struct StageCost {
  std::string stage, network;
  int64_t units = 1, steps = 0, batch = 0;
  double flops = 0;    // of the whole stage, student and teacher
  int64_t memory = 0;  // bytes
};

// Weights, gradients (about log2(shards) + workers buffers are alive), optimizer, packed copies, activations
// of the shards that run at once.
int64_t training_bytes(const Configuration& c, const StageOptions& stage, const Cost& cost,
                       const Engine& engine) {
  int64_t element = size_of(engine.type), workers = engine.team->workers();
  int64_t gradients =
      std::min<int64_t>(c.shards, workers + std::bit_width(static_cast<uint64_t>(c.shards)) - 1);
  int64_t moments = (stage.optimizer == "sgd" ? 1 : 2) + (stage.ema_decay > 0 ? 1 : 0);
  int64_t shard = (stage.batch_size + c.shards - 1) / c.shards;
  return cost.parameters * (4 * (1 + gradients + moments) + 2 * element) +
         cost.activation_elements * element * shard * workers;
}

int64_t inference_bytes(const Cost& cost, const Engine& engine) {
  return cost.parameters * (4 + size_of(engine.type));
}

StageCost stage_cost(const Configuration& c, const std::string& name, const DataFacts& data, Engine& engine,
                     Models& models) {
  const StageOptions& options = c.stage(name);
  StageCost result{.stage = name, .network = name == "baseline" || name == "wide" ? name : "thin"};
  int64_t epoch = data.train_images / options.batch_size;
  result.steps = options.steps > 0 ? options.steps : options.epochs * epoch;
  result.batch = options.batch_size;
  auto thin = models.costs("thin", data.image_size), wide = models.costs("wide", data.image_size);
  double images = static_cast<double>(result.steps) * static_cast<double>(options.batch_size);
  const Cost own = total(result.network == "wide" ? wide : thin);
  result.memory = training_bytes(c, options, own, engine);
  if (name == "imitate" || name == "match") result.memory += inference_bytes(total(wide), engine);
  auto network = make_resnet(thin_spec(c, data.channels, data.classes)),
       teacher = make_resnet(wide_spec(c, data.channels, data.classes));
  if (name == "imitate") {
    BridgedNetwork student = make_bridged(c, *network, *teacher);
    std::vector<ImitationTarget> targets = imitation_targets(student);
    std::vector<Targets> rounds = imitation_rounds(c, targets);
    result.units = static_cast<int64_t>(rounds.size());
    for (Targets round : rounds) {
      ImitationCost cost = imitation_cost(c, student, *teacher, round, data.image_size);
      result.flops += images * (cost.student + cost.teacher);
    }
  } else {
    result.flops = images * (3 * static_cast<double>(own.flops) +
                             (name == "match" ? static_cast<double>(total(wide).flops) : 0));
    auto place = std::find(c.stages.begin(), c.stages.end(), name) - c.stages.begin();
    if (result.network == "thin" && c.runs("imitate") && !merged(c, place))
      result.flops += images * 3 * bridge_flops(make_bridged(c, *network, *teacher), data.image_size);
  }
  return result;
}

// FLOP/s of training the thin network here: the second of two steps on a small batch of noise.
double measured_rate(const DataFacts& data, Engine& engine, Models& models) {
  Model& model = models.make("thin", false);
  int64_t each = std::clamp<int64_t>((int64_t{1} << 18) / (data.image_size * data.image_size), 2, 32);
  Batch batch;
  batch.count = each * engine.shards;
  batch.labels.assign(static_cast<size_t>(batch.count), 0);
  batch.images.resize(static_cast<size_t>(batch.count * data.image_size * data.image_size * data.channels));
  Draws draws(0, 0, 0);
  for (float& value : batch.images) value = draws.uniform();
  StepContext where{*engine.team, *model.network, engine.type, engine.shards, data.image_size, data.channels};
  Optimizer optimizer(*engine.team, model.network->store(), {});
  Objective objective = [&](Tape& tape, const ShardInput& input) {
    return cross_entropy(tape, model.network->forward(tape, input.images), input.labels, 0);
  };
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    auto begin = std::chrono::steady_clock::now();
    train_step(where, batch, objective, optimizer, 1e-3);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  double flops = 3 * static_cast<double>(total(models.costs("thin", data.image_size)).flops) *
                 static_cast<double>(batch.count);
  return flops / seconds;
}

}  // namespace

void describe_command(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                      bool json) {
  Configuration c = read_configuration(path, overrides);
  DataFacts data = facts(c);
  Engine engine(c);
  Models models(c, engine, data.channels, data.classes);
  double rate = measured_rate(data, engine, models);
  bool widens = c.runs("wide") || c.runs("imitate") || c.runs("match");

  nlohmann::ordered_json out;
  out["name"] = c.name;
  out["images"] = {{"train", data.train_images},
                   {"size", data.image_size},
                   {"channels", data.channels},
                   {"classes", data.classes}};
  Table networks({"network", "parameters", "GFLOPs/image", "blocks"});
  for (const char* name : {"thin", "wide"}) {
    if (!widens && name == std::string("wide")) continue;
    auto parts = models.costs(name, data.image_size);
    Cost cost = total(parts);
    out["networks"].push_back({{"network", name},
                               {"parameters", cost.parameters},
                               {"flops", cost.flops},
                               {"blocks", parts.size() - 2}});
    networks.add({name, grouped(cost.parameters),
                  fmt::format("{:.4f}", 1e-9 * static_cast<double>(cost.flops)),
                  std::to_string(parts.size() - 2)});
  }
  Table stages({"stage", "trains", "units", "steps each", "batch", "PFLOPs", "memory GB", "time here"});
  double all_seconds = 0;
  for (const std::string& name : c.stages) {
    if (name == "merge" || (name == "wide" && !c.wide.weights.empty())) continue;
    StageCost cost = stage_cost(c, name, data, engine, models);
    double seconds = cost.flops / rate;
    all_seconds += seconds;
    out["stages"].push_back({{"stage", name},
                             {"network", cost.network},
                             {"units", cost.units},
                             {"steps", cost.steps},
                             {"batch_size", cost.batch},
                             {"flops", cost.flops},
                             {"memory_bytes", cost.memory},
                             {"seconds", seconds}});
    stages.add({name, cost.network, std::to_string(cost.units), grouped(cost.steps),
                std::to_string(cost.batch), fmt::format("{:.3f}", 1e-15 * cost.flops),
                fmt::format("{:.2f}", 1e-9 * static_cast<double>(cost.memory)), duration_text(seconds)});
  }
  out["flops_per_second"] = rate;
  out["seconds"] = all_seconds;
  if (json) {
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("{}\n{} training images of {} x {} x {}, {} classes (from {})\n\n{}\n{}\n", c.name,
             grouped(data.train_images), data.image_size, data.image_size, data.channels, data.classes,
             data.source, networks.text(), stages.text());
  fmt::print(
      "In all {} at {:.1f} GFLOP/s, which one training step of the thin network reached here just now\n({}, "
      "{} workers). Evaluations are not counted.\n",
      duration_text(all_seconds), 1e-9 * rate, c.precision, engine.team->workers());
}

}  // namespace taper
