#pragma once
// Segments of flat buffers (kernels/optimizer.h) for kernels that take all of them in one launch. The table
// travels with the launch, so that a captured graph holds it. Each block has a chunk of 4096 elements of one
// segment, whichever it is of.

#include <algorithm>
#include <span>

#include "kernels/cuda/device.cuh"
#include "kernels/optimizer.h"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

constexpr int64_t kChunk = 4096;
constexpr int kSegmentThreads = 256;

/// kMost segments. Every thread that runs on a CPU (runtime/simt) copies the table, hence two sizes.
template <int kMost>
struct SegmentTable {
  int64_t offset[kMost], size[kMost];
  int32_t first_chunk[kMost + 1];  ///< numbers of chunks; [count] is how many there are
  float factor[kMost];             ///< what the kernel makes of the segment's weight decay
  int count;

  uint32_t chunks() const { return static_cast<uint32_t>(first_chunk[count]); }
};
constexpr int kFewSegments = 64;
/// More than a ResNet-152 or a BERT-large has; beyond 4 KB of arguments the driver must be of CUDA 12.1 or
/// later, as it is for CUDA 13. Still more segments take several launches.
constexpr int kManySegments = 512;

template <int kMost, typename Factor>
SegmentTable<kMost> make_table(std::span<const Segment> segments, Factor factor) {
  SegmentTable<kMost> table{};
  int64_t chunks = 0;
  for (const Segment& segment : segments) {
    const int i = table.count++;
    table.offset[i] = segment.offset;
    table.size[i] = segment.size;
    table.factor[i] = factor(segment.weight_decay);
    chunks += blocks_for(segment.size, kChunk);
    table.first_chunk[table.count] = static_cast<int32_t>(blocks_for(chunks, 1));
  }
  return table;
}

/// use(table, first) for all segments, from number `first` on in each table; factor(weight_decay) is theirs.
template <typename Factor, typename Use>
void with_tables(std::span<const Segment> segments, Factor factor, Use use) {
  for (size_t first = 0; first < segments.size(); first += kManySegments) {
    const auto part = segments.subspan(first, std::min<size_t>(kManySegments, segments.size() - first));
    if (part.size() <= kFewSegments)
      use(make_table<kFewSegments>(part, factor), static_cast<int64_t>(first));
    else
      use(make_table<kManySegments>(part, factor), static_cast<int64_t>(first));
  }
}

/// The block's chunk: its segment, its first element in the buffers and how many it has.
struct Chunk {
  int segment;
  int64_t begin, size;
};
template <typename Table>
__device__ __forceinline__ Chunk own_chunk(const Table& table) {
  const auto chunk = static_cast<int32_t>(blockIdx.x);
  // The last segment that begins at this chunk or before; empty ones begin where the next one does.
  int first = 0, end = table.count;
  while (end - first > 1) {
    const int middle = (first + end) / 2;
    if (table.first_chunk[middle] <= chunk)
      first = middle;
    else
      end = middle;
  }
  const int64_t done = (chunk - table.first_chunk[first]) * kChunk;
  return {first, table.offset[first] + done, min(kChunk, table.size[first] - done)};
}

/// visit(i, left) for this thread's groups of four elements of the chunk: the first of them in the buffers,
/// and how many the chunk has from there on.
template <typename Visit>
__device__ __forceinline__ void for_elements(const Chunk& chunk, Visit visit) {
  for (int64_t i = threadIdx.x * 4; i < chunk.size; i += kSegmentThreads * 4)
    visit(chunk.begin + i, chunk.size - i);
}

}  // namespace taper::cuda
