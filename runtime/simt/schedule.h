#pragma once
// The random choices of a schedule.

#include <cstdint>

#include "runtime/simt/simt.h"

namespace taper::simt {

/// A generator for choices that no result may depend on: SplitMix64 (Steele, Lea, Flood 2014).
class Choices {
 public:
  explicit Choices(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t mixed = state_ += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return mixed ^ mixed >> 31;
  }
  /// Below `bound`; the slight bias does not matter here.
  uint64_t below(uint64_t bound) { return bits() % bound; }
  bool one_in(uint64_t chances) { return below(chances) == 0; }

 private:
  uint64_t state_;
};

}  // namespace taper::simt
