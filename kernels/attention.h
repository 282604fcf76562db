#pragma once
// Softmax, and scaled dot-product attention (Vaswani et al., arXiv 1706.03762) over packed sequences,
// blockwise with an online softmax (Dao et al., "FlashAttention", arXiv 2205.14135): no T x T matrix in
// memory.

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

/// Sequence i holds tokens offsets[i] .. offsets[i + 1] - 1 of the packed [tokens, ...] arrays: no padding
/// anywhere. Dropout: the probability of (sequence i, head, query q, key k), positions within the sequence,
/// is kept iff uniform(philox({k / 4, q, low word of id, high word of id}, key)[k % 4]) >= p with id =
/// sample_ids[i] * heads + head (sample_ids null: i), and divided by 1 - p.
struct AttentionShape {
  int64_t sequences, tokens, heads, head_size;
  const int32_t* offsets;               ///< [sequences + 1] on the device, offsets[0] = 0, the last = tokens
  const int64_t* sample_ids = nullptr;  ///< [sequences] on the device
  double scale = 1;                     ///< of q . k, usually 1 / sqrt(head_size)
  bool causal = false;                  ///< query q sees keys 0 .. q only; a NaN may reach more
  double dropout = 0;
  uint64_t key = 0;
};

class AttentionKernels {
 public:
  virtual ~AttentionKernels() = default;
  /// o = dropout(softmax(scale q k^T)) v. qkv is [tokens, 3, heads, head_size] (q, k, v in this order), o is
  /// [tokens, heads, head_size], both `type`; logsumexp [heads, tokens], accumulator type, is kept for the
  /// backward. A row of scores that is -inf throughout cannot occur: every query sees itself.
  virtual void attention_forward(Stream&, const AttentionShape&, DType type, const void* qkv, void* o,
                                 void* logsumexp) = 0;
  /// dqkv = the gradient of qkv, laid out as qkv.
  virtual void attention_backward(Stream&, const AttentionShape&, DType type, const void* d_o,
                                  const void* qkv, const void* o, const void* logsumexp, void* dqkv) = 0;
  /// y = softmax of each row of [rows, columns], or its logarithm; in and out `type`. +inf in a row gives
  /// NaN.
  virtual void softmax(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm, const void* x,
                       void* y) = 0;
  /// dx from dy and y, for softmax: y (dy - sum dy y); for its logarithm: dy - exp(y) sum dy.
  virtual void softmax_backward(Stream&, int64_t rows, int64_t columns, DType type, bool logarithm,
                                const void* dy, const void* y, void* dx) = 0;
  /// y[r] = table[ids[r]]: table is [entries, features] of `type`. Ids must lie in range (checked by who
  /// reads data).
  virtual void embedding_forward(Stream&, int64_t rows, int64_t features, DType type, const int32_t* ids,
                                 const void* table, void* y) = 0;
  /// dtable[ids[r]] += dy[r], rows in ascending order for each entry; dtable [entries, features], accumulator
  /// type.
  virtual void embedding_backward(Stream&, int64_t rows, int64_t features, int64_t entries, DType type,
                                  const int32_t* ids, const void* dy, void* dtable) = 0;
};

}  // namespace taper
