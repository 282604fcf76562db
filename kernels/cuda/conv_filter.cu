// Convolution's filter gradient: dfilter (columns x taps) += dy^T (columns x pixels) x (pixels x taps) for
// each group, in tiles of mma_tile.cuh and ffma_tile.cuh. A row is a channel of dy, a column a (tap, tap,
// channel) of x, and the depth runs over the output's pixels.
//
// The sum is long and the filter small, so the pixels fall into parts: a block makes one tile of one part.
// Parts are added in their order by a second kernel; how many there are follows from the shape alone. dy is
// copied as it lies; x is gathered: a thread copies the same piece of a tap for several pixels, and counts
// (image, row, column) on from one to the next.
//
// In f32 and tf32, sums that come out NaN are taken again, as in conv_product.cu: there may have been an
// infinity in dy beside a zero of the padding.

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/conv_launch.h"
#include "kernels/cuda/product.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

/// Copies x's part of each step to the tile's right operand.
template <typename Tile, int kUnit>
class PixelGather {
  using T = typename Tile::Element;
  static constexpr int kUnits = Tile::kN / kUnit;          // of a pixel
  static constexpr int kPixels = Tile::kThreads / kUnits;  // that are copied at once
  static constexpr int kEach = Tile::kK / kPixels;
  static_assert(kPixels * kUnits == Tile::kThreads && kEach * kPixels == Tile::kK);

 public:
  /// From element `first` of the taps and from pixel `begin` to `end`.
  __device__ PixelGather(const ConvProduct& p, const T* x, int first, int64_t begin, int64_t end)
      : p_(p),
        x_(x),
        at_(begin + static_cast<int>(threadIdx.x) / kUnits, p.out_h, p.out_w),
        step_(kPixels, p.out_h, p.out_w),
        left_(end - begin - static_cast<int>(threadIdx.x) / kUnits) {
    const int element = first + static_cast<int>(threadIdx.x) % kUnits * kUnit;
    const Counter tap(element, p.s, p.depth);
    channel_ = tap.low;
    // A tap behind the last reads nothing.
    down_ = tap.high < p.r ? tap.high * p.dilation - p.padding : kOutside;
    across_ = tap.middle * p.dilation - p.padding;
  }

  /// The next step's part.
  __device__ __forceinline__ void operator()(T* tile) {
    auto source = [&](int) -> Source<T> {
      const int h = at_.middle * p_.stride + down_, w = at_.low * p_.stride + across_;
      const bool valid = left_ > 0 && inside(h, p_.in_h) && inside(w, p_.in_w);
      const int64_t element =
          ((int64_t{at_.high} * p_.in_h + h) * p_.in_w + w) * p_.groups * p_.depth + channel_;
      at_.add(step_, p_.out_h, p_.out_w);
      left_ -= kPixels;
      return {x_ + (valid ? element : 0), valid};
    };
    const int n = static_cast<int>(threadIdx.x) % kUnits * kUnit, k = static_cast<int>(threadIdx.x) / kUnits;
    using Operand = typename Tile::template Operand<Major::mn, Tile::kN>;
    copy_units<kEach, kUnit, T>([&](int i) { return tile + Operand::place(n, k + i * kPixels); }, source);
  }

 private:
  const ConvProduct& p_;
  const T* x_;
  Counter at_, step_;
  int64_t left_;
  int channel_, down_, across_;
};

/// The sum for one row and one element of the taps by its definition, over pixels begin to end.
template <typename Tile>
__device__ float sum_inside(const ConvProduct& p, const float* x, const float* dy, int element, int64_t begin,
                            int64_t end) {
  const Counter tap(element, p.s, p.depth);
  Counter at(begin, p.out_h, p.out_w);
  const Counter one(1, p.out_h, p.out_w);
  float sum = 0;
  for (int64_t pixel = begin; pixel < end; ++pixel, at.add(one, p.out_h, p.out_w)) {
    const int h = at.middle * p.stride + tap.high * p.dilation - p.padding;
    const int w = at.low * p.stride + tap.middle * p.dilation - p.padding;
    if (inside(h, p.in_h) && inside(w, p.in_w))
      sum +=
          Tile::multiplied(dy[pixel * p.groups * p.columns]) *
          Tile::multiplied(x[((int64_t{at.high} * p.in_h + h) * p.in_w + w) * p.groups * p.depth + tap.low]);
  }
  return sum;
}

/// How the gradient is cut into blocks: tiles of each group, and parts of the pixels.
struct FilterPlan {
  bool large;
  int row_tiles, column_tiles, parts;
  int64_t part_pixels;
};

/// Writes each part's sums to `parts` [parts, filter], or adds the only part's to dfilter.
template <typename Tile, bool kVectorsOfDy, int kUnit>
__global__ void __launch_bounds__(Tile::kThreads, kBlocksAtOnce<Tile, kUnit>)
    filter_gradient_kernel(ConvProduct p, FilterPlan plan, const typename Tile::Element* x,
                           const typename Tile::Element* dy, float* parts, float* dfilter, bool vectors) {
  using T = typename Tile::Element;
  const int first_column = static_cast<int>(blockIdx.x % plan.column_tiles) * Tile::kN;
  const int first_row = static_cast<int>(blockIdx.x / plan.column_tiles % plan.row_tiles) * Tile::kM;
  const int group = static_cast<int>(blockIdx.x / plan.column_tiles / plan.row_tiles % p.groups);
  const int64_t part = blockIdx.x / plan.column_tiles / plan.row_tiles / p.groups;
  const int64_t begin = part * plan.part_pixels;
  const int64_t end = min(begin + plan.part_pixels, p.n * p.out_h * p.out_w);
  const int length = p.r * p.s * p.depth;
  x += int64_t{group} * p.depth;
  dy += int64_t{group} * p.columns + first_row;

  auto* shared = dynamic_shared<T>();
  typename Tile::Sums sums = {};
  const int64_t dy_pixel = int64_t{p.groups} * p.columns;
  const typename Tile::template Loader<Major::mn, Tile::kM> load_dy{
      dy + begin * dy_pixel, dy_pixel, p.columns - first_row, end - begin, kVectorsOfDy};
  PixelGather<Tile, kUnit> gather(p, x, first_column, begin, end);
  Tile::template multiply<Major::mn, Major::mn>(sums, shared, (end - begin + Tile::kK - 1) / Tile::kK,
                                                load_dy, [&](T* tile, int64_t) { gather(tile); });

  const int64_t filter_size = int64_t{p.groups} * p.columns * length;
  float* out = (plan.parts > 1 ? parts + part * filter_size : dfilter) +
               (int64_t{group} * p.columns + first_row) * length + first_column;
  Tile::for_each_output(sums, shared, [&](int row, int column, float(&values)[4]) {
    const int count = length - first_column - column;
    if (first_row + row >= p.columns || count <= 0) return;
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (values[i] != values[i] && i < count)
          values[i] = sum_inside<Tile>(p, x, dy + row, first_column + column + i, begin, end);
    }
    float* to = out + int64_t{row} * length + column;
    if (plan.parts == 1) {
      float before[4] = {};
      load(before, to, count, vectors);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += before[i];
    }
    store(values, to, count, vectors);
  });
}

/// Large tiles where they are filled; as many parts as keep a device busy, none of them short.
FilterPlan plan_of(const ConvProduct& p, int depth_of_step) {
  constexpr int64_t kEnoughBlocks = 256, kLeastPixels = 256, kMostParts = 128;
  const int64_t pixels = p.n * p.out_h * p.out_w;
  FilterPlan plan{};
  plan.large = p.columns > 64 && p.length(0) > 64;
  const int extent = plan.large ? 128 : 64;
  plan.row_tiles = static_cast<int>(blocks_for(p.columns, extent));
  plan.column_tiles = static_cast<int>(blocks_for(p.length(0), extent));
  const int64_t tiles = int64_t{p.groups} * plan.row_tiles * plan.column_tiles;
  const int64_t parts = std::clamp<int64_t>(kEnoughBlocks / tiles, 1,
                                            std::clamp<int64_t>(pixels / kLeastPixels, 1, kMostParts));
  const int64_t steps = blocks_for(blocks_for(pixels, depth_of_step), parts);
  plan.part_pixels = steps * depth_of_step;
  plan.parts = static_cast<int>(blocks_for(pixels, plan.part_pixels));
  return plan;
}

/// combine_kernel's epilogue.
struct AddToFilter {
  float* filter;
  bool vectors;
  __device__ void operator()(int64_t, int64_t, int64_t first, int count, const float (&values)[4]) const {
    float sums[4] = {};
    load(sums, filter + first, count, vectors);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += values[i];
    store(sums, filter + first, count, vectors);
  }
  __device__ void finish() const {}
};

template <typename Tile, bool kVectorsOfDy, int kUnit>
void launch_tiles(CudaStream& stream, const ConvProduct& p, const FilterPlan& plan, const void* x,
                  const void* dy, float* dfilter) {
  using T = typename Tile::Element;
  const int64_t size = int64_t{p.groups} * p.columns * p.length(0);
  float* parts =
      plan.parts == 1
          ? nullptr
          : static_cast<float*>(stream.scratch(plan.parts * size * static_cast<int64_t>(sizeof(float))));
  launch(filter_gradient_kernel<Tile, kVectorsOfDy, kUnit>,
         blocks_for(int64_t{plan.parts} * p.groups * plan.row_tiles * plan.column_tiles, 1), Tile::kThreads,
         Tile::kSharedBytes, stream.handle(), p, plan, static_cast<const T*>(x), static_cast<const T*>(dy),
         parts, dfilter, p.length(0) % 4 == 0 && aligned(parts, dfilter));
  if (plan.parts > 1)
    launch(combine_kernel<AddToFilter>, blocks_for(blocks_for(size, 4), kCombineThreads), kCombineThreads, 0,
           stream.handle(), parts, plan.parts, 1, 1, size, AddToFilter{dfilter, aligned(dfilter)});
}

template <typename Tile>
void launch_size(CudaStream& stream, const ConvProduct& p, const FilterPlan& plan, const void* x,
                 const void* dy, float* dfilter) {
  constexpr int kUnit = kPerVector<typename Tile::Element>;
  if (p.columns % kUnit != 0 || !aligned(dy))
    launch_tiles<Tile, false, 1>(stream, p, plan, x, dy, dfilter);
  else if (p.depth % kUnit != 0 || !aligned(x))
    launch_tiles<Tile, true, 1>(stream, p, plan, x, dy, dfilter);
  else
    launch_tiles<Tile, true, kUnit>(stream, p, plan, x, dy, dfilter);
}

template <typename Large, typename Small>
void launch_type(CudaStream& stream, const ConvProduct& p, const void* x, const void* dy, float* dfilter) {
  const FilterPlan plan = plan_of(p, Large::kK);
  plan.large ? launch_size<Large>(stream, p, plan, x, dy, dfilter)
             : launch_size<Small>(stream, p, plan, x, dy, dfilter);
}

}  // namespace

void launch_filter_gradient(CudaStream& stream, DType type, bool tf32, const ConvProduct& p, const void* x,
                            const void* dy, void* dfilter) {
  auto* out = static_cast<float*>(dfilter);
  if (type == DType::f32 && !tf32)
    launch_type<FfmaTile<128, 128, 4, 2>, FfmaTile<64, 64, 2, 2>>(stream, p, x, dy, out);
  else
    dispatch(type, "convolution", [&](auto zero) {
      using T = decltype(zero);
      launch_type<MmaTile<T, 128, 128, 4, 2>, MmaTile<T, 64, 64, 2, 2>>(stream, p, x, dy, out);
    });
}

}  // namespace taper::cuda
