#include "recipes/open_run.h"

#include <algorithm>
#include <optional>

#include "recipes/providers_file.h"
#include "recipes/ranks.h"
#include "recipes/run.h"
#include "runtime/error.h"

namespace taper {

Engine engine_of(Configuration configuration, const std::string& device, Communicator& ranks) {
  // By whom products are made changes nothing that is stored.
  if (!device.empty() && device != "cuda") configuration.matmul = configuration.convolution = "own";
  if (configuration.precision == "tf32" && device == "cpu") {
    if (ranks.first())
      fmt::print(stderr, "the device cpu has no tf32, in which this run was trained; it computes in f32\n");
    configuration.precision = "f32";
  }
  return Engine(configuration, device.empty() ? configuration.device : device, ranks);
}

Checkpoint load_run_checkpoint(const std::filesystem::path& directory, const Configuration& configuration,
                               const std::string& best) {
  const CheckpointStore store(directory / "checkpoints", configuration.checkpoint.keep_last);
  std::string complaints;
  const auto warn = [&](const std::string& sentence) { complaints += "; " + sentence; };
  const std::string identity = run_identity(configuration);
  auto checkpoint = best.empty() ? store.load_latest(identity, warn) : store.load_best(best, identity, warn);
  if (!checkpoint) throw UserError("{} has no usable checkpoint{}", directory.string(), complaints);
  if (!complaints.empty()) fmt::print(stderr, "{}\n", complaints.substr(2));
  return std::move(*checkpoint);
}

DataFacts facts_of(const Checkpoint& checkpoint) {
  const auto found = checkpoint.metadata.find("facts");
  if (found == checkpoint.metadata.end())
    throw UserError(
        "the checkpoint {} does not say what its data were: it was written by another version of Taper",
        checkpoint.name);
  return DataFacts::read(found->second);
}

namespace {

Checkpoint share_run_checkpoint(Communicator& ranks, const std::filesystem::path& directory,
                                const Configuration& configuration, const std::string& best) {
  std::optional<Checkpoint> own;
  if (ranks.first()) own = load_run_checkpoint(directory, configuration, best);
  return std::move(*share_checkpoint(ranks, std::move(own)));
}

}  // namespace

OpenRun::OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best,
                 Communicator& ranks)
    : OpenRun(directory, device, best, ranks, read_run_configuration(directory)) {}

OpenRun::OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best,
                 Communicator& ranks, const Configuration& own)
    : OpenRun(directory, device, best, ranks, own, share_run_checkpoint(ranks, directory, own, best)) {}

OpenRun::OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best,
                 Communicator& ranks, Configuration own, const Checkpoint& checkpoint)
    : name(directory.string()),
      configuration(std::move(own)),
      facts(facts_of(checkpoint)),
      engine(engine_of(configuration, device, ranks)),
      models(configuration, engine, facts) {
  if (has_providers(directory)) engine.choices->set(read_providers(directory));
  models.load(checkpoint.weights, checkpoint.name,
              merged(configuration, std::stoll(checkpoint.metadata.at("stage"))), best);
}

std::unique_ptr<Data> OpenRun::data() const {
  std::unique_ptr<Data> data = open_data(configuration);
  const DataFacts& now = data->facts();
  if (now.classes != facts.classes || now.vocabulary != facts.vocabulary || now.channels != facts.channels ||
      now.labels != facts.labels)
    throw UserError(
        "{}: the data have other classes or another vocabulary than those that {} was trained on; bring them "
        "back",
        configuration.data.path, name);
  return data;
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
