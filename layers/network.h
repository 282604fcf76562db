#pragma once
// A model as the recipe sees it: stem, blocks, head. Widening, imitation, freezing, bridging and merging are
// written once, on this.

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "autograd/parameter.h"

namespace taper {

/// One block of a network.
struct Block {
  std::string name;  ///< "layer1.0": the prefix of its parameters' names
  int64_t stage;     ///< the ResNet stage it belongs to, from 0
  int64_t width;     ///< channels of its output
  bool identity;     ///< its input reaches its output unchanged (an identity shortcut)
  std::vector<Parameter*>
      readers;  ///< the parameters that multiply its input: [k, r, s, c] filters or [out, in] matrices
};

/// What one forward pass of one sample costs. FLOPs are 2 per multiply-add of convolutions and matrix
/// products, as in the papers' tables doubled; a training step costs three times that.
struct Cost {
  int64_t parameters = 0, flops = 0;
  int64_t activation_elements = 0;  ///< kept by a training step for its backward
};

inline Cost operator+(const Cost& a, const Cost& b) {
  return {a.parameters + b.parameters, a.flops + b.flops, a.activation_elements + b.activation_elements};
}

/// Of all parts together.
inline Cost total(const std::vector<Cost>& parts) {
  return std::accumulate(parts.begin(), parts.end(), Cost{});
}

/// The size of what a network reads: an image's height and width, or 1 and the tokens of a sequence.
struct Extent {
  int64_t height, width;
};

class Network {
 public:
  virtual ~Network() = default;
  ParameterStore& store() { return store_; }
  const ParameterStore& store() const { return store_; }
  const std::vector<Block>& blocks() const { return blocks_; }

  /// input: images [n, h, w, channels], or words, positions and types (layers/bert.h) -> the first block's
  /// input, of width stem_width(). Without `activated`,
  /// before the stem's activation (and the pooling after it), where imitation compares; stem_activation()
  /// does the rest.
  virtual Var stem(Tape&, const Var& input, bool activated = true) const = 0;
  virtual Var stem_activation(Tape&, const Var& x) const = 0;
  virtual int64_t stem_width() const = 0;
  /// The output of block i; without `activated`, before its last activation (where imitation compares).
  virtual Var block(Tape&, int64_t i, const Var& x, bool activated = true) const = 0;
  /// What turns block i's output without activation into its output.
  virtual Var activation(Tape&, const Var& x) const = 0;
  /// Logits [n, classes], accumulator type.
  virtual Var head(Tape&, const Var& x) const = 0;
  /// The parameters that multiply the last block's output.
  virtual std::vector<Parameter*> head_readers() const = 0;
  /// Of one sample: the stem's, each block's, the head's.
  virtual std::vector<Cost> costs(Extent) const = 0;
  Cost cost(Extent extent) const { return total(costs(extent)); }
  /// Pixels of one image, or tokens, behind the stem and the first `blocks` blocks; of the stem's output also
  /// without `activated`, as in stem().
  virtual int64_t positions(Extent, int64_t blocks, bool activated) const = 0;
  /// The prefixes of the head's parameters: "fc".
  virtual std::vector<std::string> head_parts() const = 0;
  /// Every batch norm, in the order of execution: whose statistics move, and by which momentum.
  const std::vector<BatchNorm>& norms() const { return norms_; }

  /// stem, blocks and head.
  Var forward(Tape& tape, const Var& input) const {
    Var x = stem(tape, input);
    for (size_t i = 0; i < blocks_.size(); ++i) x = block(tape, static_cast<int64_t>(i), x);
    return head(tape, x);
  }

 protected:
  ParameterStore store_;
  std::vector<Block> blocks_;
  std::vector<BatchNorm> norms_;
};

}  // namespace taper
