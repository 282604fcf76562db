#pragma once
// Losses, each fused with its complete gradient. A loss is a sum over rows, never a mean: the count travels
// beside it and the optimizer divides once, so uneven batches are exact. `loss` is one scalar of accumulator
// type, written with `=`, summed in an order fixed by the shape.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// Imitation through a bridge (Zhou et al., ICML 2020, leave the form open; docs/method.md gives ours).
struct ImitationShape {
  int64_t rows, wide, thin;
  double scale;  ///< of the squared error, e.g. 1 / (elements of one sample at the wide width)
};

class LossKernels {
 public:
  virtual ~LossKernels() = default;
  /// loss = sum over rows of -sum_c q_c log softmax(logits)_c with q = (1 - smoothing) onehot(label) +
  /// smoothing / classes; dlogits = softmax - q. logits, dlogits: [rows, classes], `type` is f32 or f64.
  /// dlogits may be null or logits.
  virtual void cross_entropy(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                             const int32_t* labels, double smoothing, void* loss, void* dlogits) = 0;
  /// counts[0], counts[1] = the rows whose label is among the 1 and the 5 largest logits (ties: the lower
  /// class first; a row with a NaN counts as wrong). counts: [2].
  virtual void count_correct(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                             const int32_t* labels, int32_t* counts) = 0;
  /// loss = T^2 sum over rows of KL(softmax(teacher / T) || softmax(student / T)); dstudent = T (q - p).
  /// [rows, classes], f32 or f64. dstudent may be null.
  virtual void kl_divergence(Stream&, int64_t rows, int64_t classes, DType type, const void* teacher,
                             const void* student, double temperature, void* loss, void* dstudent) = 0;
  /// loss = scale sum (student - target)^2; dstudent = 2 scale (student - target). `count` elements of
  /// `type`.
  virtual void squared_error(Stream&, int64_t count, DType type, const void* student, const void* target,
                             double scale, void* loss, void* dstudent) = 0;
  /// Tied bridge U [wide, thin] with orthonormal columns, of `type`. loss = scale (|h - tU|^2 + |t|^2 -
  /// |tU|^2) = scale |h U^T - t|^2; dh = 2 scale (h - tU), complete: nothing at the wide width is written. t:
  /// [rows, wide], h, dh: [rows, thin], `type`.
  virtual void imitation(Stream&, const ImitationShape&, DType type, const void* t, const void* u,
                         const void* h, void* loss, void* dh) = 0;
  /// Free bridge: the lift U [wide, thin], any matrix, itself trained. loss = scale |h U^T - t|^2; dh = 2
  /// scale (h (U^T U) - tU); du += 2 scale (U (h^T h) - t^T h), [wide, thin] of accumulator type.
  virtual void imitation_free(Stream&, const ImitationShape&, DType type, const void* t, const void* u,
                              const void* h, void* loss, void* dh, void* du) = 0;
};

}  // namespace taper
