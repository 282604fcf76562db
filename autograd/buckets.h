#pragma once
// How a step's gradients travel between ranks: in which order, and which rank keeps what.

#include <cstdint>
#include <vector>

#include "autograd/parameter.h"

namespace taper {

/// Elements [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// What is trained in a store's flat buffer of values, cut at tensors into an order in which backward about
/// finishes it: from the last tensor to the first. A bucket is closed by what is not trained, and where it
/// has reached an eighth of what is trained, or 25 MiB: so there is something to send early, and a large
/// network's messages are as long as they need be.
std::vector<Range> gradient_buckets(const ParameterStore& store);

/// Divides ranges among a power of two of ranks by halving: bit 0 of a rank's number chooses the half of the
/// whole, bit 1 the half of that, and so on.
class Division {
 public:
  /// In the middle, to one element.
  Division() = default;
  /// At that of these elements, which are sorted, or at that end of the range which is nearest to its middle.
  explicit Division(std::vector<int64_t> borders) : borders_(std::move(borders)), anywhere_(false) {}
  /// Where a range is cut into two; one of them may be empty.
  int64_t cut(const Range& range) const;
  /// The half that the rank keeps when it and the rank whose number differs in the bit `distance` halve what
  /// they have in common.
  Range half(const Range& common, int64_t rank, int64_t distance) const;
  /// The rank's own part of the whole.
  Range part(Range whole, int64_t rank, int64_t ranks) const;

 private:
  std::vector<int64_t> borders_;
  bool anywhere_ = true;
};

}  // namespace taper
