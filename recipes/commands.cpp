#include "recipes/commands.h"

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <optional>

#include "recipes/hugging_face.h"
#include "recipes/open_run.h"
#include "recipes/ranks.h"
#include "recipes/report.h"
#include "recipes/run.h"
#include "recipes/table.h"
#include "runtime/error.h"

namespace taper {

namespace {

// A second signal ends the process at once: the handler steps aside after the first.
extern "C" void request_stop(int signal) {
  stop_requested = true;
  std::signal(signal, SIG_DFL);
}

}  // namespace

namespace {

// Each would choose by its own clock.
void require_fixed_providers(const Communicator& ranks, const Configuration& configuration) {
  if (ranks.ranks() > 1 && (configuration.matmul == "auto" || configuration.convolution == "auto"))
    throw UserError(
        "matmul and convolution = \"auto\" are for one rank, for each would choose by its own clock");
}

// Calls it on every rank that was started; all end together, and an error is printed once.
void on_ranks(const std::function<void(Communicator&)>& command) {
  std::unique_ptr<Communicator> ranks = make_communicator(process_environment());
  try {
    command(*ranks);
  } catch (const Error& error) {
    ranks->fail(error.what(), error.exit_code());
  } catch (const std::exception& error) {
    ranks->fail(error.what(), 1);
  }
  ranks->finish();
}

void train(const TrainArguments& arguments, Communicator& ranks) {
  Configuration configuration = read_configuration(arguments.configuration, arguments.overrides);
  std::filesystem::path output = arguments.output.empty()
                                     ? std::filesystem::path("runs") / arguments.configuration.stem()
                                     : arguments.output;
  ranks.set_timeout(static_cast<double>(configuration.rank_timeout));
  require_possible_ranks(ranks, configuration);
  require_fixed_providers(ranks, configuration);
  Choices choices;
  if (!arguments.providers_from.empty()) {
    if (configuration.matmul != "auto" && configuration.convolution != "auto")
      throw UserError(
          "--providers-from: there is nothing to choose where neither matmul nor convolution is \"auto\"");
    if (arguments.resume)
      throw UserError("--providers-from: a run that goes on with --resume keeps its own choices");
    choices = read_providers(arguments.providers_from);
  }
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  bool finished =
      Run(configuration, output, arguments.resume, arguments.command, ranks, std::move(choices)).train();
  if (!finished || !ranks.first()) return;
  fmt::print(stderr,
             "the run is in {0}, its report in {0}/report.html; 'taper evaluate {0}' prints its table\n",
             output.string());
}

}  // namespace

void train_command(const TrainArguments& arguments) {
  on_ranks([&](Communicator& ranks) { train(arguments, ranks); });
}

void require_one_rank(const std::string& command) {
  on_ranks([&](const Communicator& ranks) {
    if (ranks.ranks() > 1)
      throw UserError(
          "{} is for one process, and {} ranks were started; train and evaluate divide their work", command,
          ranks.ranks());
  });
}

namespace {

void evaluate_run(const EvaluateArguments& arguments, Communicator& ranks) {
  if ((ranks.ranks() & (ranks.ranks() - 1)) != 0)
    throw UserError("{} ranks cannot divide an evaluation; their number must be a power of two",
                    ranks.ranks());
  // A task's networks have a run each.
  std::vector<std::pair<std::string, std::filesystem::path>> runs = {{"", arguments.run}};
  if (!arguments.task.empty()) runs = task_runs(arguments.run, arguments.task);
  std::optional<Table> table;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const auto& [learner, folder] : runs) {
    OpenRun run(folder, arguments.device, "", ranks);
    require_fixed_providers(ranks, run.configuration);
    const std::unique_ptr<Data> data = run.data();
    require_equal_ranks(run.configuration, *data, run.engine);
    const Measures& measures = measures_of(run.configuration);
    if (!table) {
      std::vector<std::string> columns{"network"};
      for (const Metric& metric : measures.metrics) columns.push_back(metric.column());
      columns.insert(columns.end(), {"loss", "parameters", "MFLOPs", measures.item + "s/s"});
      table.emplace(columns);
    }
    for (const std::string& name : run.models.names()) {
      Evaluation evaluation = evaluate(run.engine, *data, run.models[name], measures);
      Cost cost = total(run.models.costs(name));
      const std::string shown = learner.empty() ? name : learner;
      nlohmann::ordered_json row{{"network", shown}};
      std::vector<std::string> cells{shown};
      for (size_t i = 0; i < measures.metrics.size(); ++i) {
        row[measures.metrics[i].key] = evaluation.metrics[i];
        cells.push_back(measures.metrics[i].cell(evaluation.metrics[i]));
      }
      row.update({{"loss", evaluation.loss},
                  {"parameters", cost.parameters},
                  {"flops", cost.flops},
                  {measures.rate(), evaluation.items_per_s},
                  {"samples", evaluation.samples},
                  {"skipped", evaluation.skipped}});
      rows.push_back(row);
      cells.insert(cells.end(), {fmt::format("{:.4f}", evaluation.loss), grouped(cost.parameters),
                                 fmt::format("{:.2f}", 1e-6 * static_cast<double>(cost.flops)),
                                 fmt::format("{:.0f}", evaluation.items_per_s)});
      table->add(cells);
    }
  }
  if (!ranks.first()) return;
  if (arguments.json)
    fmt::print("{}\n", rows.dump(2));
  else if (table)
    fmt::print("{}", table->text());
}

}  // namespace

void evaluate_command(const EvaluateArguments& arguments) {
  on_ranks([&](Communicator& ranks) { evaluate_run(arguments, ranks); });
}

void export_command(const ExportArguments& arguments) {
  std::filesystem::path directory = arguments.run;
  std::string network = arguments.network;
  if (!arguments.task.empty()) {  // whose run has one network, by the name of its stage
    const auto runs = task_runs(directory, arguments.task);
    const auto found =
        std::ranges::find(runs, network, &std::pair<std::string, std::filesystem::path>::first);
    if (found == runs.end())
      throw UserError("{} has not taught {} to its {} network", directory.string(), arguments.task, network);
    directory = found->second;
    network = network == "wide" ? "wide" : "baseline";
  }
  OpenRun run(directory, arguments.device, arguments.best ? network : "");
  if (!run.models.has(network))
    throw UserError("{} has no {} network yet; it has {}", directory.string(), network,
                    fmt::join(run.models.names(), ", "));
  if (network == "thin" && !run.models["thin"].bridged->units().empty()) run.models.merge();
  const Configuration& c = run.configuration;
  run.engine.team->run_one([&](Stream& stream) {
    const ParameterStore& store = run.models[network].network->store();
    if (c.network.kind != "bert") return write_weights(arguments.output, stream, store, {{"format", "pt"}});
    write_pretrained(arguments.output, bert_spec(c, run.facts, network == "wide"),
                     *vocabulary_of(c, run.facts), !c.data.cased, stream, store, run.facts.labels);
  });
  fmt::print(stderr, "wrote the {} network to {}\n", arguments.network, arguments.output.string());
}

void report_command(const std::filesystem::path& output, const std::vector<std::filesystem::path>& runs) {
  write_report(output, runs);
}

}  // namespace taper
