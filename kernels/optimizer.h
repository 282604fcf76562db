#pragma once
// Optimizers over flat buffers: all tensors of a network in one call.

#include <cstdint>
#include <span>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// One tensor's place in the flat buffers (elements) and its weight decay.
struct Segment {
  int64_t offset, size;
  double weight_decay = 0;
};

/// torch.optim.SGD's rule: g += weight_decay p; m = momentum m + g; p -= lr (nesterov ? g + momentum m : m).
struct Sgd {
  double lr, momentum = 0;
  bool nesterov = false;
};

/// torch.optim.AdamW's rule (Loshchilov and Hutter, arXiv 1711.05101): decay p by lr weight_decay, then Adam
/// with bias correction.
struct AdamW {
  double lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  int64_t step;  ///< counts from 1
};

/// LAMB (You et al., arXiv 1904.00962, algorithm 2, with bias correction): Adam's direction with decay, u =
/// m' / (sqrt(v') + eps) + weight_decay p, scaled for each segment, which is a layer's tensor, by the trust
/// ratio: p -= lr |p| / |u| u, with L2 norms, and p -= lr u where one of them is 0.
struct Lamb {
  double lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-6;
  int64_t step;  ///< counts from 1
};

class OptimizerKernels {
 public:
  virtual ~OptimizerKernels() = default;
  // The gradient used is gradient * gradient_scale (1 / count, and the clipping factor). Buffers are of
  // `type` f32 (f64 on the reference); only the segments' elements are touched. Elementwise: any partition
  // gives the same bits.
  virtual void sgd(Stream&, std::span<const Segment>, DType type, const Sgd&, double gradient_scale,
                   const void* gradient, void* momentum, void* parameter) = 0;
  virtual void adamw(Stream&, std::span<const Segment>, DType type, const AdamW&, double gradient_scale,
                     const void* gradient, void* first_moment, void* second_moment, void* parameter) = 0;
  /// Its segments are whole tensors: a part would have a ratio of its own. The norms are summed as
  /// sum_of_squares does it; NaN or infinity in a segment's gradient reaches all of its parameters.
  virtual void lamb(Stream&, std::span<const Segment>, DType type, const Lamb&, double gradient_scale,
                    const void* gradient, void* first_moment, void* second_moment, void* parameter) = 0;
  /// squares[i] = the sum of squares of segment i, in f64, on the device: fixed chunks of 4096 elements,
  /// summed in a fixed order. NaN or infinity in a segment makes its sum non-finite, which is how it is
  /// found.
  virtual void sum_of_squares(Stream&, std::span<const Segment>, DType type, const void* x,
                              double* squares) = 0;
};

}  // namespace taper
