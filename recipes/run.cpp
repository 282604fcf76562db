#include "recipes/run.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "recipes/report.h"
#include "recipes/system.h"
#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

std::atomic<bool> stop_requested = false;

namespace {

double number(const std::map<std::string, std::string>& metadata, const std::string& name) {
  auto found = metadata.find(name);
  if (found == metadata.end())
    throw UserError("the checkpoint has no {}: it was written by another version of Taper", name);
  return std::stod(found->second);
}

// Where a checkpoint keeps the error of the i-th target being trained, from before its first step.
std::string error_key(size_t i) { return fmt::format("error_before.{}", i); }

std::string exact(double value) { return fmt::format("{:.17g}", value); }

}  // namespace

Run::Run(Configuration configuration, std::filesystem::path directory, bool resume, std::string command,
         Communicator& ranks, Choices choices)
    : configuration_(std::move(configuration)),
      directory_(std::move(directory)),
      data_(open_data(configuration_)),
      engine_(configuration_, ranks),
      models_(configuration_, engine_, data_->facts()),
      checkpoints_(directory_ / "checkpoints", configuration_.checkpoint.keep_last),
      identity_(run_identity(configuration_)),
      command_(std::move(command)) {
  // Errors before anything is written, those of the tasks' data too: they come last, after days perhaps.
  for (const std::string& stage : configuration_.stages)
    if (stage != "merge" && stage != "task") make_plan(*data_, configuration_.stage(stage), stage);
  for (const std::string& task :
       configuration_.runs("task") ? configuration_.task.names : std::vector<std::string>{}) {
    const Configuration own =
        task_configuration(configuration_, task, configuration_.task.networks.front(), "");
    make_plan(*open_data(own), configuration_.task, "task");
  }
  require_possible_reduction(configuration_, engine_.ranks);
  require_equal_ranks(configuration_, *data_, engine_);
  if (ranks.first()) prepare_run_directory(directory_, configuration_, resume);
  engine_.choices->set(resume && has_providers(directory_) ? read_providers(directory_) : std::move(choices));
  if (resume && ranks.first())
    restored_ = checkpoints_.load_latest(
        identity_, [](const std::string& sentence) { fmt::print(stderr, "{}\n", sentence); });
  restored_ = share_checkpoint(ranks, std::move(restored_));
  if (restored_) restore(*restored_);
}

std::string run_identity(const Configuration& configuration) {
  Configuration same = configuration;
  // May change: see same_run().
  same.rank_timeout = Configuration().rank_timeout;
  same.shard_optimizer = Configuration().shard_optimizer;
  same.cuda_graphs = Configuration().cuda_graphs;
  return fmt::format("{:016x}", hash(write_configuration(same)));
}

bool merged(const Configuration& configuration, int64_t stage) {
  const auto& stages = configuration.stages;
  auto found = std::find(stages.begin(), stages.end(), "merge");
  return found != stages.end() && found - stages.begin() < stage;
}

StepContext Run::context(const Job& job) {
  return {*engine_.team,   *models_[job.network].network,
          engine_.type,    engine_.shards,
          job.ranks,       configuration_.reduction == "fast" ? Reduction::fast : Reduction::exact,
          job.graphs.get()};
}

void Run::open_log(LogPosition position) {
  log_ = engine_.ranks.first() ? std::make_unique<RunLog>(directory_, measures_of(configuration_), position)
                               : std::make_unique<RunLog>();
}

void Run::restore(const Checkpoint& checkpoint) {
  const auto& metadata = checkpoint.metadata;
  auto integer = [&](const char* name) { return static_cast<int64_t>(number(metadata, name)); };
  position_ = {integer("stage"), integer("unit"), integer("step")};
  sequence_ = checkpoint.sequence;
  skipped_ = integer("skipped");
  errors_before_.clear();
  for (size_t i = 0; metadata.contains(error_key(i)); ++i)
    errors_before_.push_back(number(metadata, error_key(i).c_str()));
  if (auto data = metadata.find("data"); data == metadata.end() || data->second != data_->identity())
    throw UserError(
        "{}: the text or the vocabulary is not what {} was trained on; bring that back, or start a new run",
        configuration_.data.path, checkpoint.name);
  LogPosition log{integer("log.metrics"), integer("log.events")};
  models_.load(checkpoint.weights, checkpoint.name, merged(configuration_, position_.stage));
  for (const std::string& name : models_.names()) {
    std::string prefix = "network." + name;
    models_[name].training_flops = number(metadata, prefix + ".training_flops");
    models_[name].teacher_flops = number(metadata, prefix + ".teacher_flops");
    if (metadata.contains(prefix + ".best")) best_[name] = number(metadata, prefix + ".best");
  }
  open_log(log);
  log_->message(fmt::format("resuming from {}", checkpoint.name));
}

std::map<std::string, std::string> Run::metadata() {
  LogPosition log = log_->position();
  std::map<std::string, std::string> result{
      {"stage", std::to_string(position_.stage)},
      {"unit", std::to_string(position_.unit)},
      {"step", std::to_string(position_.step)},
      {"skipped", std::to_string(skipped_)},
      {"data", data_->identity()},
      {"facts", data_->facts().write()},
      {"log.metrics", std::to_string(log.metrics)},
      {"log.events", std::to_string(log.events)},
      {"optimizer.steps", std::to_string(optimizer_ ? optimizer_->steps() : 0)}};
  for (size_t i = 0; i < errors_before_.size(); ++i) result[error_key(i)] = exact(errors_before_[i]);
  for (const std::string& name : models_.names()) {
    result["network." + name + ".training_flops"] = exact(models_[name].training_flops);
    result["network." + name + ".teacher_flops"] = exact(models_[name].teacher_flops);
    if (best_.contains(name)) result["network." + name + ".best"] = exact(best_[name]);
  }
  return result;
}

// On the first rank; the others hand in what they have of it.
HostTensors Run::optimizer_state() {
  HostTensors result;
  if (!optimizer_) return result;
  optimizer_->save(*engine_.team, [&](const std::string& name, const Tensor& tensor) {
    if (!engine_.ranks.first()) return;
    std::vector<std::byte>& bytes = result.contents.emplace_back(static_cast<size_t>(tensor.bytes()));
    engine_.team->run_one(
        [&](Stream& stream) { stream.download(bytes.data(), tensor.data(), tensor.bytes()); });
    result.tensors.push_back({"optimizer." + name, tensor.dtype(), tensor.shape(), bytes});
  });
  return result;
}

void Run::save(const HostTensors& state) {
  if (configuration_.reduction == "fast") require_equal_weights(models_, engine_);
  if (!engine_.ranks.first()) return;
  HostTensors weights = models_.save();
  write_providers(directory_, engine_.choices->all());
  checkpoints_.save(sequence_, {identity_, metadata(), std::move(weights.tensors), state.tensors});
}

void Run::save_best(const std::string& network, const Evaluation& evaluation) {
  double score = evaluation.metrics.front();
  if (!std::isfinite(evaluation.loss) || (best_.contains(network) && score <= best_[network])) return;
  best_[network] = score;
  if (!engine_.ranks.first()) return;
  HostTensors weights = models_.save(network);
  checkpoints_.save_best(network, score, sequence_,
                         {identity_,
                          {{"stage", std::to_string(position_.stage)}, {"facts", data_->facts().write()}},
                          std::move(weights.tensors),
                          {}});
}

bool Run::train() {
  bool fresh = !log_;
  if (fresh) {
    open_log({});
    RunEvent event{
        .configuration = write_configuration(configuration_), .cpu = cpu_name(), .command = command_};
    for (const auto& [name, version] : engine_.backend->versions()) {
      if (name == "instruction_set")
        event.instruction_set = version;
      else
        event.libraries.push_back(fmt::format("{} {}", name, version));
    }
    log_->run(event);
  }
  auto stages = static_cast<int64_t>(configuration_.stages.size());
  while (position_.stage < stages)
    if (!run_stage()) return false;
  if (position_.stage == stages) finish();
  if (engine_.ranks.first()) write_report(directory_ / "report.html", {directory_});
  return true;
}

// The table: every network that was made, evaluated as it will be used.
void Run::finish() {
  for (const std::string& name : models_.names()) {
    Model& model = models_[name];
    Evaluation evaluation = evaluate(engine_, *data_, model, measures_of(configuration_));
    Cost cost = total(models_.costs(name));
    bool student = name == "thin" && models_.has("wide");
    log_->network({.network = name,
                   .parameters = cost.parameters,
                   .flops = static_cast<double>(cost.flops),
                   .loss = evaluation.loss,
                   .metrics = evaluation.metrics,
                   .items_per_s = evaluation.items_per_s,
                   .training_flops = model.training_flops,
                   .teacher_flops = student ? model.teacher_flops + models_["wide"].training_flops : 0});
  }
  ++position_.stage;
  ++sequence_;
  save();
}

}  // namespace taper
