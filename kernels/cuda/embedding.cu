// Embedding and its gradient (kernels/attention.h has the formulas).
//
// Forward: a thread copies 16 bytes of a row. Backward: the rows are sorted by id, stably, and then each
// entry's rows are added in ascending order, a thread for four features:
//
//   rows         0  1  2  3  4  5           sorted rows   1  4 | 0  3  5 | 2
//   ids          7  2  9  7  2  7           their ids     2  2 | 7  7  7 | 9
//                                           a block for each place where an id begins; the others return
//
// The sort is least-significant-digit radix, 8 bits at a time, as many digits as `entries` needs (2 for a
// vocabulary of 30522), in three launches each: chunks of 1024 rows count their digits; one block turns the
// counts into the places where each digit of each chunk begins; the chunks move their rows there. A row's
// place among equal digits comes from votes of its warp and the counts of the warps before it, never from the
// order in which threads arrive: the same places every time. Scanning all ids for each entry would read rows
// x entries ids: half a billion for 16384 tokens of BERT.

#include <limits>
#include <utility>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kDigits = 256, kDigitBits = 8;
constexpr int kChunk = 1024, kWarpRows = kChunk / kWarps;  // rows of a block, and of a warp

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(int64_t rows, int64_t features, int64_t groups, const int32_t* ids, const T* table, T* y,
                  bool vectors) {
  const int64_t row = thread_number() / groups, first = thread_number() % groups * kWidth;
  if (row >= rows) return;
  T values[kWidth] = {};
  load(values, table + ids[row] * features + first, features - first, vectors);
  store(values, y + row * features + first, features - first, vectors);
}

/// Ids with the rows they come from, to be sorted. Null rows: row i is i.
struct Sorted {
  int32_t* ids;
  int32_t* rows;
};

__device__ __forceinline__ int digit_of(int32_t id, int shift) {
  return static_cast<int>(static_cast<uint32_t>(id) >> shift) % kDigits;
}

/// counts[digit][chunk] = how many ids of the chunk have that digit.
__global__ void __launch_bounds__(kThreads)
    count_kernel(int64_t rows, int shift, const int32_t* ids, int32_t* counts) {
  __shared__ int32_t of_digit[kDigits];
  const int thread = static_cast<int>(threadIdx.x);
  of_digit[thread] = 0;
  __syncthreads();
  for (int i = thread; i < kChunk; i += kThreads)
    if (const int64_t at = int64_t{blockIdx.x} * kChunk + i; at < rows)
      atomicAdd(of_digit + digit_of(ids[at], shift), 1);  // integers: any order gives the same
  __syncthreads();
  counts[int64_t{thread} * gridDim.x + blockIdx.x] = of_digit[thread];
}

/// Each count to the sum of those before it, by one block: a thread for a run of neighbours.
__global__ void __launch_bounds__(kThreads) place_kernel(int64_t count, int32_t* counts) {
  __shared__ int32_t sums[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t each = (count + kThreads - 1) / kThreads;
  const int64_t begin = thread * each, end = begin + each < count ? begin + each : count;
  int32_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += counts[i];
  sums[thread] = sum;
  __syncthreads();
  int32_t place = 0;
  for (int before = 0; before < thread; ++before) place += sums[before];
  for (int64_t i = begin; i < end; ++i) {
    const int32_t here = counts[i];
    counts[i] = place;
    place += here;
  }
}

/// Which lanes have this lane's digit, of those that have one.
__device__ __forceinline__ unsigned lanes_alike(int digit, bool there) {
  unsigned alike = __ballot_sync(kAllLanes, there);
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool mine = (digit >> bit & 1) != 0;
    const unsigned with = __ballot_sync(kAllLanes, mine);
    alike &= mine ? with : ~with;
  }
  return alike;
}

/// Moves a chunk's ids and rows to the places of their digit, in their order.
__global__ void __launch_bounds__(kThreads)
    move_kernel(int64_t rows, int shift, const int32_t* places, const int32_t* ids, const int32_t* row_of,
                Sorted to) {
  // First the counts of each warp's digits, then where the next row of each goes.
  __shared__ int32_t next[kWarps][kDigits];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t warp_first = int64_t{blockIdx.x} * kChunk + warp * kWarpRows;
  for (int i = 0; i < kWarps; ++i) next[i][thread] = 0;
  __syncthreads();
  for (int i = lane; i < kWarpRows; i += kWarp)
    if (warp_first + i < rows) atomicAdd(next[warp] + digit_of(ids[warp_first + i], shift), 1);
  __syncthreads();
  int32_t place = places[int64_t{thread} * gridDim.x + blockIdx.x];
  for (int i = 0; i < kWarps; ++i) {
    const int32_t here = next[i][thread];
    next[i][thread] = place;
    place += here;
  }
  __syncthreads();
  for (int i = lane; i < kWarpRows; i += kWarp) {
    const int64_t at = warp_first + i;
    const bool there = at < rows;
    const int32_t id = there ? ids[at] : 0;
    const int digit = digit_of(id, shift);
    const unsigned alike = lanes_alike(digit, there);
    const int before = __popc(alike & ((1U << lane) - 1));
    const int32_t first = next[warp][digit];
    __syncwarp();  // all have read, before it moves on
    if (there) {
      to.ids[first + before] = id;
      to.rows[first + before] = row_of != nullptr ? row_of[at] : static_cast<int32_t>(at);
      if (before == 0) next[warp][digit] = first + __popc(alike);
    }
    __syncwarp();
  }
}

/// dtable[id] += the rows of each id, in ascending order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(int64_t rows, int64_t features, Sorted sorted, const T* dy, float* dtable, bool vectors) {
  constexpr int kWidth = 4;
  const int64_t first = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kWidth, count = features - first;
  int64_t place = blockIdx.x;
  const int32_t id = sorted.ids[place];
  if (count <= 0 || (place > 0 && sorted.ids[place - 1] == id)) return;
  float sums[kWidth] = {};
  float* to = dtable + id * features + first;
  load(sums, to, count, vectors);
#pragma unroll 4
  for (; place < rows && sorted.ids[place] == id; ++place) {
    T values[kWidth] = {};
    load(values, dy + sorted.rows[place] * features + first, count, vectors);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[i] += to_float(values[i]);
  }
  store(sums, to, count, vectors);
}

/// The rows sorted by id, stably, in scratch memory.
Sorted sort_rows(CudaStream& stream, int64_t rows, int64_t entries, const int32_t* ids) {
  const uint32_t chunks = blocks_for(rows, kChunk);
  const int64_t count = int64_t{chunks} * kDigits;
  auto* memory = static_cast<int32_t*>(stream.scratch((4 * rows + count) * int64_t{sizeof(int32_t)}));
  Sorted to{memory, memory + rows}, spare{memory + 2 * rows, memory + 3 * rows};
  int32_t* counts = memory + 4 * rows;
  const int32_t *from_ids = ids, *from_rows = nullptr;
  for (int shift = 0; shift == 0 || (entries - 1) >> shift > 0; shift += kDigitBits) {
    launch(count_kernel, chunks, kThreads, 0, stream.handle(), rows, shift, from_ids, counts);
    launch(place_kernel, 1, kThreads, 0, stream.handle(), count, counts);
    launch(move_kernel, chunks, kThreads, 0, stream.handle(), rows, shift, counts, from_ids, from_rows, to);
    from_ids = to.ids;
    from_rows = to.rows;
    std::swap(to, spare);
  }
  return spare;
}

}  // namespace

void CudaBackend::embedding_forward(Stream& stream, int64_t rows, int64_t features, DType type,
                                    const int32_t* ids, const void* table, void* y) {
  dispatch(type, "embedding_forward", [&](auto zero) {
    using T = decltype(zero);
    auto start = [&](auto width) {
      constexpr int kWidth = width;
      const int64_t groups = (features + kWidth - 1) / kWidth;
      launch(gather_kernel<T, kWidth>, blocks_for(rows * groups, kThreads), kThreads, 0,
             cuda_stream(stream).handle(), rows, features, groups, ids, static_cast<const T*>(table),
             static_cast<T*>(y), kWidth > 1);
    };
    if (aligned(table, y) && features % kPerVector<T> == 0)
      start(std::integral_constant<int, kPerVector<T>>{});
    else
      start(std::integral_constant<int, 1>{});
  });
}

void CudaBackend::embedding_backward(Stream& stream, int64_t rows, int64_t features, int64_t entries,
                                     DType type, const int32_t* ids, const void* dy, void* dtable) {
  TAPER_CHECK(rows <= std::numeric_limits<int32_t>::max() && entries <= std::numeric_limits<int32_t>::max(),
              "embedding_backward on CUDA of {} rows and {} entries", rows, entries);
  if (rows == 0 || features == 0) return;
  CudaStream& queue = cuda_stream(stream);
  const Sorted sorted = sort_rows(queue, rows, entries, ids);
  dispatch(type, "embedding_backward", [&](auto zero) {
    using T = decltype(zero);
    launch(add_kernel<T>, dim3(static_cast<uint32_t>(rows), blocks_for(features, 4 * kThreads)), kThreads, 0,
           queue.handle(), rows, features, sorted, static_cast<const T*>(dy), static_cast<float*>(dtable),
           aligned(dy, dtable) && features % 4 == 0);
  });
}

}  // namespace taper
