#include "recipes/plan_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "runtime/error.h"

namespace taper {

namespace {

// Line rates as vendors state them, and latencies of a small message between two programs.
const std::array kLinks = {
    Link{"nvlink", 3e-6, 450e9},  // fourth generation, one GPU's links together
    Link{"pcie4", 5e-6, 32e9},    Link{"pcie5", 5e-6, 64e9},     Link{"ib100", 2e-6, 12.5e9},
    Link{"ib200", 2e-6, 25e9},    Link{"ib400", 2e-6, 50e9},     Link{"eth1", 50e-6, 125e6},
    Link{"eth10", 30e-6, 1.25e9}, Link{"eth25", 30e-6, 3.125e9}, Link{"eth100", 20e-6, 12.5e9}};

std::string bandwidth_text(double bandwidth) { return fmt::format("{:g} GB/s", bandwidth * 1e-9); }

}  // namespace

std::string known_links() {
  std::string text;
  for (const Link& link : kLinks)
    text += fmt::format("  {:<8}{:>4g} us {:>12}\n", link.name, link.latency * 1e6,
                        bandwidth_text(link.bandwidth));
  return text;
}

Link parse_link(const std::string& text) {
  for (const Link& link : kLinks)
    if (link.name == text) return link;
  double latency = 0, bandwidth = 0;
  std::array<char, 3> time{}, size{};
  int end = 0;
  std::sscanf(text.c_str(), "%lf%2[a-z]:%lf%2[A-Z]/s%n", &latency, time.data(), &bandwidth, size.data(),
              &end);
  static const std::map<std::string, double> kUnits = {{"us", 1e-6}, {"ms", 1e-3}, {"MB", 1e6}, {"GB", 1e9}};
  const auto second = kUnits.find(time.data()), byte = kUnits.find(size.data());
  if (!text.empty() && end == static_cast<int>(text.size()) && second != kUnits.end() &&
      byte != kUnits.end() && latency >= 0 && std::isfinite(latency) && bandwidth > 0 &&
      std::isfinite(bandwidth))
    return {text, latency * second->second, bandwidth * byte->second};
  std::string names;
  for (const Link& link : kLinks) names += (names.empty() ? "" : ", ") + link.name;
  throw UserError(
      "\"{}\" is no link; there are {}, or give latency and bandwidth in each direction, as in 30us:1.2GB/s",
      text, names);
}

double all_reduce_seconds(const Cluster& cluster, int64_t bytes) {
  double seconds = 0, size = static_cast<double>(bytes);
  for (int64_t distance = 1; distance < cluster.ranks; distance *= 2) {
    size /= 2;
    const bool inside = distance < cluster.per_node;
    const Link& link = inside ? cluster.inside : cluster.between;
    // All ranks of a node send at the same time.
    const double sharing = inside ? 1 : static_cast<double>(cluster.per_node);
    seconds += 2 * (link.latency + sharing * size / link.bandwidth);
  }
  return seconds;
}

int64_t rounds(int64_t shards, int64_t workers) { return (shards + workers - 1) / workers; }

StepPrediction predict_step(const Cluster& cluster, const StepTimes& times, int64_t shards, int64_t workers,
                            int64_t bytes) {
  TAPER_CHECK(cluster.ranks > 0 && shards % cluster.ranks == 0, "{} shards on {} ranks", shards,
              cluster.ranks);
  StepPrediction result{.compute = static_cast<double>(rounds(shards / cluster.ranks, workers)) * times.round,
                        .update = times.update};
  if (cluster.ranks == 1) return result;
  const int64_t largest = std::min(int64_t{25} << 20, (bytes + 7) / 8),
                buckets = (bytes + largest - 1) / largest;
  const double each = all_reduce_seconds(cluster, bytes / buckets), backward = times.round * 2 / 3;
  double end = 0;  // of the last bucket that was sent, counted from the beginning of the last round
  for (int64_t i = 1; i <= buckets; ++i) {
    const double ready =
        times.round - backward + backward * static_cast<double>(i) / static_cast<double>(buckets);
    end = std::max(end, ready) + each;
  }
  result.communication = static_cast<double>(buckets) * each;
  result.exposed = end - times.round;
  return result;
}

}  // namespace taper
