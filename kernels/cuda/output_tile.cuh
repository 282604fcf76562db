#pragma once
// How a tile's sums leave the registers: by way of shared memory, a warp at a time, so that neighbouring
// lanes hold neighbouring outputs and whatever is read or written with them moves in whole sectors.

#include "kernels/cuda/device.cuh"

namespace taper::cuda {

/// Which of an operand's dimensions lies contiguous in memory: k, or the rows of a (columns of b).
enum class Major { k, mn };

/// The block's warps lie in a grid of kWarpsM x kWarpsN (down first), each with kWarpM x kWarpN outputs,
/// which leave as slabs of kSlabRows = 16 rows. kPadding: floats behind a slab's row, as the writer's banks
/// need it; a multiple of 4.
template <int kWarpsM, int kWarpsN, int kWarpM, int kWarpN, int kPadding>
struct OutputTile {
  static constexpr int kSlabRows = 16;
  static constexpr int kStride = kWarpN + kPadding;
  static constexpr int kSlab = kSlabRows * kStride;
  static constexpr int kBytes = kWarpsM * kWarpsN * kSlab * static_cast<int>(sizeof(float));
  static_assert(kWarpM % kSlabRows == 0 && kSlabRows * kWarpN % (4 * kWarp) == 0);

  /// write(slab, number) puts the lane's sums of the warp's slab `number` there; use(row, column, values)
  /// gets every four neighbours of the block's tile once, in a fixed order. `shared` holds kBytes.
  template <typename Use, typename Write>
  __device__ static __forceinline__ void for_each(float* shared, Use& use, const Write& write) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int first_row = warp % kWarpsM * kWarpM, first_column = warp / kWarpsM * kWarpN;
    float* slab = shared + warp * kSlab;
    // Not unrolled, for one copy of `use` is large enough.
#pragma unroll 1
    for (int number = 0; number < kWarpM / kSlabRows; ++number) {
      write(slab, number);
      __syncwarp();
#pragma unroll 1
      for (int group = lane; group < kSlabRows * kWarpN / 4; group += kWarp) {
        const int row = group / (kWarpN / 4), column = group % (kWarpN / 4) * 4;
        Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(slab + row * kStride + column);
        use(first_row + number * kSlabRows + row, first_column + column, four.values);
      }
      __syncwarp();  // the next slab is written here
    }
  }
};

}  // namespace taper::cuda
