#pragma once
// Units of imitation, and the pairs of linear maps between them ("bridges") where the thin and the wide
// network's widths differ (Zhou et al., ICML 2020, section on narrow learning; docs/method.md says what the
// paper leaves open and what is decided here).

#include <cstdint>
#include <string>
#include <vector>

#include "autograd/shards.h"
#include "layers/network.h"

namespace taper {

/// Consecutive blocks that are imitated together: [begin, end).
struct Unit {
  std::string name;  ///< "layer1.0", or "layer1" for a whole ResNet stage
  int64_t begin, end;
};

std::vector<Unit> make_units(const Network& network, bool by_stage);

enum class BridgeKind : uint8_t {
  none,  ///< the widths agree
  tied,  ///< lower = lift^T with orthonormal columns, fixed: the pair is the identity on the thin path and no
         ///< map is ever run
  free,  ///< lift and lower are trained; run as one thin x thin product
};

/// A network cut into units, with the bridges at the units' boundaries. Boundary 0 is the stem's output,
/// boundary u + 1 that of unit u. Bridges live in the network's own store, named bridge.<boundary>.lift and
/// .lower, so that they train and are saved with it.
class BridgedNetwork {
 public:
  /// Without bridges.
  explicit BridgedNetwork(Network& network) : network_(network) {}
  /// Adds bridges to `thin`, whose store is not allocated yet, towards `wide`. UserError, naming the block,
  /// for a free bridge whose reader has an identity shortcut: merging it could not be exact.
  BridgedNetwork(Network& thin, const Network& wide, std::vector<Unit> units, BridgeKind kind);

  Network& network() const { return network_; }
  BridgeKind kind() const { return kind_; }
  const std::vector<Unit>& units() const { return units_; }
  /// The blocks between the stem and a boundary.
  int64_t blocks_below(int64_t boundary) const {
    return boundary == 0 ? 0 : units_[static_cast<size_t>(boundary - 1)].end;
  }
  /// The map [wide, thin] at a boundary; null where the widths agree. Tied: boundaries joined by identity
  /// shortcuts share one.
  Parameter* lift(int64_t boundary) const {
    return lifts_.empty() ? nullptr : lifts_[static_cast<size_t>(boundary)];
  }
  /// The map [thin, wide] that the reader of a free bridge learns; null for tied ones and at the last
  /// boundary, which the head reads.
  Parameter* lower(int64_t boundary) const {
    return lowers_.empty() ? nullptr : lowers_[static_cast<size_t>(boundary)];
  }

  /// The stem's output as unit 0 reads it.
  Var stem(Tape&, const Var& images) const;
  /// What the next unit (or the head) reads, from a boundary's output: the free bridge's product applied.
  Var cross(Tape&, int64_t boundary, const Var& x) const;
  /// The wide network's output at a boundary as the thin one: the h whose lift comes nearest to `wide`, h =
  /// wide lift (lift^T lift)^-1; `wide` itself where the widths agree. No gradient flows through it.
  Tensor project(Tape&, int64_t boundary, const Tensor& wide) const;
  /// Unit u's output from what it reads; without `activated`, before the last activation of its last block.
  Var unit(Tape&, int64_t u, const Var& x, bool activated = true) const;
  /// Logits; bridges in place.
  Var forward(Tape&, const Var& images) const;

 private:
  Network& network_;
  BridgeKind kind_ = BridgeKind::none;
  std::vector<Unit> units_;
  std::vector<Parameter*> lifts_, lowers_;
};

/// The top `thin` eigenvectors, as columns [wide, thin], of the symmetric matrix `covariance` [wide, wide]
/// (row-major): what tied bridges are made of. Each column's largest entry is positive, so the answer is
/// unique. float64; host.
std::vector<double> principal_directions(const std::vector<double>& covariance, int64_t wide, int64_t thin);

/// The product of a [.., inner] and b [inner, ..], row-major; host.
std::vector<double> multiply(const std::vector<double>& a, const std::vector<double>& b, int64_t inner);

/// Copies every tensor of the bridged network into `plain`, the same architecture without bridges,
/// multiplying each free bridge's product (in double) into all parameters that read it: outputs before and
/// after agree to rounding. Tied bridges are left out: the bits stay.
void merge(Team& team, const BridgedNetwork& bridged, Network& plain);

}  // namespace taper
