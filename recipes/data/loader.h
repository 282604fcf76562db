#pragma once
// Batches in a fixed order, decoded and augmented by background threads.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "recipes/batch.h"
#include "recipes/data/augment.h"
#include "recipes/data/dataset.h"

namespace taper {

enum class OnError { stop, skip };

struct LoaderOptions {
  /// Decides order and augmentation together with the epoch and the sample's index; fold seed and stage into
  /// it.
  uint64_t key = 0;
  int64_t batch_size = 1;
  bool shuffle = false;
  /// Leave out the last, smaller batch of an epoch.
  bool drop_last = false;
  int threads = 1;
  /// What to do with a sample that cannot be read: rethrow its error, or leave it out and count it.
  OnError on_error = OnError::stop;
  /// next() gives the batches of the steps [first_step, end_step), counted over all epochs.
  int64_t first_step = 0;
  int64_t end_step = std::numeric_limits<int64_t>::max();
  /// Of each batch, only these samples are decoded.
  Share share = {};
};

struct ImageBatch final : Batch {
  ShardInput upload(Tape& tape, int64_t begin, int64_t end) const override;

  std::vector<float> images;    // [n, image_size, image_size, channels]: n = the share's, less those left out
  std::vector<int32_t> labels;  // [n]
  std::vector<int64_t> indices;  // [n], into the dataset
  int64_t first = 0;             // the share's first place in the batch
  std::vector<int64_t> places;   // [n], in the batch, ascending; empty where none is missing
  int64_t step = 0;
  int64_t image_size = 0, channels = 0;
};

/// Gives the batches one after the other. Each epoch holds every sample exactly once (but for drop_last); its
/// order and every transform are functions of (key, epoch, index), so batches have the same bits whatever the
/// number of threads and wherever the loader started. Starting at a step decodes nothing before it.
class Loader final : public Batches {
 public:
  /// `dataset` must outlive the loader. Throws UserError for settings that make no sense.
  Loader(const Dataset& dataset, const Augmentation& augmentation, const LoaderOptions& options);
  ~Loader() override;
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The batch of the next step, whose `count` is batch_size less what the epoch's end takes away. Rethrows
  /// the error of the batch's first sample that could not be read, now and in every later call.
  ImageBatch next_images();
  std::unique_ptr<Batch> next() override { return std::make_unique<ImageBatch>(next_images()); }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }

 private:
  struct Slot {
    ImageBatch batch;
    int64_t epoch = 0, count = 0, claimed = 0, done = 0;  // samples of the share
    std::vector<std::exception_ptr> errors;               // [count]
  };
  Slot& slot(int64_t step) { return ring_[static_cast<size_t>(step) % ring_.size()]; }
  bool has_work() const;
  void work();
  void stop();
  void open_slot(int64_t step);
  void fill(Slot& slot, int64_t begin, int64_t end) const;
  void remove_skipped(Slot& slot) const;

  const Dataset& dataset_;
  Augmenter augmenter_;
  LoaderOptions options_;
  uint64_t order_key_, augment_key_;
  int64_t steps_per_epoch_;

  std::mutex mutex_;  // guards all below, except the batch rows that a thread has claimed
  std::condition_variable work_to_do_, batch_done_;
  std::vector<Slot> ring_;
  int64_t next_step_;    // the consumer's
  int64_t opened_step_;  // slots of the steps before this one have been handed to the threads
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace taper
