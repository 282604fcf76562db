#pragma once
// Shards and workers. A batch is cut into a fixed number of shards; a worker runs whole shards, each through
// its own tape; what shards add up is summed in a fixed binary tree. The number of workers is the machine's
// business: it changes no bit.
//
// Of several ranks, the gradients go through the tree bucket by bucket, so that those of the last layers,
// which backward finishes first, can be summed over the ranks while it goes on.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "autograd/buckets.h"
#include "autograd/communication_thread.h"
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
  /// The thread that communicates while the workers compute; made when first asked for.
  CommunicationThread& communication();
  /// Over all workers' streams; without what graphs hold.
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
  std::unique_ptr<CommunicationThread> communication_;
  std::vector<std::thread> threads_;  // last: they use all of the above
};

/// Sums the shards of one step: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), whoever finishes first. A pair is
/// merged as soon as both halves are there, so that about log2(shards) + workers buffers are alive; the last
/// merge is shared by the team. With buckets, each goes through the tree by itself, to the same sums.
class ShardTree {
 public:
  /// What to do with a bucket of the gradients whose sum over all shards is there, at its place in a buffer
  /// of all of them; called by the worker that made the last addition.
  using BucketDone = std::function<void(int64_t bucket, const Tensor& gradients)>;
  /// `shards` is a power of two (else Failure); element counts of ShardSums' tensors (0: none). With
  /// `buckets`, nothing else of the gradients is summed.
  ShardTree(Backend& backend, DType type, int64_t shards, int64_t gradients, int64_t statistics,
            std::vector<Range> buckets = {}, BucketDone done = {});
  /// Zeroed buffers for a shard.
  ShardSums make(Stream& stream) const;
  /// Hands in a bucket of shard `index`, to which nothing will be added any more; called by the worker that
  /// runs it, once for each bucket, before finish().
  void finish_bucket(Stream& stream, int64_t index, const ShardSums& sums, int64_t bucket);
  /// Hands in shard `index`; called by the worker that ran it.
  void finish(Stream& stream, int64_t index, ShardSums sums);
  /// The total, once every shard has been handed in.
  ShardSums total(Team& team);

 private:
  using Place = std::pair<int64_t, int64_t>;  // (level, index at that level)
  void merge(Stream& stream, Tensor& into, const Tensor& from, int64_t begin, int64_t end) const;
  static void merge_reports(ShardSums& into, const ShardSums& from);
  Backend& backend_;
  DType type_;
  int64_t shards_, gradients_, statistics_;
  std::vector<Range> buckets_;
  BucketDone done_;
  std::mutex mutex_;
  std::map<Place, ShardSums> waiting_;
  std::vector<std::map<Place, Tensor>> waiting_buckets_;  // all gradients, of which one bucket waits
  Tensor summed_;                                         // where the buckets' sums lie
};

/// Remakes a network's stale derived copies, shared among the workers: call after each update.
void refresh(Team& team, ParameterStore& store);

}  // namespace taper
