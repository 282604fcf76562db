#pragma once
// Shards and workers. A batch is cut into a fixed number of shards; a worker runs whole shards, each through
// its own tape; what shards add up is summed in a fixed binary tree. The number of workers is the machine's
// business: it changes no bit.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "autograd/tape.h"

namespace taper {

/// Threads, each with a stream of its own that lives as long as the team.
class Team {
 public:
  /// `workers` streams of `threads_per_shard` CPU threads each.
  Team(Backend& backend, int workers, int threads_per_shard);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  Backend& backend() const { return backend_; }
  int workers() const { return static_cast<int>(threads_.size()); }
  using Task = std::function<void(Stream&, int64_t index)>;
  /// Calls task(stream, i) for every i in [0, count), each once, the next free worker taking the next i;
  /// returns when all are done, the streams' queued work included. Of several exceptions, that of the lowest
  /// i is thrown; an error of queued work counts for the last task of its worker.
  void run(int64_t count, const Task& task);
  /// task on one worker: for what is too small to share.
  void run_one(const std::function<void(Stream&)>& task) {
    run(1, [&](Stream& stream, int64_t) { task(stream); });
  }
  /// Over all workers' streams.
  MemoryStatistics memory() const;
  void reset_peak();
  /// Gives cached memory back, e.g. between stages of different shapes.
  void trim();

 private:
  void work(size_t worker, int threads_per_shard);

  Backend& backend_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const Task* task_ = nullptr;
  int64_t count_ = 0, next_ = 0, running_ = 0, ready_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  int64_t error_index_ = 0;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

/// Sums the shards of one step: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), whoever finishes first. A pair is
/// merged as soon as both halves are there, so that about log2(shards) + workers buffers are alive; the last
/// merge is shared by the team.
class ShardTree {
 public:
  /// `shards` is a power of two (else Failure); element counts of ShardSums' tensors (0: none).
  ShardTree(Backend& backend, DType type, int64_t shards, int64_t gradients, int64_t statistics)
      : backend_(backend),
        type_(accumulator(type)),
        shards_(shards),
        gradients_(gradients),
        statistics_(statistics) {
    TAPER_CHECK(shards > 0 && (shards & (shards - 1)) == 0, "{} shards", shards);
  }
  /// Zeroed buffers for a shard.
  ShardSums make(Stream& stream) const;
  /// Hands in shard `index`; called by the worker that ran it.
  void finish(Stream& stream, int64_t index, ShardSums sums);
  /// The total, once every shard has been handed in.
  ShardSums total(Team& team);

 private:
  void merge(Stream& stream, Tensor& into, const Tensor& from, int64_t begin, int64_t end) const;
  static void merge_reports(ShardSums& into, const ShardSums& from);
  Backend& backend_;
  DType type_;
  int64_t shards_, gradients_, statistics_;
  std::mutex mutex_;
  std::map<std::pair<int64_t, int64_t>, ShardSums> waiting_;  // (level, index at that level)
};

/// Remakes a network's stale derived copies, shared among the workers: call after each update.
void refresh(Team& team, ParameterStore& store);

}  // namespace taper
