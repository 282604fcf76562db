#pragma once
// Finding NaN and infinity by name, before they do harm.

#include <span>
#include <string>
#include <vector>

#include "autograd/shards.h"
#include "layers/network.h"

namespace taper {

/// Each segment's sum of squares in f64, shared among the workers: not finite where the segment holds a NaN
/// or infinity. `values`: f32 (or f64 below 1e154), on the device.
std::vector<double> sums_of_squares(Team& team, std::span<const Segment> segments, const Tensor& values);

/// The first parameter or statistic that holds a NaN or infinity; empty where all are finite.
std::string first_non_finite(Team& team, const ParameterStore& store);

/// The first running statistic that `sums` would move (update_statistics) by a NaN or infinity; empty where
/// there is none.
std::string first_non_finite(Team& team, const Network& network, const ShardSums& sums);

}  // namespace taper
