#pragma once
// The images of a run as the configuration describes them: both splits, and how each stage sees them.

#include <cstdint>
#include <memory>

#include "recipes/data.h"
#include "recipes/data/dataset.h"

namespace taper {

class Images final : public Data {
 public:
  explicit Images(const Configuration& configuration);

  const DataFacts& facts() const override { return facts_; }
  /// Shuffled and augmented.
  std::unique_ptr<Batches> train_batches(const StageOptions& stage, uint64_t key, int64_t first, int64_t end,
                                         Share share = {}) const override;
  /// Not augmented.
  std::unique_ptr<Batches> plain_batches(Split split, int64_t batch_size, int64_t limit = 0,
                                         int64_t first = 0) const override;

 private:
  const DataOptions& options_;
  std::unique_ptr<Dataset> train_, test_;
  DataFacts facts_{};
};

}  // namespace taper
