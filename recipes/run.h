#pragma once
// A run: the stages of a configuration, from wherever its last checkpoint left off to the end.

#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/schedule.h"
#include "recipes/evaluate.h"
#include "recipes/imitation.h"
#include "recipes/providers_file.h"
#include "recipes/ranks.h"
#include "recipes/run_log.h"
#include "recipes/shard_graphs.h"
#include "runtime/checkpoint.h"

namespace taper {

/// Set by SIGTERM and SIGINT: the run finishes its step, saves and returns.
extern std::atomic<bool> stop_requested;

/// Where a run is: `step` steps of a unit of a stage are done. A stage that is not imitation has one unit.
struct Position {
  int64_t stage = 0, unit = 0, step = 0;
};

/// What a checkpoint of this run must have been made with.
std::string run_identity(const Configuration& configuration);
/// Whether the thin network has been merged when `stage` stages are done.
bool merged(const Configuration& configuration, int64_t stage);

/// The folder of the run in which the stage `task` learns a task from a network's encoder.
std::filesystem::path task_directory(const std::filesystem::path& run, const std::string& task,
                                     const std::string& network);

/// The configuration of that run: this one's, with the task as its data and one stage, which starts from the
/// encoder in a file.
Configuration task_configuration(const Configuration& configuration, const std::string& task,
                                 const std::string& network, const std::filesystem::path& encoder);

/// How a stage is trained, in steps. UserError if its batch is larger than the data.
struct Plan {
  int64_t steps = 0;  ///< of each unit
  int64_t steps_per_epoch = 0;
  Schedule schedule;
  OptimizerOptions optimizer;
};
Plan make_plan(const Data& data, const StageOptions& stage, const std::string& name);

class Run {
 public:
  /// Opens the data and makes or checks the directory; with `resume`, loads its newest whole checkpoint.
  /// `command` is logged. Of several ranks, which all call the same functions, the first alone reads and
  /// writes the directory. Throws UserError for the user's files and settings, and where the ranks do not fit
  /// together. `choices` are of an earlier run's providers; where this one goes on, its own stand.
  Run(Configuration configuration, std::filesystem::path directory, bool resume, std::string command,
      Communicator& ranks = only_rank(), Choices choices = {});

  /// Trains to the end; or, once stop_requested on any rank, saves and returns false. A non-finite loss or
  /// gradient is a Failure that names step, block and tensor, thrown before any weight changed. So is a
  /// weight that the last step before a checkpoint left non-finite, before anything is saved, and what a
  /// stage or unit ends with: its statistics, its imitation error, its loss on the test split.
  bool train();

 private:
  /// What a stage trains at a time: one unit of imitation, or all, or the whole network.
  struct Job {
    const StageOptions& options;
    Plan plan;
    std::string network;  ///< that is trained
    Objective objective;
    double student_flops, teacher_flops;            ///< of one sample of one step
    Communicator& ranks;                            ///< that divide its batches
    Targets targets{};                              ///< of imitation
    std::unique_ptr<ShardGraphs> graphs = nullptr;  ///< where configured
  };
  /// How fast steps follow each other.
  struct Pace {
    std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();
    double seconds_per_step = 0;
  };
  /// What there is to log of a step.
  struct Step {
    TrainEvent event;
    int64_t skipped;
  };

  // run.cpp: what is saved, and the order of stages.
  void open_log(LogPosition position);
  void restore(const Checkpoint& checkpoint);
  void save() { save(optimizer_state()); }
  void save(const HostTensors& state);
  void save_best(const std::string& network, const Evaluation& evaluation);
  HostTensors optimizer_state();
  std::map<std::string, std::string> metadata();
  void finish();
  const std::string& stage() const { return configuration_.stages[static_cast<size_t>(position_.stage)]; }
  StepContext context(const Job& job);

  // run_stage.cpp: training.
  bool run_stage();
  void begin_stage();
  void read_encoder(const std::string& network);
  int64_t units() const;
  Job make_job(Communicator& ranks);
  bool run_unit();
  Step take_step(const Job& job, Batches& batches, Optimizer& optimizer, Pace& pace);
  static bool due(const Job& job, int64_t step, int64_t every);
  void say_stopped();
  void agree_on_providers(const Job& job);
  void begin_unit(const Job& job);
  void end_unit(const Job& job);
  void estimate(const Job& job, const char* when);
  void evaluate_and_log(const Job& job);

  // run_units.cpp: units of imitation side by side.
  bool run_round();
  int64_t steps_of(int64_t unit) const;
  std::vector<double> resume_unit(const Job& job, Optimizer& optimizer);
  std::string pack_unit(const Job& job, const std::vector<double>& events, const Optimizer* optimizer);
  void save_units(const std::vector<std::string>& packed);
  void replay(const Job& job, const std::vector<double>& events);

  // run_finite.cpp: a run ends before it saves what is not finite.
  void require_finite_weights(const Job& job);
  std::string origin(const Job& job, const Batch& batch);
  [[noreturn]] void refuse(const Job& job, const std::string& when, const std::string& what,
                           const std::string& remark) const;
  static std::string unit_name(const Job& job);
  uint64_t key() const;
  /// What this rank needs of each training batch.
  static Share share(const Job& job) { return {job.ranks.rank(), job.ranks.ranks()}; }

  // run_tasks.cpp: runs of their own, one for each task and network; false where stop_requested ended one.
  bool run_tasks();

  const Configuration configuration_;
  const std::filesystem::path directory_;
  std::unique_ptr<Data> data_;
  std::unique_ptr<RankGroups> groups_;  ///< of units side by side; what engine_ still sends, they outlive
  Engine engine_;
  Models models_;
  CheckpointStore checkpoints_;
  std::string identity_, command_;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<Imitation> imitation_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Checkpoint> restored_;  ///< until the optimizers it holds are there
  Position position_;
  int64_t sequence_ = 0;  ///< numbers the checkpoints: it only grows
  int64_t skipped_ = 0;
  std::vector<double> errors_before_;  ///< of the targets being trained
  std::map<std::string, double> best_;
};

}  // namespace taper
