#pragma once
// A finished or interrupted run, to be used rather than trained.

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "recipes/data.h"
#include "recipes/models.h"
#include "runtime/checkpoint.h"

namespace taper {

/// What computes with the networks of a run: `device`, or where that is "" the run's own. tf32 changes how
/// products are made and nothing that is stored, so what was trained in it is used in f32 on the CPU, with a
/// sentence on standard error.
Engine engine_of(Configuration configuration, const std::string& device, Communicator& ranks = only_rank());

/// A checkpoint of the run in a folder: the last one, or the best of the network `best`. UserError: there is
/// none. What is wrong with later ones is said on standard error.
Checkpoint load_run_checkpoint(const std::filesystem::path& directory, const Configuration& configuration,
                               const std::string& best = "");
/// What its networks know of the data they were trained on. UserError: it is of another version.
DataFacts facts_of(const Checkpoint& checkpoint);

/// A run's networks as a checkpoint holds them, and what it knows of its data, which need not be there.
struct OpenRun {
  /// On `device`, or where that is "" on the run's own. `best`: the network whose best evaluation is wanted,
  /// or "" for the last state of all. UserError as read_run_configuration, load_run_checkpoint and facts_of.
  /// Of several ranks, the first reads the checkpoint for all.
  OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best = "",
          Communicator& ranks = only_rank());

  /// The run's data. UserError as open_data, or they are not those that the networks were made for.
  std::unique_ptr<Data> data() const;

  std::string name;
  Configuration configuration;
  DataFacts facts;
  Engine engine;
  Models models;

 private:
  OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best,
          Communicator& ranks, const Configuration& own);
  OpenRun(const std::filesystem::path& directory, const std::string& device, const std::string& best,
          Communicator& ranks, Configuration own, const Checkpoint& checkpoint);
};

/// The networks that have begun to learn a task in the stage `task`, with the folders of their runs.
/// UserError names the tasks that the run has where this is none of them, or it has not come to it.
std::vector<std::pair<std::string, std::filesystem::path>> task_runs(const std::filesystem::path& directory,
                                                                     const std::string& task);

}  // namespace taper
