#pragma once
// Elementwise functions with a gradient, dropout, and the plain elementwise operations.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// relu(x) = max(x, 0), NaN stays NaN; gelu(x) = x Phi(x) by erf; gelu_tanh is its tanh approximation
/// (Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415).
enum class Activation : uint8_t { none, relu, tanh, gelu, gelu_tanh };

class ElementwiseKernels {
 public:
  virtual ~ElementwiseKernels() = default;
  /// y = f(x); y may be x. `count` elements of `type`.
  virtual void activate(Stream&, Activation f, int64_t count, DType type, const void* x, void* y) = 0;
  /// dx = dy f'. `saved` is y for relu and tanh, x for gelu and gelu_tanh. For relu dx = dy where y > 0, else
  /// 0, whatever dy is there. dx may be dy.
  virtual void activate_backward(Stream&, Activation f, int64_t count, DType type, const void* dy,
                                 const void* saved, void* dx) = 0;
  /// y = a + b; y may be a or b.
  virtual void add(Stream&, int64_t count, DType type, const void* a, const void* b, void* y) = 0;
  /// y = alpha x + beta y, elements of f32 (f64 on the reference): running statistics and averages of
  /// weights.
  virtual void axpby(Stream&, int64_t count, DType type, double alpha, const void* x, double beta,
                     void* y) = 0;
  /// to = from, rounded to nearest even. Between f32, bf16 and f64 (from f64 to bf16 by way of f32), on the
  /// reference too.
  virtual void cast(Stream&, int64_t count, DType from_type, const void* from, DType to_type, void* to) = 0;
  /// y[b, j, i] = x[b, i, j]: x is [batch, rows, columns]; y must not be x.
  virtual void transpose(Stream&, int64_t batch, int64_t rows, int64_t columns, DType type, const void* x,
                         void* y) = 0;
  /// y = x / (1 - p) where kept, else 0; y may be x. x is [rows, features]. Element (r, f) is kept iff
  /// uniform(philox({f / 4, low word of id, high word of id, 0}, key)[f % 4]) >= p, where id = row_ids[r], or
  /// r when row_ids is null: name a row by sample and position, never by where packing put it. Its own
  /// backward: pass dy.
  virtual void dropout(Stream&, int64_t rows, int64_t features, DType type, double p, uint64_t key,
                       const int64_t* row_ids, const void* x, void* y) = 0;
};

}  // namespace taper
