#include "recipes/text_batches.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/philox.h"

namespace taper {

TextBatches::TextBatches(AddSequence add, Order order, int64_t samples, int64_t batch_size, uint64_t key,
                         int64_t first)
    : add_(std::move(add)),
      kind_(order),
      samples_(samples),
      batch_size_(batch_size),
      key_(key),
      step_(first),
      order_(static_cast<size_t>(samples)) {
  std::iota(order_.begin(), order_.end(), 0);
}

std::unique_ptr<Batch> TextBatches::next() {
  const bool shuffled = kind_ == Order::shuffled;
  const int64_t steps = shuffled ? samples_ / batch_size_ : (samples_ + batch_size_ - 1) / batch_size_;
  const int64_t epoch = step_ / steps, begin = step_ % steps * batch_size_;
  if (shuffled && epoch != order_epoch_) shuffle(order_, samples_, fold(key_, hash("order")), epoch);
  order_epoch_ = epoch;
  auto batch = std::make_unique<TextBatch>();
  batch->dropout_key = fold(fold(key_, hash("dropout")), static_cast<uint64_t>(step_));
  for (int64_t i = begin; i < std::min(begin + batch_size_, samples_); ++i)
    add_(*batch, order_[static_cast<size_t>(i)], epoch);
  ++step_;
  return batch;
}

}  // namespace taper
