// The stage task: each task is learnt from each network's encoder in a run of its own, inside this run's
// folder.

#include "layers/weights.h"
#include "recipes/run.h"
#include "runtime/error.h"

namespace taper {

namespace fs = std::filesystem;

Configuration task_configuration(const Configuration& c, const std::string& task, const std::string& network,
                                 const fs::path& encoder) {
  Configuration own = c;
  own.name = fmt::format("{}: {} from the {} network", c.name, task, network);
  own.stages = {network == "wide" ? "wide" : "baseline"};
  static_cast<StageOptions&>(own.wide) = own.baseline = c.task;
  own.wide.weights.clear();
  own.data.format = c.task.format;
  own.data.path = (fs::path(c.task.path) / task).string();
  own.data.train_limit = own.data.test_limit = 0;
  own.data.on_error = "stop";
  static_cast<ExampleOptions&>(own.data) = c.task;
  own.network.encoder = encoder.string();
  own.task = {};
  own.task.sequence_length = own.data.sequence_length;  // no task's, but never 0 in a run's folder
  return own;
}

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
