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
Engine engine_of(Configuration configuration, const std::string& device);

/// A run's networks as its last checkpoint (or the best of one network) holds them.
struct OpenRun {
  /// On `device`, or where that is "" on the run's own. UserError as read_run_configuration and open_data.
  OpenRun(const std::filesystem::path& directory, const std::string& device);

  /// `best`: the network whose best evaluation is wanted, or "" for the last state of all. UserError: there
  /// is no checkpoint.
  void load(const std::string& best);

  Configuration configuration;
  std::unique_ptr<Data> data;
  Engine engine;
  Models models;
  CheckpointStore store;
  std::string name;
};

/// The networks that have begun to learn a task in the stage `task`, with the folders of their runs.
/// UserError names the tasks that the run has where this is none of them, or it has not come to it.
std::vector<std::pair<std::string, std::filesystem::path>> task_runs(const std::filesystem::path& directory,
                                                                     const std::string& task);

}  // namespace taper
