#include "recipes/open_run.h"

#include <algorithm>

#include "recipes/providers_file.h"
#include "recipes/run.h"
#include "runtime/error.h"

namespace taper {

Engine engine_of(Configuration configuration, const std::string& device) {
  // By whom products are made changes nothing that is stored.
  if (!device.empty() && device != "cuda") configuration.matmul = configuration.convolution = "own";
  if (configuration.precision == "tf32" && device == "cpu") {
    fmt::print(stderr, "the device cpu has no tf32, in which this run was trained; it computes in f32\n");
    configuration.precision = "f32";
  }
  return Engine(configuration, device.empty() ? configuration.device : device);
}

OpenRun::OpenRun(const std::filesystem::path& directory, const std::string& device)
    : configuration(read_run_configuration(directory)),
      data(open_data(configuration)),
      engine(engine_of(configuration, device)),
      models(configuration, engine, data->facts()),
      store(directory / "checkpoints", configuration.checkpoint.keep_last),
      name(directory.string()) {
  if (has_providers(directory)) engine.choices->set(read_providers(directory));
}

void OpenRun::load(const std::string& best) {
  std::string complaints;
  auto warn = [&](const std::string& sentence) { complaints += "; " + sentence; };
  std::string identity = run_identity(configuration);
  auto checkpoint = best.empty() ? store.load_latest(identity, warn) : store.load_best(best, identity, warn);
  if (!checkpoint) throw UserError("{} has no usable checkpoint{}", name, complaints);
  if (!complaints.empty()) fmt::print(stderr, "{}\n", complaints.substr(2));
  models.load(checkpoint->weights, checkpoint->name,
              merged(configuration, std::stoll(checkpoint->metadata.at("stage"))), best);
}

std::vector<std::pair<std::string, std::filesystem::path>> task_runs(const std::filesystem::path& directory,
                                                                     const std::string& task) {
  const Configuration c = read_run_configuration(directory);
  if (!c.runs("task") || std::ranges::find(c.task.names, task) == c.task.names.end())
    throw UserError("{} has no task \"{}\"; it has {}", directory.string(), task,
                    c.runs("task") ? fmt::format("{}", fmt::join(c.task.names, ", ")) : "no stage task");
  std::vector<std::pair<std::string, std::filesystem::path>> runs;
  for (const std::string& network : c.task.networks)
    if (std::filesystem::path folder = task_directory(directory, task, network);
        std::filesystem::exists(folder / "config.toml"))
      runs.emplace_back(network, std::move(folder));
  if (runs.empty())
    throw UserError("{} has not come to the task {} yet; resume it", directory.string(), task);
  return runs;
}

}  // namespace taper
