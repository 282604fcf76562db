// Sums over ranks, timed: bus bandwidth as nccl-tests defines it, and what a link would have to be for
// `taper plan` to predict these times.
//
//   mpirun -n 2 build-bench/bench_ranks

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/collectives.h"
#include "kernels/backend.h"
#include "runtime/error.h"

namespace {

using namespace taper;

// Whole numbers, small enough that their sum is exact in whichever order it is made.
float value(int64_t rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 1024); }

void fill(Communicator& ranks, Team& team, Tensor& values) {
  std::vector<float> own(static_cast<size_t>(values.size()));
  for (size_t i = 0; i < own.size(); ++i) own[i] = value(ranks.rank(), static_cast<int64_t>(i));
  team.run_one([&](Stream& stream) { stream.upload(values.data(), own.data(), values.bytes()); });
}

void check(Communicator& ranks, Team& team, Tensor& values) {
  fill(ranks, team, values);
  team.run_one([&](Stream& stream) {
    all_reduce(ranks, team.backend(), stream, values);
    const std::vector<float> sums = values.host<float>(stream);
    for (int64_t i = 0; i < values.size(); ++i) {
      float sum = 0;
      for (int64_t rank = 0; rank < ranks.ranks(); ++rank) sum += value(rank, i);
      if (!(sums[static_cast<size_t>(i)] == sum))
        throw Failure("element {} of the sum over {} ranks is {}, and {} would be right", i, ranks.ranks(),
                      sums[static_cast<size_t>(i)], sum);
    }
  });
}

// The median; every rank starts each sum when all are there.
double median_seconds(Communicator& ranks, Team& team, Tensor& values, int64_t repetitions) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < repetitions; ++i) {
    ranks.barrier();
    const auto begin = std::chrono::steady_clock::now();
    team.run_one([&](Stream& stream) { all_reduce(ranks, team.backend(), stream, values); });
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::ranges::nth_element(seconds, seconds.begin() + repetitions / 2);
  return seconds[static_cast<size_t>(repetitions / 2)];
}

struct Row {
  int64_t bytes;
  double seconds;
};

nlohmann::ordered_json measure(Communicator& ranks, int64_t largest, int64_t repetitions, bool json) {
  const auto backend = make_backend("cpu");
  Team team(*backend, 1, 1);
  const auto count = static_cast<double>(ranks.ranks());
  nlohmann::ordered_json out{{"ranks", ranks.ranks()}, {"sums", nlohmann::json::array()}};
  std::vector<Row> rows;
  for (int64_t bytes = 1024; bytes <= largest; bytes *= 4) {
    Tensor values;
    team.run_one([&](Stream& stream) { values = Tensor(stream, DType::f32, {bytes / 4}); });
    check(ranks, team, values);
    fill(ranks, team, values);  // again and again the sum of sums: it stays finite
    const double seconds = median_seconds(ranks, team, values, repetitions);
    rows.push_back({bytes, seconds});
    const double rate = static_cast<double>(bytes) / seconds, bus = rate * 2 * (count - 1) / count;
    out["sums"].push_back({{"bytes", bytes}, {"seconds", seconds}, {"algbw", rate}, {"busbw", bus}});
    if (ranks.first() && !json)
      fmt::print("{:>12} {:>12.1f} {:>12.3f} {:>12.3f}\n", bytes, 1e6 * seconds, 1e-9 * rate, 1e-9 * bus);
  }
  // Of the model's two terms (recipes/plan_model.h) the smallest sum shows one and the largest the other.
  const double messages = 2 * std::log2(count), latency = rows.front().seconds / messages;
  const double moved = 2 * static_cast<double>(rows.back().bytes) * (count - 1) / count;
  const double moving = rows.back().seconds - messages * latency;
  out["link"] = moving > 0 ? fmt::format("{:.1f}us:{:.1f}MB/s", 1e6 * latency, 1e-6 * moved / moving)
                           : "none: the smallest sum took longer than the largest";
  return out;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times sums over ranks after checking them, and prints the link that would explain the times, for "
      "'taper plan --link'. Start it with mpirun, on 2 or more ranks.",
      "bench_ranks");
  int64_t mebibytes = 64, repetitions = 11;
  bool json = false;
  app.add_option("--largest", mebibytes, "of the sums, in MiB (default: 64)")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}));
  app.add_option("--repetitions", repetitions, "of each size; the median counts (default: 11)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_flag("--json", json, "print JSON");
  CLI11_PARSE(app, argc, argv);

  const auto ranks = make_communicator(process_environment());
  if (ranks->ranks() < 2) throw UserError("one rank has nothing to sum with; start this with mpirun -n 2");
  if (ranks->first() && !json)
    fmt::print("{:>12} {:>12} {:>12} {:>12}\n", "bytes", "us", "algbw GB/s", "busbw GB/s");
  const nlohmann::ordered_json out = measure(*ranks, mebibytes << 20, repetitions, json);
  ranks->finish();
  if (!ranks->first()) return 0;
  if (json) {
    fmt::print("{}\n", out.dump(2));
  } else {
    fmt::print("{} ranks; as a link: {}\n", ranks->ranks(), out["link"].get<std::string>());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const taper::Error& error) {
    fmt::print(stderr, "bench_ranks: {}\n", error.what());
    return error.exit_code();
  }
}
