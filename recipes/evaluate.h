#pragma once
// How good a network is on samples it was not trained on.

#include <cstdint>
#include <functional>
#include <vector>

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

/// Every sample of the test split once, in evaluation mode, in portions of a fixed size, divided among the
/// engine's ranks, which all get the result: any number of workers and ranks gives the same numbers.
Evaluation evaluate(Engine& engine, const Data& data, const Model& model, const Measures& measures);

/// What plain_batches(split, batch_size, limit) gives, divided among the engine's ranks and their workers:
/// task(stream, batch, row) fills a row of `width` numbers for each batch, of zeros before. Returns the
/// rows of all batches, in order, on every rank.
std::vector<double> rows_of_batches(Engine& engine, const Data& data, Split split, int64_t batch_size,
                                    int64_t limit, int64_t width,
                                    const std::function<void(Stream&, const Batch&, double* row)>& task);

}  // namespace taper
