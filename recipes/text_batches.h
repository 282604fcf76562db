#pragma once
// The sequences of a split as batches.

#include <functional>
#include <vector>

#include "recipes/data/shuffle.h"
#include "recipes/text/text_batch.h"

namespace taper {

/// Adds a sequence of the split to the batch, as an epoch has it.
using AddSequence = std::function<void(TextBatch& batch, int64_t sample, int64_t epoch)>;

class TextBatches final : public Batches {
 public:
  enum class Order : uint8_t {
    plain,    ///< every sequence once, in order
    shuffled  ///< in an order of its own in each epoch, drawn under the key, without the last, smaller batch
  };
  /// From batch `first` on, whose bits do not depend on it.
  TextBatches(AddSequence add, Order order, int64_t samples, int64_t batch_size, uint64_t key, int64_t first);

  std::unique_ptr<Batch> next() override;

 private:
  AddSequence add_;
  Order kind_;
  int64_t samples_, batch_size_;
  uint64_t key_;
  int64_t step_, order_epoch_ = -1;
  std::vector<int64_t> order_;
};

/// Keeps any `limit` (0: all) of the values, the same ones every time, as for images.
template <typename T>
void keep_any(std::vector<T>& values, int64_t limit) {
  if (limit == 0 || limit >= std::ssize(values)) return;
  std::vector<int64_t> order;
  shuffle(order, std::ssize(values), hash("limit"), 0);
  std::vector<T> kept;
  for (int64_t i = 0; i < limit; ++i)
    kept.push_back(std::move(values[static_cast<size_t>(order[static_cast<size_t>(i)])]));
  values = std::move(kept);
}

}  // namespace taper
