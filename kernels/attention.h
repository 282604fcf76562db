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

/// Heads over one and the same set of sequences.
struct AttentionHeads {
  int64_t heads, head_size;
  double scale = 1;  ///< of q . k, usually 1 / sqrt(head_size)
};

/// A teacher's and a student's attention to the same packed sequences, whose offsets are as AttentionShape's.
struct AttentionPair {
  int64_t sequences, tokens;
  const int32_t* offsets;
  AttentionHeads teacher, student;  ///< neither numbers nor sizes need agree
  double weight = 1;                ///< of the loss
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
  /// How far a student's attention is from its teacher's, with the complete gradient. For a query, with the
  /// scores S_h = scale q k^T of head h and a_h = softmax(S_h), let P be the mean of a_h over the teacher's
  /// heads and Q that over the student's: before dropout, which is no part of what is compared. Then
  ///   loss = weight sum over queries of sum_k P_k (log P_k - log Q_k),
  ///   dS_h = weight (a_h sum_k P_k r_hk - P_k r_hk) of the student, r_hk = a_hk / sum over heads of a_hk.
  /// A key with P_k = 0 adds nothing to a sum. Logarithms are made of scores: log Q_k = log sum_h exp(S_hk -
  /// logsumexp S_h) - log heads, the largest exponent taken out first, and r is exp of a difference of
  /// logarithms. So no Q_k can underflow, and finite scores have a finite loss, however large they are.
  /// teacher, student: qkv of `type`, laid out as above, of which v is not read. loss: as in
  /// kernels/loss.h. dstudent: laid out as student, zeros for v.
  virtual void attention_divergence(Stream&, const AttentionPair&, DType type, const void* teacher,
                                    const void* student, void* loss, void* dstudent) = 0;
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
