#pragma once
// Sums over ranks in the tree that ShardTree makes over shards: a rank that holds the sum of an aligned run
// of shards is a node of that tree, and the tree goes on over the ranks. So 1, 2, 4 or 8 ranks give the same
// bits.

#include "autograd/shards.h"
#include "runtime/communicator.h"

namespace taper {

// What these issue to the stream comes behind the work issued to it so far; what comes next on it finds the
// results. They return before it is done, where the ranks' devices are connected (NCCL).

/// Adds a range of a tensor (a vector; f32 or bf16, on the device) over all ranks, each of which ends up with
/// one part of the sum in place, by `division`: what it returns. Recursive halving, nearest rank first, the
/// lower rank on the left of each addition: log2(ranks) messages, which cut in the middle are (ranks - 1) /
/// ranks of the range in all, half of it to the nearest rank. The other parts then hold nothing of use.
Range reduce_scatter(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values,
                     const Range& range, const Division& division = {});
/// Gives every rank the parts of the range that each of them has: the same messages mirrored.
void all_gather(Communicator& ranks, Stream& stream, Tensor& values, const Range& range,
                const Division& division = {});
/// Both: the sum of a whole tensor over all ranks, on all of them.
void all_reduce(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values);

/// How sums over ranks are made.
enum class Reduction {
  exact,  ///< in the tree: the bits do not depend on the number of ranks
  fast    ///< by the library that connects the ranks (runtime/library_sum.h), which has one
};

/// Goes on from the sum of a rank's statistics to that over all ranks' shards, reports included.
void all_reduce_statistics(Communicator& ranks, Backend& backend, Stream& stream, ShardSums& sums,
                           Reduction reduction = Reduction::exact);

/// The sums over ranks of a step's gradients, bucket by bucket on the team's communication thread, while
/// other buckets are still being computed. All ranks have the same buckets and send them in their order,
/// whichever is ready first; where a bucket ends changes no bit of an exact sum.
class BucketSums {
 public:
  /// With a `division`, each rank gets its own part of each sum only.
  BucketSums(Communicator& ranks, Team& team, std::vector<Range> buckets,
             std::shared_ptr<const Division> division = nullptr, Reduction reduction = Reduction::exact);
  /// Sums this bucket of `gradients`, in place, once those before it have gone out. Any thread.
  void ready(int64_t bucket, const Tensor& gradients);
  /// Returns when the bucket's sum is there; only when all are ready. Throws what failed. What this rank has
  /// of it: all, or its part.
  Range wait(int64_t bucket);

 private:
  Communicator& ranks_;
  Backend& backend_;
  CommunicationThread& thread_;
  std::vector<Range> buckets_;
  std::shared_ptr<const Division> division_;
  Reduction reduction_;
  std::mutex mutex_;
  std::vector<Tensor> ready_;     // and not sent yet
  std::vector<int64_t> numbers_;  // of the thread's tasks, one for each bucket that was sent
};

/// The shards that a rank computes, of all `shards`: an aligned run. `shards` is a multiple of the ranks.
Range shards_of_rank(const Communicator& ranks, int64_t shards);

}  // namespace taper
