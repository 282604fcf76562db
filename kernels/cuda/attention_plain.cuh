#pragma once
// Tiles of f32 in shared memory for attention in f32 arithmetic: how they lie, how they are filled, and the
// two products made of them. For f32, and for bf16 heads that tensor cores do not take.
//
// 256 threads, 16 x 16 of them: thread (y, x) has rows R y .. R y + R - 1 of the block's own tile, and of a
// product with a streamed tile the columns R x .. R x + R - 1; of a product over the streamed rows it has
// every 16th group of W neighbouring elements of the head. Both tiles have 16 R rows, padded with zeros to
// kHead elements.
//
//                 streamed rows                      the head
//                 x = 0   1   ...  15                x = 0    1  ...  15   0    1  ...
//               +-----+-----+---+-----+            +-------+----+---+----+----+----+---
//         y = 0 | RxR |     |   |     |      y = 0 | R x W |    |   |    |    |    |
//           1   |     |     |   |     |        1   |       |    |   |    |    |    |
//
// A row is cut into chunks of 4 elements, and chunk c of row r lies where chunk c ^ (r / R % 8) would: the
// rows that eight neighbouring threads read at once, R apart, have it in different banks. Rows of weights are
// written and read by the same half warp, so that they need no barrier of the block.

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"

namespace taper::cuda {

inline constexpr int kPlainThreads = 256;
/// Of a head that is padded to kHead, this thread's elements, W neighbours each.
template <int kHead>
inline constexpr int kWidth = kHead / 16 < 4 ? kHead / 16 : 4;
template <int kHead>
inline constexpr int kGroups = kHead / 16 / kWidth<kHead>;
/// This thread's sums over the head.
template <int kHead, int R>
using PlainSums = float[R][kGroups<kHead>][kWidth<kHead>];

__device__ __forceinline__ int thread_x() { return static_cast<int>(threadIdx.x) % 16; }
__device__ __forceinline__ int thread_y() { return static_cast<int>(threadIdx.x) / 16; }

/// Combines the values of the 16 threads of a row.
template <typename Op>
__device__ __forceinline__ float row_reduce(float value, Op op) {
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

template <int kHead, int R>
__device__ __forceinline__ int element_at(int row, int element) {
  return row * kHead + (element / 4 ^ row / R % 8) * 4 + element % 4;
}

/// Copies 16 R rows of `head_size` elements, `stride` elements apart, of which `count` are there; zeros
/// around.
template <int kHead, int R, typename T>
__device__ __forceinline__ void load_tile(float* tile, const T* from, int64_t stride, int count,
                                          int64_t head_size) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < 16 * R * kHead; i += kPlainThreads) {
    const int row = i / kHead, element = i % kHead;
    const bool there = row < count && element < head_size;
    tile[element_at<kHead, R>(row, element)] = there ? to_float(from[row * stride + element]) : 0.0f;
  }
}

/// out = own streamed^T, for this thread's rows and columns.
template <int kHead, int R>
__device__ __forceinline__ void multiply_rows(float (&out)[R][R], const float* own, const float* streamed) {
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int j = 0; j < R; ++j) out[i][j] = 0;
#pragma unroll 2
  for (int chunk = 0; chunk < kHead / 4; ++chunk) {
    Pack<float, 4> a[R], b[R];
#pragma unroll
    for (int i = 0; i < R; ++i) {
      a[i] =
          *reinterpret_cast<const Pack<float, 4>*>(own + element_at<kHead, R>(R * thread_y() + i, chunk * 4));
      b[i] = *reinterpret_cast<const Pack<float, 4>*>(streamed +
                                                      element_at<kHead, R>(R * thread_x() + i, chunk * 4));
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[i][j] += a[i].values[e] * b[j].values[e];
  }
}

/// sums += weights streamed: the weights are this thread's R x R of a tile of 16 R x 16 R, which its half
/// warp shares through `scratch`.
template <int kHead, int R>
__device__ __forceinline__ void multiply_weights(PlainSums<kHead, R>& sums, const float (&weights)[R][R],
                                                 float* scratch, const float* streamed) {
  constexpr int W = kWidth<kHead>;
  __syncwarp();  // what an earlier product reads there
#pragma unroll
  for (int i = 0; i < R; ++i) {
    Pack<float, R> row;
#pragma unroll
    for (int j = 0; j < R; ++j) row.values[j] = weights[i][j];
    *reinterpret_cast<Pack<float, R>*>(scratch + (R * thread_y() + i) * 16 * R + R * thread_x()) = row;
  }
  __syncwarp();
#pragma unroll 2
  for (int k = 0; k < 16 * R; k += 4) {
    Pack<float, 4> a[R];
#pragma unroll
    for (int i = 0; i < R; ++i)
      a[i] = *reinterpret_cast<const Pack<float, 4>*>(scratch + (R * thread_y() + i) * 16 * R + k);
#pragma unroll
    for (int e = 0; e < 4; ++e)
#pragma unroll
      for (int group = 0; group < kGroups<kHead>; ++group) {
        const auto b = *reinterpret_cast<const Pack<float, W>*>(
            streamed + element_at<kHead, R>(k + e, (thread_x() + 16 * group) * W));
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
          for (int w = 0; w < W; ++w) sums[i][group][w] += a[i].values[e] * b.values[w];
      }
  }
}

/// Writes this thread's part of the rows `stride` elements apart, of which `count` are there, times factors.
template <int kHead, int R, typename T>
__device__ __forceinline__ void store_rows(const PlainSums<kHead, R>& sums, const float (&factors)[R], T* to,
                                           int64_t stride, int count, int64_t head_size, bool vectors) {
  constexpr int W = kWidth<kHead>;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    const int row = R * thread_y() + i;
    if (row >= count) return;
#pragma unroll
    for (int group = 0; group < kGroups<kHead>; ++group) {
      const int first = (thread_x() + 16 * group) * W;
      T values[W];
#pragma unroll
      for (int w = 0; w < W; ++w) values[w] = convert<T>(sums[i][group][w] * factors[i]);
      store(values, to + row * stride + first, head_size - first, vectors);
    }
  }
}

/// Calls use(head) with the padded head size, as a std::integral_constant, that holds `head_size`.
template <typename Use>
void with_padded_head(int64_t head_size, Use&& use) {
  if (head_size <= 32) return use(std::integral_constant<int, 32>{});
  if (head_size <= 64) return use(std::integral_constant<int, 64>{});
  if (head_size <= 128) return use(std::integral_constant<int, 128>{});
  return use(std::integral_constant<int, 256>{});
}

}  // namespace taper::cuda
