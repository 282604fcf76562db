#include "layers/finite.h"

#include <algorithm>
#include <cmath>

namespace taper {

std::vector<double> sums_of_squares(Team& team, std::span<const Segment> segments, const Tensor& values) {
  constexpr int64_t kGroup = 16;  // segments to a task
  auto count = static_cast<int64_t>(segments.size());
  std::vector<double> squares(segments.size());
  team.run((count + kGroup - 1) / kGroup, [&](Stream& stream, int64_t task) {
    auto begin = static_cast<size_t>(task * kGroup);
    auto size = static_cast<size_t>(std::min(kGroup, count - task * kGroup));
    Tensor sums(stream, DType::f64, {static_cast<int64_t>(size)});
    team.backend().sum_of_squares(stream, segments.subspan(begin, size), values.dtype(), values.data(),
                                  sums.as<double>());
    stream.download(squares.data() + begin, sums.data(), sums.bytes());
  });
  return squares;
}

namespace {

// `tensors` lie in `values`, each at its offset.
std::string first_non_finite(Team& team, const std::vector<const Parameter*>& tensors, const Tensor& values) {
  std::vector<Segment> segments;
  segments.reserve(tensors.size());
  for (const Parameter* p : tensors) segments.push_back({p->offset, p->size});
  std::vector<double> squares = sums_of_squares(team, segments, values);
  auto found = std::find_if(squares.begin(), squares.end(), [](double v) { return !std::isfinite(v); });
  return found == squares.end() ? "" : tensors[static_cast<size_t>(found - squares.begin())]->name;
}

}  // namespace

std::string first_non_finite(Team& team, const ParameterStore& store) {
  std::vector<const Parameter*> parameters, statistics;
  for (const Parameter& p : store.all()) (p.is_statistic() ? statistics : parameters).push_back(&p);
  std::string name = first_non_finite(team, parameters, store.values());
  return name.empty() ? first_non_finite(team, statistics, store.statistics()) : name;
}

std::string first_non_finite(Team& team, const Network& network, const ShardSums& sums) {
  std::vector<const Parameter*> moved;
  for (const BatchNorm& norm : network.norms())
    for (const Parameter* statistic : {norm.running_mean, norm.running_variance})
      if (norm.weight->trainable && sums.reports.contains(statistic->offset)) moved.push_back(statistic);
  return first_non_finite(team, moved, sums.statistics);
}

}  // namespace taper
