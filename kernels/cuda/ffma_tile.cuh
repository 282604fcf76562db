#pragma once
// Products of f32 in f32, a tile of the output per block: MmaTile's interface without tensor cores.
//
// The tile. A block computes kM x kN of the output; k runs in steps of kK = 8, of which shared memory holds
// four, as in MmaTile. Both operands lie there with a line for each k, so that a thread reads what it needs
// for one k as runs of four floats. A warp's lanes lie as 4 x 8; a thread has kThreadM x kThreadN outputs as
// 4 x 4 squares, neighbouring lanes with neighbouring squares: of b, eight lanes read 128 bytes in a row, of
// a they read the same 16, and neither meets a bank twice.
//
// A line is four floats longer than the tile. An operand that lies with k along its lines (Major::k) is
// turned around by its copy, a float at a time: eight k of four lines per warp, whole sectors on the way in,
// and with lines 4 banks apart 32 different banks on the way out. cp.async takes single floats, so no size or
// alignment needs another way.

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/output_tile.cuh"
#include "kernels/cuda/ptx.cuh"

namespace taper::cuda {

/// kExtent rows of a (columns of b) by kDepth of k, in shared memory.
template <int kExtent, int kDepth>
struct FfmaOperandTile {
  static constexpr int kStride = kExtent + 4;
  static constexpr int kElements = kDepth * kStride;
  static_assert(kStride % 32 == 4 && kDepth == 8);
  /// Where row (column) mn lies at k.
  __device__ static __forceinline__ int place(int mn, int k) { return k * kStride + mn; }
};

/// Loads tiles of a matrix: the plain loader. A thread keeps its place in a line and goes down the lines.
template <Major kMajor, int kExtent, int kDepth, int kThreads>
class FfmaMatrixLoader {
 public:
  /// As MmaMatrixLoader's, in groups of four floats.
  __device__ __forceinline__ FfmaMatrixLoader(const float* from, int64_t leading, int64_t extent,
                                              int64_t depth, bool vectors)
      : leading_(leading), depth_left_(depth), vectors_(vectors) {
    const int thread = static_cast<int>(threadIdx.x);
    const bool fours = kMajor == Major::mn && vectors;
    line_ = fours ? thread / (kLength / 4) : thread / kLength;
    within_ = fours ? thread % (kLength / 4) * 4 : thread % kLength;
    next_ = from + line_ * leading + within_;
    extent_left_ =
        static_cast<int>(extent < kExtent ? extent : kExtent) - (kMajor == Major::k ? line_ : within_);
    depth_left_ -= kMajor == Major::k ? within_ : line_;
  }

  /// To be called for one step after the other.
  __device__ __forceinline__ void operator()(float* tile, int64_t) {
    if constexpr (kMajor == Major::k)
      copy<4, 1>(tile + Tile::place(line_, within_));
    else if (vectors_)
      copy<16, Tile::kStride>(tile + Tile::place(within_, line_));
    else
      copy<4, Tile::kStride>(tile + Tile::place(within_, line_));
    next_ += kMajor == Major::k ? kDepth : kDepth * leading_;
    depth_left_ -= kDepth;
  }

 private:
  using Tile = FfmaOperandTile<kExtent, kDepth>;
  static constexpr int kLines = kMajor == Major::k ? kExtent : kDepth;
  static constexpr int kLength = kMajor == Major::k ? kDepth : kExtent;

  /// kBytes from each of the thread's lines, which lie kStride floats apart in the tile.
  template <int kBytes, int kStride>
  __device__ __forceinline__ void copy(float* to) const {
    constexpr int kDown = kThreads * kBytes / 4 / kLength;
    static_assert(kLines % kDown == 0);
#pragma unroll
    for (int down = 0; down < kLines; down += kDown)
      cp_async<kBytes>(to + down * kStride, next_ + down * leading_,
                       kMajor == Major::k ? down < extent_left_ && depth_left_ > 0
                                          : down < depth_left_ && extent_left_ > 0);
  }

  const float* next_;  // the thread's place in the next step
  int64_t leading_, depth_left_;
  int line_, within_, extent_left_;
  bool vectors_;
};

/// MmaTile's members, whatever they say of OperandTile said of FfmaOperandTile.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_>
struct FfmaTile {
  using Element = float;
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kK = 8, kStages = 4;
  static constexpr int kThreads = kWarp * kWarpsM * kWarpsN;
  static constexpr int kBlocksAtOnce = kThreads == 128 ? 4 : 1;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kThreadM = kWarpM / 4, kThreadN = kWarpN / 8;
  using TileA = FfmaOperandTile<kM, kK>;
  using TileB = FfmaOperandTile<kN, kK>;
  static constexpr int kStageElements = TileA::kElements + TileB::kElements;
  using Output = OutputTile<kWarpsM, kWarpsN, kWarpM, kWarpN, 0>;
  static constexpr int kPipelineBytes = kStages * kStageElements * static_cast<int>(sizeof(float));
  /// Of dynamic shared memory.
  static constexpr int kSharedBytes = kPipelineBytes > Output::kBytes ? kPipelineBytes : Output::kBytes;
  static_assert(kThreadM % 4 == 0 && kThreadN % 4 == 0);

  using Sums = float[kThreadM][kThreadN];
  template <Major, int kExtent>
  using Operand = FfmaOperandTile<kExtent, kK>;
  template <Major kMajor, int kExtent>
  using Loader = FfmaMatrixLoader<kMajor, kExtent, kK, kThreads>;
  __device__ static __forceinline__ float multiplied(float value) { return value; }

  template <Major kA, Major kB, typename LoadA, typename LoadB>
  __device__ static __forceinline__ void multiply(Sums& sums, float* shared, int64_t steps, LoadA load_a,
                                                  LoadB load_b) {
    auto load = [&](int64_t step) {
      float* stage = shared + static_cast<int>(step % kStages) * kStageElements;
      if (step < steps) {
        load_a(stage, step);
        load_b(stage + TileA::kElements, step);
      }
      cp_async_commit();  // empty ones too: the wait counts groups
    };
    for (int step = 0; step < kStages - 1; ++step) load(step);
    for (int64_t step = 0; step < steps; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load(step + kStages - 1);
      const float* stage = shared + static_cast<int>(step % kStages) * kStageElements;
      multiply_stage(sums, stage, stage + TileA::kElements);
    }
    __syncthreads();
  }

  /// As MmaTile::for_each_output.
  template <typename Use>
  __device__ static __forceinline__ void for_each_output(const Sums& sums, float* shared, Use&& use) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    Output::for_each(shared, use, [&](float* slab, int number) {
#pragma unroll
      for (int i = 0; i < kThreadM; ++i)
        if (i / 4 == number)
#pragma unroll
          for (int j = 0; j < kThreadN; j += 4) {
            const float four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            store(four, slab + (lane / 8 * 4 + i % 4) * Output::kStride + j * 8 + lane % 8 * 4, 4, true);
          }
    });
  }

 private:
  __device__ static __forceinline__ void multiply_stage(Sums& sums, const float* a_tile,
                                                        const float* b_tile) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int m = warp % kWarpsM * kWarpM + lane / 8 * 4, n = warp / kWarpsM * kWarpN + lane % 8 * 4;
#pragma unroll
    for (int k = 0; k < kK; ++k) {
      Pack<float, 4> a[kThreadM / 4], b[kThreadN / 4];
#pragma unroll
      for (int i = 0; i < kThreadM / 4; ++i)
        a[i] = *reinterpret_cast<const Pack<float, 4>*>(a_tile + TileA::place(m + i * 16, k));
#pragma unroll
      for (int j = 0; j < kThreadN / 4; ++j)
        b[j] = *reinterpret_cast<const Pack<float, 4>*>(b_tile + TileB::place(n + j * 32, k));
#pragma unroll
      for (int i = 0; i < kThreadM; ++i)
#pragma unroll
        for (int j = 0; j < kThreadN; ++j) sums[i][j] += a[i / 4].values[i % 4] * b[j / 4].values[j % 4];
    }
  }
};

}  // namespace taper::cuda
