#include "recipes/cost.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <filesystem>
#include <limits>

#include "recipes/data/loader.h"
#include "recipes/imitation_plan.h"
#include "recipes/run.h"
#include "recipes/step.h"
#include "recipes/text/text_batch.h"
#include "runtime/error.h"

namespace taper {

DataFacts facts_without_data(const Configuration& c, std::string& source) {
  const bool text = c.network.kind == "bert", there = std::filesystem::exists(c.data.path);
  if (there && (!text || std::filesystem::exists(c.data.vocabulary))) {
    source = "the data in " + c.data.path;
    DataFacts data = open_data(c)->facts();
    if (c.network.classes > 0) data.classes = c.network.classes;
    return data;
  }
  const std::string& missing = there ? c.data.vocabulary : c.data.path;
  source = "the configuration; " + missing + " is not there";
  if (c.data.labelled() || c.data.questions())
    throw UserError("{} is not there; put the {} there", missing,
                    c.data.labelled() ? "labelled text" : "questions");
  if (text) {
    if (c.network.vocab_size == 0 || c.data.train_limit == 0)
      throw UserError(
          "{} is not there, so data.train_limit and network.vocab_size must say how many sequences there are "
          "and of how many different tokens; set them, or put the text there",
          missing);
    return {.extent = {1, c.data.sequence_length},
            .vocabulary = c.network.vocab_size,
            .train = c.data.train_limit};
  }
  if (c.data.image_size == 0 || c.network.classes == 0 || c.data.train_limit == 0)
    throw UserError(
        "{} is not there, so data.image_size, data.train_limit and network.classes must say what its images "
        "are; set them, or put the data there",
        missing);
  int64_t channels = c.data.channels > 0 ? c.data.channels : c.data.format == "idx" ? 1 : 3;
  return {.extent = {c.data.image_size, c.data.image_size},
          .channels = channels,
          .classes = c.network.classes,
          .train = c.data.train_limit};
}

int64_t StageCost::memory(const Configuration& c, DType type, int64_t held, int64_t workers) const {
  const StageOptions& options = c.stage(stage);
  int64_t element = size_of(type);
  int64_t gradients = std::min<int64_t>(held, workers + std::bit_width(static_cast<uint64_t>(held)) - 1);
  int64_t moments = options.optimizer == "sgd" ? 1 : 2, averages = options.ema_decay > 0 ? 1 : 0;
  int64_t shard = (options.batch_size + c.shards - 1) / c.shards;
  const int64_t ranks = c.shard_optimizer ? c.shards / held : 1;
  return own.parameters * (4 * (1 + gradients + averages) + 2 * element) +
         own.parameters * 4 * moments / ranks + own.activation_elements * element * shard * workers +
         inference;
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
  result.own = total(result.network == "wide" ? wide : thin);
  if (name == "imitate" || name == "match")
    result.inference = total(wide).parameters * (4 + size_of(engine.type));
  auto network = make_network(c, data, false), teacher = make_network(c, data, true);
  const ParameterStore& store = (result.network == "wide" ? teacher : network)->store();
  result.sum_values = store.value_size() + store.statistic_size();
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
    result.flops = samples * (3 * static_cast<double>(result.own.flops) +
                              (name == "match" ? static_cast<double>(total(wide).flops) : 0));
    auto place = std::find(c.stages.begin(), c.stages.end(), name) - c.stages.begin();
    if (result.network == "thin" && c.runs("imitate") && !merged(c, place))
      result.flops += samples * 3 * bridge_flops(make_bridged(c, *network, *teacher), data.extent);
  }
  return result;
}

namespace {

// As many samples of noise.
std::unique_ptr<Batch> noise(const DataFacts& data, int64_t count) {
  Draws draws(0, 0, 0);
  if (data.vocabulary > 0) {
    auto batch = std::make_unique<TextBatch>();
    std::vector<int32_t> words(static_cast<size_t>(data.extent.width)), types(words.size(), 0), masked,
        labels;
    if (data.labelled || data.questions) {
      labels.resize(data.questions ? 2 : 1);
    } else {
      for (int32_t i = 3; i < data.extent.width; i += 7) {  // about 15 %
        masked.push_back(i);
        labels.push_back(0);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int32_t& word : words)
        word = static_cast<int32_t>(draws.below(static_cast<uint32_t>(data.vocabulary)));
      batch->add(i, words, types, masked, labels);
      if (data.labelled && data.classes == 1) batch->scores.push_back(0);
    }
    return batch;
  }
  auto batch = std::make_unique<ImageBatch>();
  batch->image_size = data.extent.height;
  batch->channels = data.channels;
  batch->count = count;
  batch->labels.assign(static_cast<size_t>(count), 0);
  batch->images.resize(static_cast<size_t>(count * data.extent.height * data.extent.width * data.channels));
  for (float& value : batch->images) value = draws.uniform();
  return batch;
}

// Of a shard: enough to keep a worker busy for a moment. A token is worth many pixels.
int64_t samples_of_noise(const DataFacts& data) {
  const int64_t most = int64_t{1} << (data.vocabulary > 0 ? 10 : 18);
  return std::clamp<int64_t>(most / (data.extent.height * data.extent.width), 2, 32);
}

}  // namespace

TimedStep::TimedStep(const DataFacts& data, Engine& engine, Models& models)
    : data_(data),
      engine_(engine),
      model_(models.make("thin", false)),
      each_(samples_of_noise(data)),
      shard_flops_(3 * static_cast<double>(total(models.costs("thin")).flops) * static_cast<double>(each_)) {}

double TimedStep::seconds(int64_t shards) const {
  const std::unique_ptr<Batch> batch = noise(data_, each_ * shards);
  StepContext where{*engine_.team, *model_.network, engine_.type, shards};
  Optimizer optimizer(*engine_.team, model_.network->store(), {});
  Objective objective = [&](Tape& tape, const ShardInput& input) {
    return label_loss(tape, model_.network->forward(tape, input.input), input, 0);
  };
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 3; ++i) {
    auto begin = std::chrono::steady_clock::now();
    train_step(where, *batch, objective, optimizer, 1e-3);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (i > 0) best = std::min(best, seconds);
  }
  return best;
}

}  // namespace taper
