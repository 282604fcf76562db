#pragma once
// Products on tensor cores, a tile of the output per block: what matmul, convolution and imitation share. The
// operands' elements are bf16, or float, which is rounded to tf32 on its way to the multiplication. A caller
// says how a step's parts of the two operands get into shared memory (a loader) and what becomes of the sums
// (a function of four neighbours in a row); everything between is here.
//
// The tile. A block computes kM x kN of the output; k runs in steps of kK = 32 of bf16 or 16 of float, 64
// bytes either way. Shared memory holds kStages = 4 steps of both operands: while step s is multiplied, steps
// s + 1 to s + 3 are on their way (cp.async). One barrier a step serves twice: what has arrived is visible to
// all, and the slot about to be filled, that of step s - 1, is no longer read by anyone. The block's warps
// lie in a grid of kWarpsM x kWarpsN, each with kWarpM x kWarpN of the output in registers.
//
// The operands in shared memory lie as they do in global memory, so that both sides of a copy are rows of
// 16-byte chunks (8 elements of bf16, 4 floats): Major::k has a line for each row of a (column of b) and k
// along it, Major::mn a line for each k. ldmatrix turns the second around on its way to the registers
// (.trans), but only in pairs of bytes: floats are read one by one there. With k along the line a float is a
// pair of ldmatrix's elements, and it lands in the lane that wants it.
//
// The swizzle. ldmatrix reads the same chunk of eight consecutive lines at once, and shared memory has 32
// banks of 4 bytes: eight chunks that lie in one column would meet in a few banks. So chunk c of line l lies
// at c ^ (l % 8) within its line; where a line has only four chunks, two lines fill the banks, and it is
// c ^ (l / 2 % 4). Either way eight lines' chunks cover all 32 banks, and so do eight neighbouring chunks of
// a line, which a copy writes. Floats of Major::mn are not swizzled: a warp reads eight neighbours of four
// lines at once, which meet no bank twice if lines are eight floats longer than the tile.
//
// The fragments (PTX ISA, mma.m16n8k16). With g = lane / 4 and q = lane % 4, a lane holds of a: rows g and
// g + 8 at k = 2q, 2q + 1 and 2q + 8, 2q + 9; of b: column g at the same k; of the sums: rows g and g + 8,
// columns 2q and 2q + 1. In tf32 (mma.m16n8k8) there are half as many k, q and q + 4, and all else is the
// same. Sums leave by way of shared memory (for_each_output), since a warp that stored them
// as they lie would fill only half of each 32-byte sector.
//
// Padding. Beyond the operands' edges a loader writes zeros, in k to both operands, so that a NaN or infinity
// meets a zero only where the output does not exist.

#include <cstdint>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/output_tile.cuh"
#include "kernels/cuda/ptx.cuh"

namespace taper::cuda {

/// kExtent rows of a (columns of b) by kDepth of k, in shared memory: kLines lines of kChunks chunks.
template <typename T, Major kMajor, int kExtent, int kDepth>
struct OperandTile {
  static constexpr int kChunk = kPerVector<T>;
  static constexpr int kLines = kMajor == Major::k ? kExtent : kDepth;
  static constexpr int kLength = kMajor == Major::k ? kDepth : kExtent;
  static constexpr int kChunks = kLength / kChunk;
  static constexpr bool kOneByOne = kMajor == Major::mn && sizeof(T) == 4;
  static constexpr int kStride = kLength + (kOneByOne ? 8 : 0);
  static constexpr int kElements = kLines * kStride;
  static_assert(kLength % kChunk == 0 && (kChunks == 4 || kChunks % 8 == 0));

  /// Where chunk `chunk` of line `line` lies, in elements.
  __device__ static __forceinline__ int at(int line, int chunk) {
    const int turn = kOneByOne ? 0 : kChunks == 4 ? line / 2 % 4 : line % 8;
    return (line * (kStride / kChunk) + (chunk ^ turn)) * kChunk;
  }
  /// Where row (column) mn lies at k.
  __device__ static __forceinline__ int place(int mn, int k) {
    const int line = kMajor == Major::k ? mn : k, along = kMajor == Major::k ? k : mn;
    return at(line, along / kChunk) + along % kChunk;
  }

  /// The part of 16 x two chunks at (mn, k), mn a multiple of 8 and k of a chunk, as mma takes it: r[2 i + j]
  /// holds 8 rows and a chunk of k at mn + 8 i, k + j chunks, or the other way round with kRowsFirst: a's
  /// fragment is loaded with it, two neighbouring fragments of b without. All lanes of the warp call it.
  template <bool kRowsFirst>
  __device__ static __forceinline__ void load_fragment(uint32_t (&r)[4], const T* tile, int mn, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, within = lane % 8;
    const int in_mn = (kRowsFirst ? lane / 8 % 2 : lane / 16) * 8;
    const int in_k = (kRowsFirst ? lane / 16 : lane / 8 % 2) * kChunk;
    if constexpr (kOneByOne) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int of_mn = (kRowsFirst ? i % 2 : i / 2) * 8, of_k = (kRowsFirst ? i / 2 : i % 2) * kChunk;
        r[i] = to_tf32(tile[place(mn + of_mn + lane / 4, k + of_k + lane % 4)]);
      }
    } else if constexpr (kMajor == Major::k) {
      ldmatrix_x4(r, tile + at(mn + in_mn + within, (k + in_k) / kChunk));
      if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (uint32_t& value : r) value = to_tf32(__uint_as_float(value));
      }
    } else {
      ldmatrix_x4_trans(r, tile + at(k + in_k + within, (mn + in_mn) / kChunk));
    }
  }
};

/// Loads tiles of a matrix: the plain loader. A thread keeps its place in a line and goes down the lines.
template <typename T, Major kMajor, int kExtent, int kDepth, int kThreads>
class MmaMatrixLoader {
 public:
  /// `from`: the operand at the tile's first row (or column) and k = 0; `leading`: elements from one line to
  /// the next; `extent`: rows (columns) from the tile's first on; `depth`: of k; `vectors`: every line begins
  /// at a multiple of 16 bytes and has whole chunks only.
  __device__ __forceinline__ MmaMatrixLoader(const T* from, int64_t leading, int64_t extent, int64_t depth,
                                             bool vectors)
      : leading_(leading), depth_left_(depth), vectors_(vectors) {
    const int thread = static_cast<int>(threadIdx.x);
    line_ = vectors ? thread / Tile::kChunks : thread / Tile::kLength;
    within_ = vectors ? thread % Tile::kChunks * Tile::kChunk : thread % Tile::kLength;
    next_ = from + line_ * leading + within_;
    extent_left_ =
        static_cast<int>(extent < kExtent ? extent : kExtent) - (kMajor == Major::k ? line_ : within_);
    depth_left_ -= kMajor == Major::k ? within_ : line_;
  }

  /// To be called for one step after the other.
  __device__ __forceinline__ void operator()(T* tile, int64_t) {
    if (vectors_) {
      constexpr int kDown = kThreads / Tile::kChunks;
      static_assert(Tile::kLines % kDown == 0 && kDown % 8 == 0);
      T* to = tile + Tile::at(line_, within_ / Tile::kChunk);  // every eighth line is swizzled alike
#pragma unroll
      for (int down = 0; down < Tile::kLines; down += kDown)
        cp_async<16>(to + down * Tile::kStride, next_ + down * leading_, exists(down));
    } else {
      // A few at a time: their loads wait for memory together, and their addresses take few registers.
      constexpr int kDown = kThreads / Tile::kLength, kAtOnce = 4;
      static_assert(kThreads % Tile::kLength == 0 && Tile::kLines % (kDown * kAtOnce) == 0);
#pragma unroll 1
      for (int first = 0; first < Tile::kLines; first += kDown * kAtOnce) {
        T values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          values[i] = exists(first + i * kDown) ? next_[(first + i * kDown) * leading_] : convert<T>(0.0f);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          tile[Tile::at(line_ + first + i * kDown, within_ / Tile::kChunk) + within_ % Tile::kChunk] =
              values[i];
      }
    }
    next_ += kMajor == Major::k ? kDepth : kDepth * leading_;
    depth_left_ -= kDepth;
  }

 private:
  using Tile = OperandTile<T, kMajor, kExtent, kDepth>;

  /// Whether what lies `down` lines below the thread's place is within the operand.
  __device__ __forceinline__ bool exists(int down) const {
    return kMajor == Major::k ? down < extent_left_ && depth_left_ > 0
                              : down < depth_left_ && extent_left_ > 0;
  }

  const T* next_;  // the thread's place in the next step
  int64_t leading_, depth_left_;
  int line_, within_, extent_left_;
  bool vectors_;
};

/// A block's tile; see the top of the file. FfmaTile has the same members for f32 without tensor cores.
template <typename Element_, int kM_, int kN_, int kWarpsM_, int kWarpsN_>
struct MmaTile {
  using Element = Element_;
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kK = 64 / static_cast<int>(sizeof(Element)), kStages = 4;
  static constexpr int kThreads = kWarp * kWarpsM * kWarpsN;
  /// Blocks that a multiprocessor's registers are shared out to, without any of them spilling to memory.
  static constexpr int kBlocksAtOnce = 512 / kThreads;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kFragmentsM = kWarpM / 16, kFragmentsN = kWarpN / 8;
  template <Major kMajor, int kExtent>
  using Operand = OperandTile<Element, kMajor, kExtent, kK>;
  // Major::mn's tiles are the larger ones, if they differ.
  static constexpr int kStageOfB = Operand<Major::mn, kM>::kElements;
  static constexpr int kStageElements = kStageOfB + Operand<Major::mn, kN>::kElements;
  using Output = OutputTile<kWarpsM, kWarpsN, kWarpM, kWarpN, 8>;
  static constexpr int kPipelineBytes = kStages * kStageElements * static_cast<int>(sizeof(Element));
  /// Of dynamic shared memory.
  static constexpr int kSharedBytes = kPipelineBytes > Output::kBytes ? kPipelineBytes : Output::kBytes;
  static_assert(kWarpM % 32 == 0 && kWarpN % 16 == 0);

  /// Two fragments of a at a time: registers do not suffice for the multiplications of more.
  using Sums = float[kFragmentsM / 2][2][kFragmentsN][4];
  template <Major kMajor, int kExtent>
  using Loader = MmaMatrixLoader<Element, kMajor, kExtent, kK, kThreads>;

  /// What is multiplied for an element.
  __device__ static __forceinline__ float multiplied(Element value) {
    if constexpr (sizeof(Element) == 4)
      return __uint_as_float(to_tf32(value));
    else
      return to_float(value);
  }

  /// sums += a b over `steps` steps. load_a(tile, step), called for step 0, 1, ... in turn, writes a step's
  /// kM x kK part of a to shared memory as Operand<kA, kM> has it, by cp_async (not committed) or by
  /// plain stores, with zeros beyond the edges; load_b is the same for b. Every thread of the block calls it;
  /// afterwards `shared` is free.
  template <Major kA, Major kB, typename LoadA, typename LoadB>
  __device__ static __forceinline__ void multiply(Sums& sums, Element* shared, int64_t steps, LoadA load_a,
                                                  LoadB load_b) {
    auto load = [&](int64_t step) {
      Element* stage = shared + static_cast<int>(step % kStages) * kStageElements;
      if (step < steps) {
        load_a(stage, step);
        load_b(stage + kStageOfB, step);
      }
      cp_async_commit();  // empty ones too: the wait counts groups
    };
    for (int step = 0; step < kStages - 1; ++step) load(step);
    for (int64_t step = 0; step < steps; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load(step + kStages - 1);
      const Element* stage = shared + static_cast<int>(step % kStages) * kStageElements;
      multiply_stage<kA, kB>(sums, stage, stage + kStageOfB);
    }
    __syncthreads();
  }

  /// Calls use(row, column, values) for every four neighbours of the tile's kM x kN outputs; `values` is
  /// float (&)[4], its own. All threads of the block call it; `shared` is overwritten.
  template <typename Use>
  __device__ static __forceinline__ void for_each_output(const Sums& sums, Element* shared, Use&& use) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    Output::for_each(reinterpret_cast<float*>(shared), use, [&](float* slab, int number) {
#pragma unroll
      for (int i = 0; i < kFragmentsM; ++i)
        if (i == number)
#pragma unroll
          for (int j = 0; j < kFragmentsN; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const float pair[2] = {sums[i / 2][i % 2][j][2 * half], sums[i / 2][i % 2][j][2 * half + 1]};
              store(pair, slab + (lane / 4 + 8 * half) * Output::kStride + j * 8 + lane % 4 * 2, 2, true);
            }
    });
  }

 private:
  template <Major kA, Major kB>
  __device__ static __forceinline__ void multiply_stage(Sums& sums, const Element* a_tile,
                                                        const Element* b_tile) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int m = warp % kWarpsM * kWarpM, n = warp / kWarpsM * kWarpN;
#pragma unroll
    for (int k = 0; k < kK; k += 2 * kPerVector<Element>) {
      uint32_t b[kFragmentsN][2];
#pragma unroll
      for (int j = 0; j < kFragmentsN; j += 2) {
        uint32_t two[4];
        Operand<kB, kN>::template load_fragment<false>(two, b_tile, n + j * 8, k);
        b[j][0] = two[0], b[j][1] = two[1];
        b[j + 1][0] = two[2], b[j + 1][1] = two[3];
      }
#pragma unroll
      for (int i = 0; i < kFragmentsM / 2; ++i) {
        uint32_t a[2][4];
        Operand<kA, kM>::template load_fragment<true>(a[0], a_tile, m + i * 32, k);
        Operand<kA, kM>::template load_fragment<true>(a[1], a_tile, m + i * 32 + 16, k);
        if constexpr (sizeof(Element) == 4)
          mma_tf32(sums[i], a, b);
        else
          mma_bf16(sums[i], a, b);
      }
    }
  }
};

}  // namespace taper::cuda
