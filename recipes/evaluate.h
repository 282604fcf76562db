#pragma once
// Accuracy of a network on images it was not trained on.

#include <cstdint>

#include "recipes/images.h"
#include "recipes/models.h"

namespace taper {

struct Accuracy {
  double loss = 0;            ///< cross-entropy, mean over samples
  double top1 = 0, top5 = 0;  ///< fractions
  int64_t samples = 0, skipped = 0;
  double images_per_s = 0;
};

/// Every image of `split` once, in evaluation mode, in portions of a fixed size: any number of workers gives
/// the same numbers.
Accuracy evaluate(Engine& engine, const Images& images, const Dataset& split, const Model& model);

/// Calls task(stream, batch, index) for every batch of the loader, on the workers, `batches` in all.
void for_each_batch(Team& team, Loader& loader, int64_t batches,
                    const std::function<void(Stream&, const Batch&, int64_t)>& task);

}  // namespace taper
