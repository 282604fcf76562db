#pragma once
// Matrix products, plain and batched.

#include <cstdint>

#include "kernels/activation.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// out[b] (m x n) from op(a[b]) (m x k) and op(b[b]) (k x n). A transposed operand is stored as its
/// transpose: transpose_b with b stored [n, k] is a linear layer's weight. Each matrix is dense; matrices of
/// a batch lie stride_* elements apart (0: all the same matrix; not for out).
struct MatmulShape {
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
  int64_t batch = 1;
  int64_t stride_a = m * k, stride_b = k * n, stride_out = m * n;
  int64_t flops() const { return 2 * batch * m * n * k; }
};

/// out = activation(scale * product + bias) + residual, or out += scale * product. Absent parts are null.
/// What is stored as pre_activation, and what the residual is added to, may be rounded to out's type in
/// between.
struct MatmulEpilogue {
  double scale = 1;
  const void* bias = nullptr;                ///< [n], accumulator type
  Activation activation = Activation::none;  ///< none, gelu or gelu_tanh
  void* pre_activation =
      nullptr;  ///< as out: stores scale * product + bias, for the backward of the activation
  const void* residual = nullptr;  ///< as out
  bool accumulate = false;         ///< +=; excludes everything but scale
};

class MatmulKernels {
 public:
  virtual ~MatmulKernels() = default;
  /// a and b are of `type`, out of `out_type` (`type` or its accumulator); sums in the accumulator type.
  virtual void matmul(Stream&, const MatmulShape&, DType type, const void* a, const void* b,
                      const MatmulEpilogue&, DType out_type, void* out) = 0;
  /// out[columns] += the sum of x's rows: x is [rows, columns] of `type`, out of accumulator type. The order
  /// of the sum is fixed by `rows` alone.
  virtual void sum_rows(Stream&, int64_t rows, int64_t columns, DType type, const void* x, void* out) = 0;
};

}  // namespace taper
