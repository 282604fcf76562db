#pragma once
// How good a network is on samples it was not trained on.

#include <cstdint>

#include "recipes/data.h"
#include "recipes/measures.h"
#include "recipes/models.h"

namespace taper {

struct Evaluation {
  double loss = 0;                   ///< cross-entropy, mean over labels
  std::vector<double> metrics = {};  ///< as Measures lists them
  int64_t samples = 0, skipped = 0;
  double items_per_s = 0;
};

/// Every sample of the test split once, in evaluation mode, in portions of a fixed size: any number of
/// workers gives the same numbers.
Evaluation evaluate(Engine& engine, const Data& data, const Model& model, const Measures& measures);

/// Calls task(stream, batch, index) for the next `count` batches, on the workers.
void for_each_batch(Team& team, Batches& batches, int64_t count,
                    const std::function<void(Stream&, const Batch&, int64_t)>& task);

}  // namespace taper
