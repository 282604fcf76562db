#include "recipes/commands.h"

#include <csignal>
#include <nlohmann/json.hpp>

#include "recipes/hugging_face.h"
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

// tf32 changes how products are made and nothing that is stored: what was trained in it can be used in f32.
Engine engine_of(Configuration configuration, const std::string& device) {
  if (configuration.precision == "tf32" && device == "cpu") {
    fmt::print(stderr, "the device cpu has no tf32, in which this run was trained; it computes in f32\n");
    configuration.precision = "f32";
  }
  return Engine(configuration, device.empty() ? configuration.device : device);
}

// A run's networks as its last checkpoint (or the best of one network) holds them.
struct OpenRun {
  /// On `device`, or where that is "" on the run's own.
  OpenRun(const std::filesystem::path& directory, const std::string& device)
      : configuration(read_run_configuration(directory)),
        data(open_data(configuration)),
        engine(engine_of(configuration, device)),
        models(configuration, engine, data->facts()),
        store(directory / "checkpoints", configuration.checkpoint.keep_last),
        name(directory.string()) {}

  void load(const std::string& best) {
    std::string complaints;
    auto warn = [&](const std::string& sentence) { complaints += "; " + sentence; };
    std::string identity = run_identity(configuration);
    auto checkpoint =
        best.empty() ? store.load_latest(identity, warn) : store.load_best(best, identity, warn);
    if (!checkpoint) throw UserError("{} has no usable checkpoint{}", name, complaints);
    if (!complaints.empty()) fmt::print(stderr, "{}\n", complaints.substr(2));
    models.load(checkpoint->weights, checkpoint->name,
                merged(configuration, std::stoll(checkpoint->metadata.at("stage"))), best);
  }

  Configuration configuration;
  std::unique_ptr<Data> data;
  Engine engine;
  Models models;
  CheckpointStore store;
  std::string name;
};

}  // namespace

namespace {

void train(const TrainArguments& arguments, Communicator& ranks) {
  Configuration configuration = read_configuration(arguments.configuration, arguments.overrides);
  std::filesystem::path output = arguments.output.empty()
                                     ? std::filesystem::path("runs") / arguments.configuration.stem()
                                     : arguments.output;
  ranks.set_timeout(static_cast<double>(configuration.rank_timeout));
  require_possible_ranks(ranks, configuration);
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  bool finished = Run(configuration, output, arguments.resume, arguments.command, ranks).train();
  if (!finished || !ranks.first()) return;
  fmt::print(stderr,
             "the run is in {0}, its report in {0}/report.html; 'taper evaluate {0}' prints its table\n",
             output.string());
}

}  // namespace

void train_command(const TrainArguments& arguments) {
  std::unique_ptr<Communicator> ranks = make_communicator(process_environment());
  try {
    train(arguments, *ranks);
  } catch (const Error& error) {
    ranks->fail(error.what(), error.exit_code());
  } catch (const std::exception& error) {
    ranks->fail(error.what(), 1);
  }
  ranks->finish();
}

void evaluate_command(const std::filesystem::path& directory, const std::string& device, bool json) {
  OpenRun run(directory, device);
  run.load("");
  const Measures& measures = measures_of(run.configuration);
  std::vector<std::string> columns{"network"};
  for (const Metric& metric : measures.metrics) columns.push_back(metric.column());
  columns.insert(columns.end(), {"loss", "parameters", "MFLOPs", measures.item + "s/s"});
  Table table(columns);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const std::string& name : run.models.names()) {
    Evaluation evaluation = evaluate(run.engine, *run.data, run.models[name], measures);
    Cost cost = total(run.models.costs(name));
    nlohmann::ordered_json row{{"network", name}};
    std::vector<std::string> cells{name};
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
    table.add(cells);
  }
  if (json) {
    fmt::print("{}\n", rows.dump(2));
    return;
  }
  fmt::print("{}", table.text());
}

void export_command(const std::filesystem::path& directory, const std::filesystem::path& output,
                    const std::string& network, const std::string& device, bool best) {
  OpenRun run(directory, device);
  run.load(best ? network : "");
  if (!run.models.has(network))
    throw UserError("{} has no {} network yet; it has {}", directory.string(), network,
                    fmt::join(run.models.names(), ", "));
  if (network == "thin" && !run.models["thin"].bridged->units().empty()) run.models.merge();
  const Configuration& c = run.configuration;
  run.engine.team->run_one([&](Stream& stream) {
    const ParameterStore& store = run.models[network].network->store();
    if (c.network.kind == "bert")
      write_pretrained(output, bert_spec(c, run.data->facts(), network == "wide"),
                       read_vocabulary(c.data.vocabulary), !c.data.cased, stream, store);
    else
      write_weights(output, stream, store, {{"format", "pt"}});
  });
  fmt::print(stderr, "wrote the {} network to {}\n", network, output.string());
}

void report_command(const std::filesystem::path& output, const std::vector<std::filesystem::path>& runs) {
  write_report(output, runs);
}

}  // namespace taper
