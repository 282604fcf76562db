#pragma once
// Two-dimensional convolution (cross-correlation, as the field calls it), NHWC activations and KRSC filters.

#include <cstdint>
#include <string>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// Extents of one convolution. x is [n, h, w, c], the filter [k, r, s, c / groups], y [n, out_h, out_w, k].
struct ConvShape {
  int64_t n, h, w, c;
  int64_t k, r, s;
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;

  int64_t out_h() const { return (h + 2 * padding - dilation * (r - 1) - 1) / stride + 1; }
  int64_t out_w() const { return (w + 2 * padding - dilation * (s - 1) - 1) / stride + 1; }
  int64_t filter_size() const { return k * r * s * (c / groups); }
  /// Multiply-adds of one pass, times two.
  int64_t flops() const { return 2 * n * out_h() * out_w() * filter_size(); }
  bool operator==(const ConvShape&) const = default;
};

/// Throws Failure that names the first impossible extent: nothing positive, groups that do not divide c and
/// k, or a filter that is larger than the padded image.
void check(const ConvShape& shape);

/// Which pass reads the filter: a backend may lay it out differently for each.
enum class ConvPass : uint8_t { forward, backward_data };

/// A backend's private layout of a filter. Equal keys mean that a filter packed for one shape serves the
/// other.
struct FilterFormat {
  std::string key;
  int64_t bytes;
};

/// What forward adds before storing: y = relu(conv + bias + add). Any may be absent.
struct ConvEpilogue {
  const void* bias = nullptr;  ///< [k], accumulator type
  const void* add = nullptr;   ///< as y
  bool relu = false;
};

/// In bf16, and on the cpu backend without AVX-512 in f32 too, a NaN or infinity may also reach outputs that
/// do not depend on it: a kernel that fills its blocks up multiplies neighbours by zero.
class ConvKernels {
 public:
  virtual ~ConvKernels() = default;
  virtual FilterFormat filter_format(Stream&, const ConvShape&, DType, ConvPass) = 0;
  /// packed = the KRSC filter of accumulator type, rounded to `type` and laid out for the pass.
  virtual void pack_filter(Stream&, const ConvShape&, DType type, ConvPass, const void* filter,
                           void* packed) = 0;
  /// y = epilogue(conv(x, filter)); sums in the accumulator type.
  virtual void conv_forward(Stream&, const ConvShape&, DType type, const void* x, const void* packed,
                            const ConvEpilogue&, void* y) = 0;
  /// dx = the gradient of x. `packed` is for ConvPass::backward_data.
  virtual void conv_backward_data(Stream&, const ConvShape&, DType type, const void* dy, const void* packed,
                                  void* dx) = 0;
  /// dfilter += the gradient of the filter: KRSC, accumulator type.
  virtual void conv_backward_filter(Stream&, const ConvShape&, DType type, const void* x, const void* dy,
                                    void* dfilter) = 0;
};

}  // namespace taper
