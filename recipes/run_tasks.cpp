// The stage task: each task is learnt from each network's encoder in a run of its own, inside this run's
// folder.

#include "layers/weights.h"
#include "recipes/run.h"
#include "runtime/error.h"

namespace taper {

namespace {

namespace fs = std::filesystem;

// The configuration of such a run: this one's, with the task as its data and one stage.
Configuration task_configuration(const Configuration& c, const std::string& task, const std::string& network,
                                 const fs::path& encoder) {
  Configuration own = c;
  own.name = fmt::format("{}: {} from the {} network", c.name, task, network);
  own.stages = {network == "wide" ? "wide" : "baseline"};
  static_cast<StageOptions&>(own.wide) = own.baseline = c.task;
  own.wide.weights.clear();
  own.data.format = c.task.format;
  own.data.path = (fs::path(c.task.path) / task).string();
  own.data.sequence_length = c.task.sequence_length;
  own.data.train_limit = own.data.test_limit = 0;
  own.data.on_error = "stop";
  own.data.text = c.task.text;
  own.data.pair = c.task.pair;
  own.data.label = c.task.label;
  own.data.regression = c.task.regression;
  own.network.encoder = encoder.string();
  own.task = {};
  return own;
}

}  // namespace

fs::path task_directory(const fs::path& run, const std::string& task, const std::string& network) {
  return run / "tasks" / task / network;
}

bool Run::run_tasks() {
  const TaskOptions& tasks = configuration_.task;
  for (const std::string& network : tasks.networks) {
    const fs::path encoder = directory_ / "tasks" / (network + ".safetensors");
    if (engine_.ranks.first()) fs::create_directories(encoder.parent_path());
    if (engine_.ranks.first())
      engine_.team->run_one([&](Stream& stream) {
        write_weights(encoder, stream, models_[network].network->store(), {{"format", "pt"}});
      });
    for (const std::string& task : tasks.names) {
      const fs::path folder = task_directory(directory_, task, network);
      log_->message(fmt::format("task {} from the {} network: {}", task, network, folder.string()));
      // All ranks hear what the first finds, and wait until it has written the encoder.
      const bool begun = engine_.ranks.any(engine_.ranks.first() && fs::exists(folder / "config.toml"));
      Run run(task_configuration(configuration_, task, network, encoder), folder, begun, command_,
              engine_.ranks);
      if (!run.train()) return false;
    }
  }
  return true;
}

}  // namespace taper
