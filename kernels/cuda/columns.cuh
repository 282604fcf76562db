#pragma once
// Walks along [rows, columns] arrays in aligned vectors of at most 16 bytes, and sums down their columns in
// an order that the shape alone decides: within chunks of rows in f32, over chunks in f64.
//
// Rows are taken `fold` at a time as one wide row, the fewest whose width is a multiple of a vector. So each
// vector is aligned and holds the same columns in every wide row, whatever the number of columns, and
// neighbouring threads read neighbouring bytes. The last wide row may be cut short. A block has `across`
// vectors of a wide row, one for each threadIdx.x, and takes `down` wide rows at a time of its chunk:
// blockIdx.x is the chunk, blockIdx.y the tile of vectors.

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

/// Calls use(T{}, width) with the device's type for `type`, and with the elements of T (or of Beside, if
/// those are larger) in 16 bytes where every row of `columns` elements allows such vectors (`all_aligned`: so
/// do the arrays' beginnings), otherwise 1.
template <typename Beside = Bf16, typename Use>
void dispatch_width(DType type, const char* op, int64_t columns, bool all_aligned, Use&& use) {
  dispatch(type, op, [&](auto zero) {
    constexpr int kWidth = kPerVectorOfBoth<decltype(zero), Beside>;
    if (all_aligned && columns % kWidth == 0)
      use(zero, std::integral_constant<int, kWidth>());
    else
      use(zero, std::integral_constant<int, 1>());
  });
}

constexpr int kColumnThreads = 256;

/// `vectors` vectors of a row as tiles of at most 32, of nearly equal size; whole sectors of 32 bytes, if
/// vectors have 8 bytes at least.
struct ColumnTiles {
  explicit ColumnTiles(int64_t vectors) {
    const int64_t fewest = (vectors + kWarp - 1) / kWarp;
    across = static_cast<int>((vectors + fewest - 1) / fewest);
    if (fewest > 1) across = (across + 3) / 4 * 4;
    down = kColumnThreads / across;
    tiles = blocks_for(vectors, across);
  }
  dim3 block() const { return dim3(static_cast<unsigned>(across), static_cast<unsigned>(down)); }
  int across, down;
  uint32_t tiles;
};

/// How an array is walked. Chunks are as many as keep a large GPU busy, of 8 to 128 wide rows a thread.
struct ColumnPlan {
  ColumnPlan(int64_t rows, int64_t columns_, int per_vector) : count(rows * columns_), columns(columns_) {
    const int64_t fold = per_vector / std::gcd(int64_t{per_vector}, columns);
    width = fold * columns;
    wide_rows = (rows + fold - 1) / fold;
    tiling = ColumnTiles(width / per_vector);
    const int64_t wanted = std::max<int64_t>(1, 1024 / tiling.tiles);
    const int64_t steps = (wide_rows + tiling.down * wanted - 1) / (tiling.down * wanted);
    chunk_rows = std::clamp<int64_t>(steps, 8, 128) * tiling.down;
    chunks = blocks_for(wide_rows, chunk_rows);
  }
  dim3 grid() const { return dim3(chunks, tiling.tiles); }
  dim3 block() const { return tiling.block(); }
  /// Scratch for `sums` sums of each chunk.
  int64_t bytes(int sums) const { return chunks * sums * width * int64_t{sizeof(float)}; }

  int64_t count, columns;    ///< elements in all, and of a row
  int64_t width, wide_rows;  ///< elements of a wide row, and how many there are
  int64_t chunk_rows;
  uint32_t chunks = 0;
  ColumnTiles tiling{1};
};

/// The first element of this thread's vector in a wide row; >= plan.width where it has none.
template <int kWidth>
__device__ __forceinline__ int64_t own_vector(const ColumnPlan& plan) {
  return (int64_t{blockIdx.y} * plan.tiling.across + threadIdx.x) * kWidth;
}

/// values[i] = from[column of the i-th element of this thread's vector].
template <int kWidth, typename T>
__device__ __forceinline__ void load_columns(float (&values)[kWidth], const T* from, const ColumnPlan& plan) {
  int64_t column = own_vector<kWidth>(plan) % plan.columns;
  if (plan.columns % kWidth == 0 && reinterpret_cast<uintptr_t>(from) % sizeof(Pack<T, kWidth>) == 0) {
    T found[kWidth];
    load(found, from + column, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = to_float(found[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    values[i] = to_float(from[column]);
    if (++column == plan.columns) column = 0;
  }
}

/// visit(first, left) for this thread's vector in each wide row of the chunk: its first element, and how many
/// elements the array has from there on, none or fewer too (its type tells where vectors are whole).
/// `vectors`: the arrays are aligned to 16 bytes.
template <int kWidth, typename Visit>
__device__ __forceinline__ void for_rows(const ColumnPlan& plan, int64_t chunk, bool vectors, Visit visit) {
  const int64_t own = own_vector<kWidth>(plan);
  if (own >= plan.width) return;
  const int64_t begin = chunk * plan.chunk_rows, end = min(plan.wide_rows, begin + plan.chunk_rows);
  if (vectors && end * plan.width <= plan.count) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y)
      visit(row * plan.width + own, std::integral_constant<int, kWidth>());
  } else {
    for (int64_t row = begin + threadIdx.y; row < end; row += blockDim.y)
      visit(row * plan.width + own, plan.count - (row * plan.width + own));
  }
}

/// sums[i] of all threads with the same threadIdx.x, in those with threadIdx.y = 0: halves added pairwise.
/// All threads of the block call it, and at most once in a kernel.
template <int kValues>
__device__ __forceinline__ void sum_down(float (&sums)[kValues]) {
  __shared__ float of_thread[kValues][kColumnThreads];
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kValues; ++i) of_thread[i][thread] = sums[i];
  for (unsigned rows = blockDim.y; rows > 1;) {
    const unsigned half = (rows + 1) / 2;
    __syncthreads();
    if (threadIdx.y < rows / 2) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        sums[i] += of_thread[i][thread + half * blockDim.x];
        of_thread[i][thread] = sums[i];
      }
    }
    rows = half;
  }
}

/// partial[chunk][s][element of a wide row] = kSums sums down the chunk; add(first, left, sums) adds one
/// vector to sums[s * kWidth + i].
template <int kWidth, int kSums, typename Add>
__device__ __forceinline__ void sum_chunk(const ColumnPlan& plan, bool vectors, float* partial, Add add) {
  float sums[kSums * kWidth] = {};
  for_rows<kWidth>(plan, blockIdx.x, vectors, [&](int64_t first, auto left) { add(first, left, sums); });
  sum_down(sums);
  const int64_t own = own_vector<kWidth>(plan);
  if (threadIdx.y > 0 || own >= plan.width) return;
  for (int s = 0; s < kSums; ++s) {
    float part[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) part[i] = sums[s * kWidth + i];
    store(part, partial + (blockIdx.x * int64_t{kSums} + s) * plan.width + own, kWidth, true);
  }
}

constexpr int kTotalSlices = 16, kTotalThreads = kWarp * kTotalSlices;
inline dim3 total_block() { return dim3(kWarp, kTotalSlices); }
inline uint32_t total_blocks(int64_t columns) { return blocks_for(columns, kWarp); }

/// The column of which a thread of total_block() adds up the chunks.
__device__ __forceinline__ int64_t total_column() { return int64_t{blockIdx.x} * kWarp + threadIdx.x; }

/// totals[s] of partial[chunks][kSums][width], in f64: over the chunks, and over the elements of a wide row
/// that belong to total_column(). Every 16th chunk has the same threadIdx.y; those are added in order. The
/// threads with threadIdx.y = 0 have the result; all call it, and at most once in a kernel.
template <int kSums>
__device__ __forceinline__ void total_chunks(double (&totals)[kSums], const float* partial, int64_t chunks,
                                             int64_t width, int64_t columns) {
  __shared__ double of_slice[kSums][kTotalSlices][kWarp];
  const int64_t column = total_column();
  double sums[kSums] = {};
  if (column < columns) {
    for (int64_t chunk = threadIdx.y; chunk < chunks; chunk += kTotalSlices)
      for (int64_t at = column; at < width; at += columns)
#pragma unroll
        for (int s = 0; s < kSums; ++s)
          sums[s] += static_cast<double>(partial[(chunk * kSums + s) * width + at]);
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) of_slice[s][threadIdx.y][threadIdx.x] = sums[s];
  __syncthreads();
  if (threadIdx.y > 0) return;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    totals[s] = 0;
    for (int slice = 0; slice < kTotalSlices; ++slice) totals[s] += of_slice[s][slice][threadIdx.x];
  }
}

}  // namespace taper::cuda
