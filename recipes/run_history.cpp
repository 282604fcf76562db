#include "recipes/run_history.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

double number(const Json& json, const char* key) {
  const Json& value = json.at(key);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

std::string string(const Json& json, const char* key) { return json.at(key).get<std::string>(); }
int64_t integer(const Json& json, const char* key) { return json.at(key).get<int64_t>(); }

void add_stage(const Json& json, RunHistory& history) {
  StageEvent event{
      .stage = string(json, "stage"), .steps = integer(json, "steps"), .units = integer(json, "units")};
  if (string(json, "state") == "end") {
    event.seconds = number(json, "seconds");
    event.student_flops = number(json, "student_flops");
    event.teacher_flops = number(json, "teacher_flops");
  }
  auto known = std::ranges::find(history.stages, event.stage, &StageEvent::stage);
  if (known == history.stages.end())
    history.stages.push_back(event);
  else
    *known = event;
}

std::vector<double> metrics(const Json& json, const RunHistory& history) {
  std::vector<double> values;
  for (const Metric& metric : measures_of(history.configuration).metrics)
    values.push_back(number(json, metric.key.c_str()));
  return values;
}

double rate(const Json& json, const RunHistory& history) {
  return number(json, measures_of(history.configuration).rate().c_str());
}

void add_network(const Json& json, RunHistory& history) {
  NetworkEvent event{.network = string(json, "network"),
                     .parameters = integer(json, "parameters"),
                     .flops = number(json, "flops"),
                     .loss = number(json, "loss"),
                     .metrics = metrics(json, history),
                     .items_per_s = rate(json, history),
                     .training_flops = number(json, "training_flops"),
                     .teacher_flops = number(json, "teacher_flops")};
  auto known = std::ranges::find(history.networks, event.network, &NetworkEvent::network);
  if (known == history.networks.end())
    history.networks.push_back(event);
  else
    *known = event;
}

void add(const Json& json, RunHistory& history) {
  const std::string kind = string(json, "event");
  if (kind == "run") {
    history.run = {.configuration = string(json, "configuration"),
                   .instruction_set = string(json, "instruction_set"),
                   .libraries = json.at("libraries").get<std::vector<std::string>>(),
                   .cpu = string(json, "cpu"),
                   .command = string(json, "command")};
    history.version = string(json, "version");
    history.time = string(json, "time");
  } else if (kind == "stage") {
    add_stage(json, history);
  } else if (kind == "train") {
    history.train.push_back({.stage = string(json, "stage"),
                             .unit = json.value("unit", int64_t{-1}),
                             .step = integer(json, "step"),
                             .epoch = number(json, "epoch"),
                             .loss = number(json, "loss"),
                             .lr = number(json, "lr"),
                             .items_per_s = rate(json, history),
                             .gflops = number(json, "gflops"),
                             .grad_norm = number(json, "grad_norm")});
  } else if (kind == "evaluate") {
    history.evaluate.push_back({.stage = string(json, "stage"),
                                .unit = json.value("unit", int64_t{-1}),
                                .step = integer(json, "step"),
                                .network = string(json, "network"),
                                .loss = number(json, "loss"),
                                .metrics = metrics(json, history),
                                .samples = integer(json, "samples"),
                                .skipped = json.value("skipped", int64_t{0})});
  } else if (kind == "unit") {
    history.units.push_back({.stage = string(json, "stage"),
                             .unit = integer(json, "unit"),
                             .name = string(json, "name"),
                             .error_before = number(json, "error_before"),
                             .error_after = number(json, "error_after")});
  } else if (kind == "network") {
    add_network(json, history);
  } else if (kind == "data") {
    history.skipped = integer(json, "skipped");
  }
}

}  // namespace

RunHistory read_history(const std::filesystem::path& directory) {
  RunHistory history;
  history.directory = directory;
  history.configuration = read_run_configuration(directory);
  const std::filesystem::path file = directory / "metrics.jsonl";
  const std::vector<std::byte> bytes = read_file(file);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  int64_t line = 1;
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n'), ++line) {
    try {
      add(Json::parse(text.substr(0, end)), history);
    } catch (const Json::exception& error) {
      throw UserError("{}:{}: not a line that Taper wrote: {}", file.string(), line, error.what());
    }
    text.remove_prefix(end + 1);
  }
  return history;
}

}  // namespace taper
