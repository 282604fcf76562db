#include "recipes/imitation_plan.h"

namespace taper {

std::vector<ImitationTarget> imitation_targets(const BridgedNetwork& thin) {
  std::vector<ImitationTarget> targets;
  if (thin.lift(0) != nullptr) targets.push_back({"stem", 0});
  int64_t boundary = 0;
  for (const Unit& unit : thin.units()) targets.push_back({unit.name, ++boundary});
  return targets;
}

std::vector<Targets> imitation_rounds(const Configuration& configuration, Targets all) {
  if (configuration.imitate.order == "together") return {all};
  std::vector<Targets> result;
  for (size_t i = 0; i < all.size(); ++i) result.push_back(all.subspan(i, 1));
  return result;
}

namespace {

// Of the stem and of the units below `boundary`.
double prefix_flops(const std::vector<Cost>& parts, const BridgedNetwork& thin, int64_t boundary) {
  int64_t flops = 0;
  for (int64_t i = 0; i <= thin.blocks_below(boundary); ++i) flops += parts[static_cast<size_t>(i)].flops;
  return static_cast<double>(flops);
}

// Of the product of every pixel at a boundary, as compared or as read, with a matrix.
double product_flops(const BridgedNetwork& thin, int64_t boundary, bool activated, Extent extent,
                     int64_t rows, int64_t columns) {
  int64_t pixels = thin.network().positions(extent, thin.blocks_below(boundary), activated);
  return 2.0 * static_cast<double>(pixels) * static_cast<double>(rows) * static_cast<double>(columns);
}

double cross_flops(const BridgedNetwork& thin, int64_t boundary, Extent extent) {
  const Parameter* lower = thin.lower(boundary);
  if (lower == nullptr) return 0;
  return product_flops(thin, boundary, true, extent, lower->shape[0], lower->shape[0]);
}

// Of the scores of attention in one unit. Only asked of BERTs, whose blocks' readers make q, k and v.
double score_flops(const Network& network, const Unit& unit, Extent extent) {
  double flops = 0;
  for (int64_t i = unit.begin; i < unit.end; ++i) {
    const Parameter& query = *network.blocks()[static_cast<size_t>(i)].readers.front();
    flops += 2.0 * static_cast<double>(extent.height * extent.width * extent.width * query.shape[0]);
  }
  return flops;
}

}  // namespace

ImitationCost imitation_cost(const Configuration& configuration, const BridgedNetwork& thin,
                             const Network& wide, Targets targets, Extent extent) {
  bool sequential = configuration.imitate.input == "sequential", free = thin.kind() == BridgeKind::free;
  auto own = thin.network().costs(extent), taught = wide.costs(extent);
  int64_t first = targets.front().boundary, last = targets.back().boundary;
  double below = first == 0 ? 0 : prefix_flops(own, thin, first - 1);
  ImitationCost cost{3 * (prefix_flops(own, thin, last) - below), prefix_flops(taught, thin, last)};
  if (sequential) {
    cost.student += below;
    for (int64_t b = 0; b + 1 < first; ++b) cost.student += cross_flops(thin, b, extent);
  }
  auto product = [&](int64_t boundary, int64_t side) {  // side 0: of the wide width, 1: of the thin one
    const Parameter* lift = thin.lift(boundary);
    return lift == nullptr ? 0.0
                           : product_flops(thin, boundary, free, extent,
                                           lift->shape[static_cast<size_t>(side)], lift->shape[1]);
  };
  for (const ImitationTarget& target : targets) {
    cost.teacher += product(target.boundary, 0);
    if (free) cost.student += 2 * product(target.boundary, 1) + product(target.boundary, 0);
    if (target.boundary == 0) continue;
    cost.student += 3 * cross_flops(thin, target.boundary - 1, extent);
    if (!sequential) cost.teacher += product(target.boundary - 1, 0);
    if (configuration.imitate.attention > 0) {
      const Unit& unit = thin.units()[static_cast<size_t>(target.boundary - 1)];
      cost.student += 3 * score_flops(thin.network(), unit, extent);
      cost.teacher += score_flops(wide, unit, extent);
    }
  }
  return cost;
}

double bridge_flops(const BridgedNetwork& network, Extent extent) {
  double flops = 0;
  for (size_t b = 0; b < network.units().size(); ++b)
    flops += cross_flops(network, static_cast<int64_t>(b), extent);
  return flops;
}

}  // namespace taper
