#pragma once
// Sums over ranks in the tree that ShardTree makes over shards: a rank that holds the sum of an aligned run
// of shards is a node of that tree, and the tree goes on over the ranks. So 1, 2, 4 or 8 ranks give the same
// bits.

#include "autograd/shards.h"
#include "runtime/communicator.h"

namespace taper {

/// Elements [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
};

/// Adds a tensor (a vector; f32 or bf16, on the device) over all ranks, each of which ends up with one part
/// of the sum in place: what it returns. Recursive halving, nearest rank first, the lower rank on the left of
/// each addition: log2(ranks) messages, of (ranks - 1) / ranks of the tensor in all, half of it to the
/// nearest rank. The other parts then hold nothing of use.
Range reduce_scatter(Communicator& ranks, Team& team, Tensor& values);
/// Gives every rank the parts that reduce_scatter left on each: the same messages mirrored.
void all_gather(Communicator& ranks, Team& team, Tensor& values);
/// Both: the sum over all ranks, on all of them.
void all_reduce(Communicator& ranks, Team& team, Tensor& values);

/// Goes on from the sum over a rank's shards to that over all ranks' shards, reports included.
void all_reduce(Communicator& ranks, Team& team, ShardSums& sums);

/// The shards that a rank computes, of all `shards`: an aligned run. `shards` is a multiple of the ranks.
Range shards_of_rank(const Communicator& ranks, int64_t shards);

}  // namespace taper
