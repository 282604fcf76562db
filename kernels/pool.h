#pragma once
// Pooling over NHWC activations.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// x is [n, h, w, c]; windows of size x size; padding counts as -inf for the maximum.
struct PoolShape {
  int64_t n, h, w, c;
  int64_t size, stride, padding;
  int64_t out_h() const { return (h + 2 * padding - size) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - size) / stride + 1; }
};

class PoolKernels {
 public:
  virtual ~PoolKernels() = default;
  /// y = the maximum of each window, NaN if it holds one; winner = its place r * size + s in the window (the
  /// first among equals or among NaNs, never one in the padding), one byte: size <= 15, padding <= size / 2.
  virtual void max_pool_forward(Stream&, const PoolShape&, DType type, const void* x, void* y,
                                uint8_t* winner) = 0;
  /// dx = the sum of dy over the windows that each element won, windows in ascending order.
  virtual void max_pool_backward(Stream&, const PoolShape&, DType type, const void* dy, const uint8_t* winner,
                                 void* dx) = 0;
  /// y[n, c] = the mean of x[n, :, c]: x is [n, pixels, c].
  virtual void average_pool_forward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type, const void* x,
                                    void* y) = 0;
  /// dx[n, p, c] = dy[n, c] / pixels.
  virtual void average_pool_backward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type,
                                     const void* dy, void* dx) = 0;
};

}  // namespace taper
