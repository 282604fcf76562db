// taper plan: a configuration on many ranks, before there are any.

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/cost.h"
#include "recipes/plan_model.h"
#include "recipes/progress.h"
#include "recipes/table.h"
#include "runtime/error.h"

namespace taper {

namespace {

bool is_power_of_two(int64_t value) { return value > 0 && std::has_single_bit(static_cast<uint64_t>(value)); }

void check(const PlanArguments& arguments) {
  for (int64_t ranks : arguments.ranks)
    if (!is_power_of_two(ranks))
      throw UserError("--ranks has {}; the shards of a batch can be spread over a power of two of ranks only",
                      ranks);
  if (!is_power_of_two(arguments.per_node))
    throw UserError("--per-node is {}, expected a power of two", arguments.per_node);
  if (arguments.links.size() > 2)
    throw UserError("--link has {} links; give one inside a node and one between nodes, or one for both",
                    arguments.links.size());
}

/// A step of the thin network timed with few and with twice as many shards tells what a round of shards takes
/// and what every step takes.
StepTimes measure(const TimedStep& step, int64_t workers) {
  const auto few = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(workers)));
  const double one = step.seconds(few), two = step.seconds(2 * few);
  const auto rounds_of = [&](int64_t shards) { return static_cast<double>(rounds(shards, workers)); };
  const double round = std::max(0.0, (two - one) / (rounds_of(2 * few) - rounds_of(few)));
  return {.round = round, .update = std::max(0.0, one - rounds_of(few) * round)};
}

/// The same for another network: a round takes time as its FLOPs do, an update as its parameters.
StepTimes scaled(const StepTimes& thin, double flops, double parameters) {
  return {.round = thin.round * flops, .update = thin.update * parameters};
}

std::string step_text(double seconds) {
  return seconds < 1 ? fmt::format("{:.3g} ms", 1e3 * seconds) : fmt::format("{:.1f} s", seconds);
}

}  // namespace

void plan_command(const PlanArguments& arguments) {
  check(arguments);
  const Link inside = parse_link(arguments.links.front()), between = parse_link(arguments.links.back());
  const Configuration c = read_configuration(arguments.configuration, arguments.overrides);
  std::string source;
  const DataFacts data = facts_without_data(c, source);
  Engine engine(c);
  Models models(c, engine, data);
  const TimedStep step(data, engine, models);
  const int64_t workers = engine.team->workers();
  const StepTimes measured = measure(step, workers);
  const double thin_parameters = static_cast<double>(total(models.costs("thin")).parameters);

  nlohmann::ordered_json out;
  out["name"] = c.name;
  out["shards"] = c.shards;
  out["workers"] = workers;
  out["per_node"] = arguments.per_node;
  for (const Link& link : {inside, between})
    out["links"].push_back(
        {{"name", link.name}, {"latency_s", link.latency}, {"bytes_per_s", link.bandwidth}});
  out["measured"] = {
      {"round_s", measured.round}, {"update_s", measured.update}, {"shard_flops", step.shard_flops()}};
  Table table({"stage", "ranks", "nodes", "step", "communication", "efficiency", "GB a rank", "an epoch",
               "rank hours an epoch", "all of it"});
  std::vector<int64_t> too_many;
  for (int64_t ranks : arguments.ranks) {
    if (c.shards % ranks != 0) {
      too_many.push_back(ranks);
      continue;
    }
    const Cluster cluster{ranks, std::min(ranks, arguments.per_node), inside, between};
    double all_seconds = 0;
    for (const std::string& name : c.stages) {
      if (!c.trains(name)) continue;
      const StageCost cost = stage_cost(c, name, data, engine, models);
      const auto steps = static_cast<double>(cost.units * cost.steps);
      const double shard_flops = cost.flops / steps / static_cast<double>(c.shards);
      const StepTimes times = scaled(measured, shard_flops / step.shard_flops(),
                                     static_cast<double>(cost.own.parameters) / thin_parameters);
      const int64_t bytes = cost.sum_values * int64_t{sizeof(float)};
      const StepPrediction one = predict_step({1, 1, inside, between}, times, c.shards, workers, bytes);
      const StepPrediction many = predict_step(cluster, times, c.shards, workers, bytes);
      const double seconds = many.seconds();
      const double share = many.exposed / seconds;
      const double efficiency = one.seconds() / (static_cast<double>(ranks) * seconds);
      const int64_t epoch_steps = data.train / cost.batch;
      const double epoch = seconds * static_cast<double>(epoch_steps);
      const double hours = epoch * static_cast<double>(ranks) / 3600;
      const int64_t held = c.shards / ranks;
      const int64_t memory = cost.memory(c, engine.type, held, std::min(workers, held));
      all_seconds += steps * seconds;
      out["predictions"].push_back({{"stage", name},
                                    {"ranks", ranks},
                                    {"nodes", ranks / cluster.per_node},
                                    {"step_s", seconds},
                                    {"compute_s", many.compute},
                                    {"update_s", many.update},
                                    {"communication_s", many.communication},
                                    {"exposed_s", many.exposed},
                                    {"bytes", bytes},
                                    {"efficiency", efficiency},
                                    {"memory_bytes", memory},
                                    {"epoch_s", epoch},
                                    {"epoch_rank_hours", hours},
                                    {"epoch_price", hours * arguments.price},
                                    {"stage_s", steps * seconds}});
      table.add({name, std::to_string(ranks), std::to_string(ranks / cluster.per_node), step_text(seconds),
                 fmt::format("{:.1f} %", 100 * share), fmt::format("{:.0f} %", 100 * efficiency),
                 fmt::format("{:.2f}", 1e-9 * static_cast<double>(memory)), duration_text(epoch),
                 arguments.price > 0 ? fmt::format("{:.3g} (price {:.2f})", hours, hours * arguments.price)
                                     : fmt::format("{:.3g}", hours),
                 duration_text(steps * seconds)});
    }
    out["runs"].push_back({{"ranks", ranks}, {"seconds", all_seconds}});
    table.add({"all stages", std::to_string(ranks), "", "", "", "", "", "", "", duration_text(all_seconds)});
  }
  out["too_many_ranks"] = too_many;
  if (arguments.json) {
    fmt::print("{}\n", out.dump(2));
    return;
  }
  fmt::print("{}\n{} shards (from {})\n\n{}\n", c.name, c.shards, source, table.text());
  if (!too_many.empty())
    fmt::print(
        "Left out: {} ranks. A rank takes whole shards, and there are {}; with --set shards={}, and no "
        "batch_size\nbelow it, there would be enough.\n",
        fmt::join(too_many, ", "), c.shards, *std::ranges::max_element(too_many));
  fmt::print(
      "From steps of the thin network timed here just now on {} ({}, {} workers): {} for a round of "
      "shards of {:.3g}\nGFLOPs, {} for the update; and links of {} inside a node of {} ranks and {} "
      "between nodes. Of communication,\nwhat does not hide behind the last round's backward pass counts. "
      "Evaluations and reading data do not.\n",
      c.device, c.precision, workers, step_text(measured.round), 1e-9 * step.shard_flops(),
      step_text(measured.update), inside.name, arguments.per_node, between.name);
}

}  // namespace taper
