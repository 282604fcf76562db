#pragma once
// What the attention kernels share: their arguments, where a block's rows lie in the packed sequences, and
// which probabilities dropout keeps.
//
// Blocks and sequences. A block owns kTile rows (queries, or keys) of one sequence and one head; blockIdx.y
// is the head. Sequence i has ceil(length / kTile) such tiles, and the lengths are on the device. Its tiles
// start at block offsets[i] / kTile + i, which leaves room for all of them: a grid of tokens / kTile +
// sequences blocks fits any lengths, and a block finds its sequence by search. The few blocks to spare return
// at once.
//
//    offsets   0        100    130               kTile = 64
//    blocks    | 0   1  |  2   |   ...           0 / 64 + 0 = 0,  100 / 64 + 1 = 2,  130 / 64 + 2 = 4
//                                                (block 3 has nothing to do)

#include "kernels/attention.h"
#include "kernels/cuda/device.cuh"
#include "runtime/cuda/stream.h"
#include "runtime/philox.h"

namespace taper::cuda {

inline constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
/// A running maximum before anything was seen. Not -infinity: exp2(-infinity - kNoMaximum) is 0, so that
/// scores that are masked, or are -infinity by themselves, need no case of their own.
inline constexpr float kNoMaximum = -3.402823466e38f;
inline constexpr float kMasked = -__builtin_huge_valf();

/// AttentionShape as kernels take it.
struct AttentionView {
  int64_t tokens, heads, head_size;
  int32_t sequences;
  const int32_t* offsets;
  const int64_t* sample_ids;
  float scale;       ///< of q . k
  float scale_log2;  ///< the same for powers of two: scale / ln 2
  bool causal;
  uint32_t threshold;  ///< a probability stays iff its word >> 8 is this at least; 0: no dropout
  float kept;          ///< what it is multiplied by then: 1 / (1 - dropout)
  uint64_t key;

  /// Elements from a token to the next in o and in its gradient; three times that in qkv.
  __device__ int64_t model() const { return heads * head_size; }
  __device__ int64_t head() const { return blockIdx.y; }
  /// Of q, k, v (part 0, 1, 2) of `token` and the block's head, in qkv.
  __device__ int64_t vector(int64_t token, int part) const {
    return (token * 3 + part) * model() + head() * head_size;
  }
  /// Of `token` and the block's head, in logsumexp and in delta, which are [heads, tokens].
  __device__ int64_t statistic(int64_t token) const { return head() * tokens + token; }
  __device__ bool sees(int query, int key_position) const { return !causal || key_position <= query; }
};

/// The rows of one block: positions `first` and on of a sequence.
struct AttentionRows {
  int sequence, first, length;  ///< the sequence's length; nothing to do if first >= length
  int64_t begin;                ///< the sequence's first token
};

/// Where the block's rows are. Whole warps call it: each narrows the sequences 32-fold by one vote.
template <int kTile>
__device__ __forceinline__ AttentionRows locate_rows(const AttentionView& view) {
  const int tile = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % kWarp;
  int low = 0, count = view.sequences;
  while (count > 1) {
    const int step = (count + kWarp - 1) / kWarp, candidate = low + lane * step;
    const bool starts =
        lane * step < count && view.offsets[candidate] / kTile + candidate <= tile;  // lane 0's always does
    const int last = __popc(__ballot_sync(kAllLanes, starts)) - 1;
    low += last * step;
    count = count - last * step < step ? count - last * step : step;
  }
  const int begin = view.offsets[low], length = view.offsets[low + 1] - begin;
  return {low, (tile - begin / kTile - low) * kTile, length, begin};
}

/// Dropout of one sequence and head.
struct AttentionDropout {
  uint32_t threshold, id_low, id_high;
  uint64_t key;

  __device__ AttentionDropout(const AttentionView& view, int sequence)
      : threshold(view.threshold), key(view.key) {
    const int64_t sample = view.sample_ids != nullptr ? view.sample_ids[sequence] : sequence;
    const auto id = static_cast<uint64_t>(sample * view.heads + view.head());
    id_low = static_cast<uint32_t>(id);
    id_high = static_cast<uint32_t>(id >> 32);
  }
  __device__ bool any() const { return threshold > 0; }
  /// Bit i: the probability of (query, 4 group + i) stays.
  __device__ uint32_t kept(int query, int group) const {
    const auto words =
        philox({static_cast<uint32_t>(group), static_cast<uint32_t>(query), id_low, id_high}, key);
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(words[i] >> 8 >= threshold) << i;
    return bits;
  }
};

/// Failure, which names `op`, for what kernels do not take.
AttentionView attention_view(const AttentionShape& shape, const char* op);

/// A grid for tiles of kTile rows.
template <int kTile>
dim3 attention_grid(const AttentionShape& shape);

// The implementations; attention.cu chooses. In bf16 on tensor cores, for heads of 32, 64 and 128 and
// pointers aligned to 16 bytes; and with f32 arithmetic for either type and any head of 256 at most.
void attention_forward_tensor(CudaStream&, const AttentionShape&, const AttentionView&, const Bf16* qkv,
                              Bf16* o, float* logsumexp);
void attention_backward_tensor(CudaStream&, const AttentionShape&, const AttentionView&, const Bf16* d_o,
                               const Bf16* qkv, const float* logsumexp, const float* delta, Bf16* dqkv);
template <typename T>
void attention_forward_plain(CudaStream&, const AttentionShape&, const AttentionView&, const T* qkv, T* o,
                             float* logsumexp);
template <typename T>
void attention_backward_plain(CudaStream&, const AttentionShape&, const AttentionView&, const T* d_o,
                              const T* qkv, const float* logsumexp, const float* delta, T* dqkv);

template <int kTile>
dim3 attention_grid(const AttentionShape& shape) {
  return {static_cast<uint32_t>(shape.tokens / kTile + shape.sequences), static_cast<uint32_t>(shape.heads)};
}

}  // namespace taper::cuda
