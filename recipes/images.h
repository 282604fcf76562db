#pragma once
// The images of a run as the configuration describes them: both splits, and how each stage sees them.

#include <cstdint>
#include <memory>

#include "recipes/config.h"
#include "recipes/data/dataset.h"
#include "recipes/data/loader.h"

namespace taper {

class Images {
 public:
  explicit Images(const Configuration& configuration);

  const Dataset& train() const { return *train_; }
  const Dataset& test() const { return *test_; }
  int64_t channels() const { return train_->channels(); }
  int64_t classes() const { return static_cast<int64_t>(train_->classes().size()); }
  /// Height and width of what the network reads.
  int64_t image_size() const { return image_size_; }

  /// Training batches of a stage, shuffled and augmented by draws under `key`, from step `first` to before
  /// `end`. The last, smaller batch of an epoch is left out.
  Loader train_batches(const StageOptions& stage, uint64_t key, int64_t first, int64_t end) const;
  /// Steps of one epoch of a stage. UserError if its batch is larger than the data.
  int64_t steps_per_epoch(const StageOptions& stage, const std::string& name) const;
  /// The first `limit` (0: all) images of a split once each, not augmented.
  Loader plain_batches(const Dataset& split, int64_t batch_size, int64_t limit = 0) const;

 private:
  const DataOptions& options_;
  std::unique_ptr<Dataset> train_, test_;
  int64_t image_size_;
};

}  // namespace taper
