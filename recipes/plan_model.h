#pragma once
// How long a training step takes on many ranks, from one rank's times and a latency-bandwidth model of what
// connects them.

#include <cstdint>
#include <string>
#include <vector>

namespace taper {

/// What joins two ranks, or two nodes. A message of n bytes takes latency + n / bandwidth; both directions
/// carry messages at once.
struct Link {
  std::string name;
  double latency;    ///< seconds
  double bandwidth;  ///< bytes a second, in each direction
};

/// A link by its name ("ib400"), or by its figures: "30us:1.2GB/s", as measured. UserError lists the names.
Link parse_link(const std::string& text);
/// Every name with its figures, a line each: what vendors state, which nobody quite reaches.
std::string known_links();

/// Ranks as they are placed: 0 .. per_node - 1 on the first node, and so on; both numbers are powers of two.
struct Cluster {
  int64_t ranks = 1, per_node = 1;
  Link inside;   ///< a link of each rank's own
  Link between;  ///< of a node; its ranks share it
};

/// Seconds of a sum over all ranks, as reduce_scatter and all_gather (autograd/collectives.h) send it: in
/// each of them the k-th message goes to the rank whose number differs in bit k and has bytes / 2^(k + 1).
double all_reduce_seconds(const Cluster& cluster, int64_t bytes);

/// What one rank measures of a training step.
struct StepTimes {
  double round = 0;   ///< seconds in which each of its workers takes one shard forward and back
  double update = 0;  ///< seconds of what does not depend on the number of shards
};

/// Seconds of a step, by what they are spent on.
struct StepPrediction {
  double compute = 0, update = 0;
  double communication = 0;  ///< all of it
  double exposed = 0;        ///< what of it begins or goes on when nothing is left to compute
  double seconds() const { return compute + update + exposed; }
};

/// A step whose `shards` are spread over the ranks, each with `workers`; `bytes` are summed over the ranks in
/// buckets (autograd/buckets.h), equal ones here, which become ready one after the other in the backward pass
/// of the last round: two thirds of it, as its FLOPs are.
StepPrediction predict_step(const Cluster& cluster, const StepTimes& times, int64_t shards, int64_t workers,
                            int64_t bytes);

/// The rounds in which `workers` take `shards`.
int64_t rounds(int64_t shards, int64_t workers);

}  // namespace taper
