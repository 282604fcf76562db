#include "recipes/run_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "recipes/progress.h"
#include "recipes/tensorboard.h"
#include "runtime/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kEvents =
    "events.out.tfevents.0.taper";  // TensorBoard looks for "tfevents" in the name
constexpr int64_t kRecordsPerUnit = 500;

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// A log that grows at its end only.
class AppendFile {
 public:
  AppendFile(std::filesystem::path path, int64_t position) : path_(std::move(path)) {
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file_ < 0) throw UserError("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    try {
      start_at(position);
    } catch (...) {
      close(file_);
      throw;
    }
  }
  ~AppendFile() { close(file_); }
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(file_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot be written");
      size_ += written;
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  int64_t flushed_size() {
    if (fdatasync(file_) != 0 && errno != EINVAL && errno != EROFS) fail("cannot be flushed to the device");
    return size_;
  }

 private:
  void start_at(int64_t position) {
    if (flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      throw UserError("{}: another process is writing this run; wait for it, or choose another --output",
                      path_.string());
    }
    struct stat status {};
    if (fstat(file_, &status) != 0) fail("cannot be examined");
    if (status.st_size < position) {
      throw UserError(
          "{}: has {} bytes, but the checkpoint was saved when it had {}; it was cut or replaced since. "
          "Start "
          "the run anew in another --output",
          path_.string(), status.st_size, position);
    }
    if (ftruncate(file_, position) != 0) fail("cannot be cut");
    size_ = position;
  }

  [[noreturn]] void fail(const char* what) const {
    const int error = errno;
    throw Failure("{}: {}: {}{}", path_.string(), what, std::strerror(error),
                  error == ENOSPC || error == EDQUOT ? "; free some space and use --resume" : "");
  }

  std::filesystem::path path_;
  int file_ = -1;
  int64_t size_ = 0;
};

/// Where TensorBoard shows what belongs to a stage and one of its units.
std::string tag_prefix(const std::string& stage, int64_t unit) {
  return unit < 0 ? stage : fmt::format("{}/unit{:02}", stage, unit);
}

}  // namespace

struct RunLog::Files {
  Files(const std::filesystem::path& directory, const Measures& its_measures, LogPosition position)
      : measures(its_measures),
        metrics(directory / kMetrics, position.metrics),
        events(directory / kEvents, position.events) {
    if (position.events == 0) events.append(event_file_start(wall_time()));
  }

  // JSON has no NaN: such a value becomes null. Text that is not UTF-8 (a path) is repaired.
  void line(const Json& json) {
    metrics.append(json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  }

  void scalars(int64_t step, const std::vector<Scalar>& values) {
    events.append(scalar_event(wall_time(), step, values));
  }

  void begin(const StageEvent& event) {
    stage = event;
    progress.begin();
  }

  // Of the test split: the loss and the metrics, by their keys.
  std::vector<std::pair<std::string, double>> scores(double loss, const std::vector<double>& values) const {
    std::vector<std::pair<std::string, double>> result{{"loss", loss}};
    for (size_t i = 0; i < values.size(); ++i) result.emplace_back(measures.metrics.at(i).key, values[i]);
    return result;
  }

  const Measures& measures;
  AppendFile metrics;
  AppendFile events;
  Progress progress;
  StageEvent stage;
};

RunLog::RunLog(const std::filesystem::path& directory, const Measures& measures, LogPosition position)
    : files_(std::make_unique<Files>(directory, measures, position)) {}

RunLog::RunLog() = default;
RunLog::~RunLog() = default;

void RunLog::run(const RunEvent& event) {
  if (!files_) return;
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  files_->line({{"event", "run"},
                {"version", TAPER_VERSION},
                {"instruction_set", event.instruction_set},
                {"libraries", event.libraries},
                {"cpu", event.cpu},
                {"command", event.command},
                {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now))},
                {"configuration", event.configuration}});
}

void RunLog::stage_begin(const StageEvent& event) {
  if (!files_) return;
  files_->line({{"event", "stage"},
                {"stage", event.stage},
                {"state", "begin"},
                {"steps", event.steps},
                {"units", event.units}});
  files_->begin(event);
  message(event.units > 1 ? fmt::format("{}: {} units of {} steps", event.stage, event.units, event.steps)
                          : fmt::format("{}: {} steps", event.stage, event.steps));
}

void RunLog::stage_resume(const StageEvent& event) {
  if (files_) files_->begin(event);
}

void RunLog::stage_end(const StageEvent& event) {
  if (!files_) return;
  files_->line({{"event", "stage"},
                {"stage", event.stage},
                {"state", "end"},
                {"steps", event.steps},
                {"units", event.units},
                {"seconds", event.seconds},
                {"student_flops", event.student_flops},
                {"teacher_flops", event.teacher_flops}});
  message(fmt::format("{}: done in {}", event.stage, duration_text(event.seconds)));
}

bool RunLog::recorded(int64_t step, int64_t steps) {
  const int64_t every = std::max<int64_t>(1, steps / kRecordsPerUnit);
  return step == 1 || step == steps || step % every == 0;
}

void RunLog::train(const TrainEvent& event) {
  show(event);
  if (files_ && recorded(event.step, files_->stage.steps)) record(event);
}

void RunLog::show(const TrainEvent& event) {
  if (!files_) return;
  const StageEvent& stage = files_->stage;
  files_->progress.update({.stage = event.stage,
                           .unit = std::max<int64_t>(0, event.unit),
                           .units = stage.units,
                           .step = event.step,
                           .steps = stage.steps,
                           .epoch = event.epoch,
                           .loss = event.loss,
                           .lr = event.lr,
                           .item = files_->measures.item,
                           .items_per_s = event.items_per_s,
                           .gflops = event.gflops});
}

void RunLog::record(const TrainEvent& event) {
  if (!files_) return;
  Json json{{"event", "train"}, {"stage", event.stage}};
  if (event.unit >= 0) json["unit"] = event.unit;
  json.update({{"step", event.step},
               {"epoch", event.epoch},
               {"loss", event.loss},
               {"lr", event.lr},
               {files_->measures.rate(), event.items_per_s},
               {"gflops", event.gflops},
               {"grad_norm", event.grad_norm}});
  const std::string prefix = tag_prefix(event.stage, event.unit) + "/train/";
  std::vector<Scalar> scalars = {{prefix + "loss", event.loss},
                                 {prefix + "lr", event.lr},
                                 {prefix + files_->measures.rate(), event.items_per_s},
                                 {prefix + "gflops", event.gflops},
                                 {prefix + "grad_norm", event.grad_norm}};
  if (event.communication_s > 0) {
    const double hidden = std::max(0.0, 1 - event.waited_s / event.communication_s);
    json["communication_s"] = event.communication_s;
    json["communication_hidden"] = hidden;
    scalars.push_back({prefix + "communication_hidden", hidden});
  }
  files_->line(json);
  files_->scalars(event.step, scalars);
}

void RunLog::evaluate(const EvaluateEvent& event) {
  if (!files_) return;
  Json json{{"event", "evaluate"}, {"stage", event.stage}};
  if (event.unit >= 0) json["unit"] = event.unit;
  json.update({{"step", event.step}, {"network", event.network}});
  const std::string prefix = fmt::format("{}/{}/", tag_prefix(event.stage, event.unit), event.network);
  std::vector<Scalar> scalars;
  for (const auto& [key, value] : files_->scores(event.loss, event.metrics)) {
    json[key] = value;
    scalars.push_back({prefix + key, value});
  }
  json.update({{"samples", event.samples}, {"skipped", event.skipped}});
  files_->line(json);
  files_->scalars(event.step, scalars);
  std::string shown;
  for (size_t i = 0; i < event.metrics.size(); ++i) {
    const Metric& metric = files_->measures.metrics[i];
    shown += fmt::format("{} {}, ", metric.name, metric.text(event.metrics[i]));
  }
  message(
      fmt::format("{}{}: step {}: {} network: {}loss {:.4f} on {} {}s{}", event.stage,
                  event.unit < 0 ? "" : fmt::format(" unit {}", event.unit + 1), event.step, event.network,
                  shown, event.loss, event.samples, files_->measures.sample,
                  event.skipped == 0 ? "" : fmt::format("; {} more could not be decoded", event.skipped)));
}

void RunLog::unit(const UnitEvent& event) {
  if (!files_) return;
  files_->line({{"event", "unit"},
                {"stage", event.stage},
                {"unit", event.unit},
                {"name", event.name},
                {"error_before", event.error_before},
                {"error_after", event.error_after}});
  files_->scalars(event.unit, {{event.stage + "/error_before", event.error_before},
                               {event.stage + "/error_after", event.error_after}});
  message(fmt::format("{}: {}: imitation error {:.2f} % before, {:.2f} % after", event.stage, event.name,
                      event.error_before * 100, event.error_after * 100));
}

void RunLog::network(const NetworkEvent& event) {
  if (!files_) return;
  Json json{{"event", "network"},
            {"network", event.network},
            {"parameters", event.parameters},
            {"flops", event.flops}};
  std::vector<Scalar> scalars;
  for (const auto& [key, value] : files_->scores(event.loss, event.metrics)) {
    json[key] = value;
    scalars.push_back({"network/" + event.network + "/" + key, value});
  }
  json.update({{files_->measures.rate(), event.items_per_s},
               {"training_flops", event.training_flops},
               {"teacher_flops", event.teacher_flops}});
  files_->line(json);
  files_->scalars(0, scalars);
}

void RunLog::skipped(int64_t files) {
  if (!files_) return;
  files_->line({{"event", "data"}, {"skipped", files}});
  message(fmt::format("data: {} files could not be decoded and are left out", files));
}

void RunLog::message(std::string_view text) {
  if (files_) files_->progress.message(text);
}

LogPosition RunLog::position() { return {files_->metrics.flushed_size(), files_->events.flushed_size()}; }

}  // namespace taper
