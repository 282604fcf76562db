#include "recipes/commands.h"

#include <csignal>
#include <nlohmann/json.hpp>

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

void train_command(const TrainArguments& arguments) {
  Configuration configuration = read_configuration(arguments.configuration, arguments.overrides);
  std::filesystem::path output = arguments.output.empty()
                                     ? std::filesystem::path("runs") / arguments.configuration.stem()
                                     : arguments.output;
  std::signal(SIGTERM, request_stop);
  std::signal(SIGINT, request_stop);
  bool finished = Run(configuration, output, arguments.resume, arguments.command).train();
  if (!finished) return;
  fmt::print(stderr,
             "the run is in {0}, its report in {0}/report.html; 'taper evaluate {0}' prints its table\n",
             output.string());
}

void evaluate_command(const std::filesystem::path& directory, const std::string& device, bool json) {
  OpenRun run(directory, device);
  run.load("");
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const std::string& name : run.models.names()) {
    Accuracy accuracy = evaluate(run.engine, *run.data, run.models[name]);
    Cost cost = total(run.models.costs(name));
    rows.push_back({{"network", name},
                    {"top1", accuracy.top1},
                    {"top5", accuracy.top5},
                    {"loss", accuracy.loss},
                    {"parameters", cost.parameters},
                    {"flops", cost.flops},
                    {"images_per_s", accuracy.images_per_s},
                    {"samples", accuracy.samples},
                    {"skipped", accuracy.skipped}});
  }
  if (json) {
    fmt::print("{}\n", rows.dump(2));
    return;
  }
  Table table({"network", "top-1 %", "top-5 %", "loss", "parameters", "MFLOPs", "images/s"});
  for (const auto& row : rows)
    table.add({row["network"].get<std::string>(), fmt::format("{:.2f}", 100 * row["top1"].get<double>()),
               fmt::format("{:.2f}", 100 * row["top5"].get<double>()),
               fmt::format("{:.4f}", row["loss"].get<double>()), grouped(row["parameters"].get<int64_t>()),
               fmt::format("{:.2f}", 1e-6 * row["flops"].get<double>()),
               fmt::format("{:.0f}", row["images_per_s"].get<double>())});
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
  run.engine.team->run_one([&](Stream& stream) {
    write_weights(output, stream, run.models[network].network->store(), {{"format", "pt"}});
  });
  fmt::print(stderr, "wrote the {} network to {}\n", network, output.string());
}

void report_command(const std::filesystem::path& output, const std::vector<std::filesystem::path>& runs) {
  write_report(output, runs);
}

}  // namespace taper
