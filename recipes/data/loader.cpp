#include "recipes/data/loader.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "recipes/data/shuffle.h"
#include "runtime/error.h"

namespace taper {
namespace {

constexpr size_t kBatchesAhead = 3;
// Samples that a thread takes at a time: enough to make the lock cheap even for tiny images, few enough that
// all threads share one batch.
constexpr int64_t kChunk = 8;

int64_t count_steps(int64_t samples, const LoaderOptions& options) {
  if (options.batch_size < 1)
    throw UserError("batch_size = {} is not possible; use at least 1", options.batch_size);
  if (options.threads < 1) throw UserError("threads = {} is not possible; use at least 1", options.threads);
  const int64_t whole = samples / options.batch_size;
  if (options.drop_last && whole == 0) {
    throw UserError("batch_size = {} is larger than the dataset of {} samples; use a smaller batch",
                    options.batch_size, samples);
  }
  return options.drop_last ? whole : whole + (samples % options.batch_size != 0);
}

}  // namespace

ShardInput ImageBatch::upload(Tape& tape, int64_t begin, int64_t end) const {
  // Where the sample at a place in the batch lies here, or the next one after it.
  auto row = [&](int64_t place) {
    if (places.size() != labels.size()) return place - first;
    return std::lower_bound(places.begin(), places.end(), place) - places.begin();
  };
  begin = row(begin);
  end = row(end);
  TAPER_CHECK(begin >= 0 && end <= std::ssize(labels), "rows {} to {} of {}", begin, end, labels.size());
  int64_t rows = end - begin, size = image_size * image_size * channels;
  if (rows == 0) return {nullptr, {}, 0};
  Shape shape{rows, image_size, image_size, channels};
  auto pixels =
      std::span(images).subspan(static_cast<size_t>(begin * size), static_cast<size_t>(rows * size));
  Tensor values = Tensor::from<float>(tape.stream, shape, pixels);
  if (tape.type != DType::f32) {
    Tensor cast = tape.empty(shape);
    tape.backend.cast(tape.stream, values.size(), DType::f32, values.data(), tape.type, cast.data());
    values = cast;
  }
  auto own = std::span(labels).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows));
  return {tape.constant(values), Tensor::from<int32_t>(tape.stream, {rows}, own), rows};
}

Loader::Loader(const Dataset& dataset, const Augmentation& augmentation, const LoaderOptions& options)
    : dataset_(dataset),
      augmenter_(augmentation, dataset.channels()),
      options_(options),
      order_key_(fold(options.key, hash("order"))),
      augment_key_(fold(options.key, hash("augment"))),
      steps_per_epoch_(count_steps(dataset.size(), options)),
      ring_(kBatchesAhead),
      next_step_(options.first_step),
      opened_step_(options.first_step) {
  TAPER_CHECK(dataset.size() > 0 && options.first_step >= 0, "first_step is {}", options.first_step);
  try {
    for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    stop();  // the threads that did start
    throw;
  }
}

Loader::~Loader() { stop(); }

void Loader::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  work_to_do_.notify_all();
}

bool Loader::has_work() const {
  const Slot& newest = ring_[static_cast<size_t>(opened_step_ - 1) % ring_.size()];
  if (opened_step_ > options_.first_step && newest.claimed < newest.count) return true;
  return opened_step_ < options_.end_step && opened_step_ < next_step_ + static_cast<int64_t>(ring_.size());
}

void Loader::work() {
  std::unique_lock lock(mutex_);
  try {
    while (true) {
      work_to_do_.wait(lock, [this] { return stopping_ || has_work(); });
      if (stopping_) return;
      if (opened_step_ == options_.first_step ||
          slot(opened_step_ - 1).claimed == slot(opened_step_ - 1).count)
        open_slot(opened_step_);
      Slot& mine = slot(opened_step_ - 1);
      const int64_t begin = mine.claimed, end = std::min(begin + kChunk, mine.count);
      mine.claimed = end;
      lock.unlock();
      fill(mine, begin, end);
      lock.lock();
      mine.done += end - begin;
      if (mine.done == mine.count) batch_done_.notify_all();
    }
  } catch (...) {
    // Only what is no sample's fault comes here, such as memory running out.
    if (!lock.owns_lock()) lock.lock();
    failure_ = std::current_exception();
    stopping_ = true;
    work_to_do_.notify_all();
    batch_done_.notify_all();
  }
}

void Loader::open_slot(int64_t step) {
  const int64_t epoch = step / steps_per_epoch_;
  int64_t begin = step % steps_per_epoch_ * options_.batch_size;
  const int64_t whole = std::min(options_.batch_size, dataset_.size() - begin);
  const auto [part, parts] = options_.share;
  const int64_t first = part * whole / parts, count = (part + 1) * whole / parts - first;
  begin += first;
  Slot& opened = slot(step);
  opened = Slot{};
  opened.epoch = epoch;
  ImageBatch& batch = opened.batch;
  batch.image_size = augmenter_.image_size();
  batch.channels = augmenter_.channels();
  batch.step = step;
  batch.count = whole;
  batch.first = first;
  batch.indices.resize(count);
  if (options_.shuffle) {
    if (epoch != order_epoch_) shuffle(order_, dataset_.size(), order_key_, epoch);
    order_epoch_ = epoch;
    std::copy_n(order_.begin() + begin, count, batch.indices.begin());
  } else {
    std::iota(batch.indices.begin(), batch.indices.end(), begin);
  }
  batch.labels.resize(count);
  batch.images.resize(count * batch.image_size * batch.image_size * batch.channels);
  opened.errors.resize(count);
  opened.count = count;
  ++opened_step_;
  work_to_do_.notify_all();
}

void Loader::fill(Slot& slot, int64_t begin, int64_t end) const {
  const int64_t size = augmenter_.image_size() * augmenter_.image_size() * augmenter_.channels();
  Image image;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t index = slot.batch.indices[i];
    try {
      dataset_.read(index, image, slot.batch.labels[i]);
    } catch (const UserError&) {
      slot.errors[i] = std::current_exception();
      continue;
    }
    augmenter_.apply(std::move(image), Draws(augment_key_, slot.epoch, index), &slot.batch.images[i * size]);
  }
}

void Loader::remove_skipped(Slot& slot) const {
  ImageBatch& batch = slot.batch;
  const int64_t size = static_cast<int64_t>(batch.images.size()) / slot.count;
  int64_t kept = 0;
  for (int64_t i = 0; i < slot.count; ++i) {
    if (slot.errors[i]) continue;
    batch.places.push_back(batch.first + i);
    if (kept != i) {
      batch.labels[kept] = batch.labels[i];
      batch.indices[kept] = batch.indices[i];
      std::copy_n(&batch.images[i * size], size, &batch.images[kept * size]);
    }
    ++kept;
  }
  batch.skipped = slot.count - kept;
  batch.labels.resize(kept);
  batch.indices.resize(kept);
  batch.images.resize(kept * size);
}

ImageBatch Loader::next_images() {
  TAPER_CHECK(next_step_ < options_.end_step, "the loader ends before step {}", next_step_);
  std::unique_lock lock(mutex_);
  const auto done = [this] {
    return opened_step_ > next_step_ && slot(next_step_).done == slot(next_step_).count;
  };
  batch_done_.wait(lock, [&] { return failure_ || done(); });
  if (failure_) std::rethrow_exception(failure_);
  Slot finished = std::move(slot(next_step_));
  const auto error = std::find_if(finished.errors.begin(), finished.errors.end(),
                                  [](const auto& e) { return e != nullptr; });
  if (error != finished.errors.end() && options_.on_error == OnError::stop) {
    failure_ = *error;
    stopping_ = true;
    work_to_do_.notify_all();
    std::rethrow_exception(failure_);
  }
  ++next_step_;
  work_to_do_.notify_all();
  lock.unlock();
  if (error != finished.errors.end()) remove_skipped(finished);
  return std::move(finished.batch);
}

}  // namespace taper
