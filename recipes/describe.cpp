// taper describe: what a configuration would cost. Its data need not be there.

#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/cost.h"
#include "recipes/measures.h"
#include "recipes/progress.h"
#include "recipes/run.h"
#include "recipes/table.h"

namespace taper {

void describe_command(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                      bool json) {
  Configuration c = read_configuration(path, overrides);
  std::string source;
  DataFacts data = facts_without_data(c, source);
  Engine engine(c);
  Models models(c, engine, data);
  TimedStep step(data, engine, models);
  double rate = step.shard_flops() * static_cast<double>(c.shards) / step.seconds(c.shards);
  bool widens = c.runs("wide") || c.runs("imitate") || c.runs("match");

  nlohmann::ordered_json out;
  out["name"] = c.name;
  std::string content;
  if (data.vocabulary > 0) {
    out["text"] = {{"train", data.train}, {"tokens", data.extent.width}, {"vocabulary", data.vocabulary}};
    content = fmt::format("{} training sequences of {} tokens, {} different ones", grouped(data.train),
                          data.extent.width, grouped(data.vocabulary));
  } else {
    out["images"] = {{"train", data.train},
                     {"size", data.extent.height},
                     {"channels", data.channels},
                     {"classes", data.classes}};
    content = fmt::format("{} training images of {} x {} x {}, {} classes", grouped(data.train),
                          data.extent.height, data.extent.width, data.channels, data.classes);
  }
  Table networks({"network", "parameters", "GFLOPs/" + measures_of(c).sample, "blocks"});
  for (const char* name : {"thin", "wide"}) {
    if (!widens && name == std::string("wide")) continue;
    auto parts = models.costs(name);
    Cost cost = total(parts);
    out["networks"].push_back({{"network", name},
                               {"parameters", cost.parameters},
                               {"flops", cost.flops},
                               {"blocks", parts.size() - 2}});
    networks.add({name, grouped(cost.parameters),
                  fmt::format("{:.4f}", 1e-9 * static_cast<double>(cost.flops)),
                  std::to_string(parts.size() - 2)});
  }
  Table stages({"stage", "trains", "units", "steps each", "batch", "PFLOPs", "memory GB", "time here"});
  double all_seconds = 0;
  const auto add = [&](const std::string& stage, const std::string& task, const Configuration& own,
                       const StageCost& cost) {
    int64_t memory = cost.memory(own, engine.type, c.shards, engine.team->workers());
    double seconds = cost.flops / rate;
    all_seconds += seconds;
    out["stages"].push_back({{"stage", stage},
                             {"network", cost.network},
                             {"units", cost.units},
                             {"steps", cost.steps},
                             {"batch_size", cost.batch},
                             {"flops", cost.flops},
                             {"memory_bytes", memory},
                             {"seconds", seconds}});
    if (!task.empty()) out["stages"].back()["task"] = task;
    stages.add({task.empty() ? stage : stage + " " + task, cost.network, std::to_string(cost.units),
                grouped(cost.steps), std::to_string(cost.batch), fmt::format("{:.3f}", 1e-15 * cost.flops),
                fmt::format("{:.2f}", 1e-9 * static_cast<double>(memory)), duration_text(seconds)});
  };
  for (const std::string& name : c.stages)
    if (c.trains(name)) add(name, "", c, stage_cost(c, name, data, engine, models));
  for (const std::string& network : c.runs("task") ? c.task.networks : std::vector<std::string>{})
    for (const std::string& task : c.task.names) {
      const Configuration own = task_configuration(c, task, network, "");
      std::string from;
      const DataFacts facts = facts_without_data(own, from);
      Models learners(own, engine, facts);
      StageCost cost = stage_cost(own, own.stages.front(), facts, engine, learners);
      cost.network = network;
      add("task", task, own, cost);
    }
  out["flops_per_second"] = rate;
  out["seconds"] = all_seconds;
  if (json) {
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("{}\n{} (from {})\n\n{}\n{}\n", c.name, content, source, networks.text(), stages.text());
  fmt::print(
      "In all {} at {:.1f} GFLOP/s, which one training step of the thin network reached here just now\n({}, "
      "{} workers). Evaluations are not counted.\n",
      duration_text(all_seconds), 1e-9 * rate, c.precision, engine.team->workers());
}

}  // namespace taper
