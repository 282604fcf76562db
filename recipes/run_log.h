#pragma once
// A run is a directory: config.toml as resolved, metrics.jsonl, TensorBoard events, checkpoints/,
// report.html. metrics.jsonl holds one JSON object a line; `event` names its kind, the other keys are those
// of the structs below. It is the one source of the report.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/measures.h"

namespace taper {

/// event "run": once, first. `time` (UTC, ISO 8601) and `version` are added by the log.
struct RunEvent {
  std::string configuration = {};  ///< resolved, as TOML
  std::string instruction_set = {};
  std::vector<std::string> libraries = {};  ///< "oneDNN 2.6.3", ...
  std::string cpu = {};
  std::string command = {};  ///< that made the run
};

/// event "stage", with `state` "begin" or "end".
struct StageEvent {
  std::string stage = {};
  int64_t steps = 0;  ///< of each unit
  int64_t units = 1;
  double seconds = 0;        ///< end only
  double student_flops = 0;  ///< end only: spent on training the stage's own network
  double teacher_flops = 0;  ///< end only: spent on running the wide network beside it
};

/// event "train": a step. `unit` < 0: the stage has none.
struct TrainEvent {
  std::string stage = {};
  int64_t unit = -1;
  int64_t step = 0;  ///< of the unit, from 1
  double epoch = 0;
  double loss = 0;  ///< mean over the batch
  double lr = 0;
  double items_per_s = 0;  ///< logged by what is counted: images_per_s, tokens_per_s
  double gflops = 0;       ///< GFLOP/s, student and teacher
  double grad_norm = 0;
  /// Of several ranks: seconds of this step spent on communication, and for how many of them this rank did
  /// nothing else. Logged as communication_s and communication_hidden, the share not waited for.
  double communication_s = 0, waited_s = 0;
};

/// event "evaluate": on the test split. `network`: "baseline", "wide" or "thin".
struct EvaluateEvent {
  std::string stage = {};
  int64_t unit = -1;
  int64_t step = 0;
  std::string network = {};
  double loss = 0;
  std::vector<double> metrics = {};  ///< of Measures, logged by their keys: top1, top5
  int64_t samples = 0;
  int64_t skipped = 0;  ///< test images that could not be decoded and were left out
};

/// event "unit": a unit's imitation error before and after it was trained, the mean squared error over the
/// mean of the squared target.
struct UnitEvent {
  std::string stage = {};
  int64_t unit = 0;
  std::string name = {};  ///< "layer1.0", "layer1"
  double error_before = 0;
  double error_after = 0;
};

/// event "network": a finished network, one row of the report's table.
struct NetworkEvent {
  std::string network = {};
  int64_t parameters = 0;
  double flops = 0;  ///< of one forward pass over one sample, 2 per multiply-add
  double loss = 0;
  std::vector<double> metrics = {};
  double items_per_s = 0;     ///< evaluating
  double training_flops = 0;  ///< spent on training this network itself
  double teacher_flops = 0;   ///< spent on the wide network for its sake: training it and running it
};

/// Makes or checks the directory of a run.
/// New (`resume` false): it must not exist or be empty; its config.toml is written. Resuming: its config.toml
/// must say what `configuration` says; an empty directory counts as new, since a run may end before anything
/// is saved. UserError otherwise, saying what is there and what to do; also if `--resume` names nothing.
void prepare_run_directory(const std::filesystem::path& directory, const Configuration& configuration,
                           bool resume);

/// The configuration that a run directory was made with. UserError if it is none.
Configuration read_run_configuration(const std::filesystem::path& directory);

/// How much of the logs belongs to a checkpoint, in bytes.
struct LogPosition {
  int64_t metrics = 0;
  int64_t events = 0;
};

/// Writes the logs of one run and shows its progress. Every line is handed to the system as it is logged, in
/// one piece; not thread safe. A write that fails (a full disk) is a Failure naming the file.
class RunLog {
 public:
  /// Cuts the logs back to `position` (all zero: a new run) and appends from there, so that a resumed run
  /// neither repeats nor lacks a line. UserError if another process is writing them, or if they are shorter.
  RunLog(const std::filesystem::path& directory, const Measures& measures, LogPosition position = {});
  /// Writes and shows nothing: of several ranks, only the first keeps the log.
  RunLog();
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  void run(const RunEvent& event);
  void stage_begin(const StageEvent& event);
  /// After resuming inside a stage, in place of stage_begin: nothing is written, progress starts anew.
  void stage_resume(const StageEvent& event);
  void stage_end(const StageEvent& event);
  /// Of each unit about 500 steps are recorded: the first, the last, and every n-th, n = max(1, steps / 500),
  /// so a resumed run records the same ones.
  static bool recorded(int64_t step, int64_t steps);
  /// Call it after every step: shows it, and writes it if it is to be recorded.
  void train(const TrainEvent& event);
  /// The two apart, for steps that are written later than they were made, or were made elsewhere.
  void show(const TrainEvent& event);
  void record(const TrainEvent& event);
  void evaluate(const EvaluateEvent& event);
  void unit(const UnitEvent& event);
  void network(const NetworkEvent& event);
  /// event "data": how many files could not be decoded and were left out of training, in all: each once an
  /// epoch.
  void skipped(int64_t files);

  /// A line for the person watching (not logged).
  void message(std::string_view text);

  /// Where the logs end now, after they were flushed to the device: store it in a checkpoint.
  LogPosition position();

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

}  // namespace taper
