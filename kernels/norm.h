#pragma once
// Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) fused with the residual addition and the relu
// that follow it, and layer normalisation (Ba et al., arXiv 1607.06450) fused with the residual addition
// before it.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// x is [rows, channels]: an NHWC activation has n * h * w rows.
struct BatchNormShape {
  int64_t rows, channels;
  bool relu = false;
};

class NormKernels {
 public:
  virtual ~NormKernels() = default;
  /// y = relu(gamma (x - mean) rstd + beta + residual) with the batch's own statistics; residual may be null,
  /// relu as the shape says (NaN stays NaN). x, residual, y: `type`, and y may be x or residual; gamma, beta,
  /// and the outputs mean, rstd = 1 / sqrt(biased variance + eps), variance (unbiased, for running
  /// statistics): [channels], accumulator type. Sums are taken about a pivot, so that a large mean costs no
  /// precision. Fewer than 2 rows: Failure.
  virtual void batch_norm_forward(Stream&, const BatchNormShape&, DType type, const void* x,
                                  const void* gamma, const void* beta, const void* residual, double eps,
                                  void* y, void* mean, void* rstd, void* variance) = 0;
  /// Given g = dy where y > 0 (or dy, without relu): dresidual = g; dgamma += sum g (x - mean) rstd; dbeta +=
  /// sum g; dx = gamma rstd (g - mean of g - xhat mean of (g xhat)), or dx = gamma rstd g with
  /// `fixed_statistics` (evaluation mode). y may be null without relu, dresidual where nobody needs it; dx
  /// may be dy, dresidual may not.
  virtual void batch_norm_backward(Stream&, const BatchNormShape&, DType type, const void* dy, const void* x,
                                   const void* y, const void* gamma, const void* mean, const void* rstd,
                                   bool fixed_statistics, void* dx, void* dresidual, void* dgamma,
                                   void* dbeta) = 0;
  /// y = relu(x scale + shift + residual): evaluation mode with scale = gamma rstd and shift = beta - mean
  /// scale.
  virtual void batch_norm_inference(Stream&, const BatchNormShape&, DType type, const void* x,
                                    const void* scale, const void* shift, const void* residual, void* y) = 0;
  /// sum = x + residual (residual may be null: then sum = x and need not be stored, sum null);
  /// y = gamma (sum - mean) rstd + beta per row of [rows, features]. mean, rstd: [rows], accumulator type.
  virtual void layer_norm_forward(Stream&, int64_t rows, int64_t features, DType type, const void* x,
                                  const void* residual, const void* gamma, const void* beta, double eps,
                                  void* sum, void* y, void* mean, void* rstd) = 0;
  /// dx = the gradient of `sum` (hence of x and of residual); dgamma, dbeta += in an order fixed by the
  /// shape.
  virtual void layer_norm_backward(Stream&, int64_t rows, int64_t features, DType type, const void* dy,
                                   const void* sum, const void* gamma, const void* mean, const void* rstd,
                                   void* dx, void* dgamma, void* dbeta) = 0;
};

}  // namespace taper
