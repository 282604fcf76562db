#pragma once
// Who holds the others up: rank 0's judgement of what the ranks say of themselves.

#include <cstdint>
#include <span>
#include <string>

namespace taper {

/// Seconds by a clock that nobody sets.
double clock_now();

/// In place of a rank that is waited for, in Communicator::note_wait() as well: all others.
inline constexpr int64_t kEveryRank = -2;

/// What a rank said of itself last. Times are seconds by the judge's clock.
struct RankStatus {
  std::string name = {};   ///< "rank 1 (process 4711 on node7)"
  double heard = 0;        ///< when it spoke last
  int64_t waits_for = -1;  ///< the rank that it waits for, or kEveryRank; -1: for none
  double waits_since = 0;
};

/// Empty while all is well. Otherwise a sentence about the rank at fault: one that has not been heard of for
/// `timeout`, else the one at the end of a chain of ranks, the first of which has waited for so long; of
/// those that wait for every rank, the next is one that does not. `place` is where the run is: "stage wide,
/// step 5".
std::string lost_rank(std::span<const RankStatus> ranks, const std::string& place, double now,
                      double timeout);

/// The sentence about a rank whose process is gone.
std::string dead_rank(const RankStatus& rank, const std::string& place);

}  // namespace taper
