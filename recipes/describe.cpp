// taper describe: what a configuration would cost. Its data need not be there.

#include <algorithm>
#include <bit>
#include <chrono>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/data/loader.h"
#include "recipes/imitation_plan.h"
#include "recipes/models.h"
#include "recipes/progress.h"
#include "recipes/run.h"
#include "recipes/step.h"
#include "recipes/table.h"
#include "runtime/error.h"

namespace taper {

namespace {

// What a dry run must know of the data; `source` becomes where it is from.
DataFacts facts(const Configuration& c, std::string& source) {
  if (std::filesystem::exists(c.data.path)) {
    source = "the data in " + c.data.path;
    DataFacts data = open_data(c)->facts();
    if (c.network.classes > 0) data.classes = c.network.classes;
    return data;
  }
  if (c.data.image_size == 0 || c.network.classes == 0 || c.data.train_limit == 0)
    throw UserError(
        "{} is not there, so data.image_size, data.train_limit and network.classes must say what its images "
        "are; set them, or put the data there",
        c.data.path);
  int64_t channels = c.data.channels > 0 ? c.data.channels : c.data.format == "idx" ? 1 : 3;
  source = "the configuration; " + c.data.path + " is not there";
  return {.extent = {c.data.image_size, c.data.image_size},
          .channels = channels,
          .classes = c.network.classes,
          .train = c.data.train_limit};
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
  int64_t epoch = data.train / options.batch_size;
  result.steps = options.steps > 0 ? options.steps : options.epochs * epoch;
  result.batch = options.batch_size;
  auto thin = models.costs("thin"), wide = models.costs("wide");
  double samples = static_cast<double>(result.steps) * static_cast<double>(options.batch_size);
  const Cost own = total(result.network == "wide" ? wide : thin);
  result.memory = training_bytes(c, options, own, engine);
  if (name == "imitate" || name == "match") result.memory += inference_bytes(total(wide), engine);
  auto network = make_network(c, data, false), teacher = make_network(c, data, true);
  if (name == "imitate") {
    BridgedNetwork student = make_bridged(c, *network, *teacher);
    std::vector<ImitationTarget> targets = imitation_targets(student);
    std::vector<Targets> rounds = imitation_rounds(c, targets);
    result.units = static_cast<int64_t>(rounds.size());
    for (Targets round : rounds) {
      ImitationCost cost = imitation_cost(c, student, *teacher, round, data.extent);
      result.flops += samples * (cost.student + cost.teacher);
    }
  } else {
    result.flops = samples * (3 * static_cast<double>(own.flops) +
                              (name == "match" ? static_cast<double>(total(wide).flops) : 0));
    auto place = std::find(c.stages.begin(), c.stages.end(), name) - c.stages.begin();
    if (result.network == "thin" && c.runs("imitate") && !merged(c, place))
      result.flops += samples * 3 * bridge_flops(make_bridged(c, *network, *teacher), data.extent);
  }
  return result;
}

// FLOP/s of training the thin network here: the second of two steps on a small batch of noise.
double measured_rate(const DataFacts& data, Engine& engine, Models& models) {
  Model& model = models.make("thin", false);
  int64_t pixels = data.extent.height * data.extent.width;
  int64_t each = std::clamp<int64_t>((int64_t{1} << 18) / pixels, 2, 32);
  ImageBatch batch;
  batch.image_size = data.extent.height;
  batch.channels = data.channels;
  batch.count = each * engine.shards;
  batch.labels.assign(static_cast<size_t>(batch.count), 0);
  batch.images.resize(static_cast<size_t>(batch.count * pixels * data.channels));
  Draws draws(0, 0, 0);
  for (float& value : batch.images) value = draws.uniform();
  StepContext where{*engine.team, *model.network, engine.type, engine.shards};
  Optimizer optimizer(*engine.team, model.network->store(), {});
  Objective objective = [&](Tape& tape, const ShardInput& input) {
    return ShardLoss{cross_entropy(tape, model.network->forward(tape, input.input), input.labels, 0),
                     input.count};
  };
  double seconds = 0;
  for (int i = 0; i < 2; ++i) {
    auto begin = std::chrono::steady_clock::now();
    train_step(where, batch, objective, optimizer, 1e-3);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  double flops =
      3 * static_cast<double>(total(models.costs("thin")).flops) * static_cast<double>(batch.count);
  return flops / seconds;
}

}  // namespace

void describe_command(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                      bool json) {
  Configuration c = read_configuration(path, overrides);
  std::string source;
  DataFacts data = facts(c, source);
  Engine engine(c);
  Models models(c, engine, data);
  double rate = measured_rate(data, engine, models);
  bool widens = c.runs("wide") || c.runs("imitate") || c.runs("match");

  nlohmann::ordered_json out;
  out["name"] = c.name;
  out["images"] = {{"train", data.train},
                   {"size", data.extent.height},
                   {"channels", data.channels},
                   {"classes", data.classes}};
  Table networks({"network", "parameters", "GFLOPs/image", "blocks"});
  for (const char* name : {"thin", "wide"}) {
    if (!widens && name == std::string("wide")) continue;
    auto parts = models.costs(name);
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
             grouped(data.train), data.extent.height, data.extent.width, data.channels, data.classes, source,
             networks.text(), stages.text());
  fmt::print(
      "In all {} at {:.1f} GFLOP/s, which one training step of the thin network reached here just now\n({}, "
      "{} workers). Evaluations are not counted.\n",
      duration_text(all_seconds), 1e-9 * rate, c.precision, engine.team->workers());
}

}  // namespace taper
