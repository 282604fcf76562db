#pragma once
// What imitation trains, in which rounds, and what that costs. The networks need no memory: a dry run asks
// too.

#include <span>
#include <string>
#include <vector>

#include "layers/bridge.h"
#include "recipes/config.h"

namespace taper {

/// One thing to be trained: a unit, or the stem where its width differs.
struct ImitationTarget {
  std::string name;
  int64_t boundary;  ///< whose output is compared: 0 the stem's, u + 1 unit u's
};

/// Consecutive ones.
using Targets = std::span<const ImitationTarget>;

/// Bottom to top.
std::vector<ImitationTarget> imitation_targets(const BridgedNetwork& thin);
/// What is trained at a time, in the order of training: each target by itself, or all of them in every step
/// (imitate.order).
std::vector<Targets> imitation_rounds(const Configuration& configuration, Targets all);

/// FLOPs of one sample of one step.
struct ImitationCost {
  double student = 0;  ///< forward and backward of what is trained, forward of what is below it
  double teacher = 0;  ///< the wide network, and what brings its outputs to the thin width
};

/// Counted as Cost counts: what is trained costs three times its forward pass. A bridge is a matrix product
/// for each pixel (of text: token): t U for each output that is compared or, with `teacher` input, read; free
/// ones also h (U^T U), h^T h and t^T h for the loss, and their own product between the units. Compared
/// attention is a product q k^T of either network, and two for the student's gradients. What is made once for
/// all pixels (V U, U^T U) is not counted, as packed and folded filters are not.
ImitationCost imitation_cost(const Configuration& configuration, const BridgedNetwork& thin,
                             const Network& wide, Targets targets, Extent extent);

/// Forward FLOPs of one sample of the free bridges that the network runs until they are merged.
double bridge_flops(const BridgedNetwork& network, Extent extent);

}  // namespace taper
