// Filters laid out for conv_product.cu: KRSC of f32 to, for each phase, [groups, (tap, tap, channel), pitch].
//
// Forward that is a transpose of each group, by way of a tile of shared memory, so that both sides are moved
// along their rows. For the data gradient a column is a channel of x, which lies innermost already: whole
// rows change their places.

#include "kernels/cuda/conv_launch.h"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

constexpr int kTile = 32, kTileRows = 8, kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kTile* kTileRows)
    pack_forward(ConvProduct p, int row_tiles, int column_tiles, const float* filter, T* packed) {
  __shared__ float tile[kTile][kTile + 1];
  const int length = p.length(0), pitch = packed_pitch<T>(p);
  const int row = static_cast<int>(blockIdx.x) / column_tiles % row_tiles * kTile;
  const int column = static_cast<int>(blockIdx.x) % column_tiles * kTile;
  const int64_t group = static_cast<int>(blockIdx.x) / column_tiles / row_tiles;
  filter += group * p.columns * length;
  packed += group * length * pitch;
  const int across = static_cast<int>(threadIdx.x);
  for (int down = static_cast<int>(threadIdx.y); down < kTile; down += kTileRows)
    tile[down][across] = column + down < p.columns && row + across < length
                             ? filter[int64_t{column + down} * length + row + across]
                             : 0.0f;
  __syncthreads();
  for (int down = static_cast<int>(threadIdx.y); down < kTile; down += kTileRows)
    if (row + down < length && column + across < pitch)
      packed[int64_t{row + down} * pitch + column + across] = convert<T>(tile[across][down]);
}

/// A thread writes 4 elements of the row that belongs to (output, tap, tap) of the filter.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_backward(ConvProduct p, bool vectors, const float* filter, T* packed) {
  constexpr int kUnit = kPerVectorOfBoth<T, float>;
  const int pitch = packed_pitch<T>(p), units = pitch / kUnit;
  const int64_t source = thread_number() / units;
  const int column = static_cast<int>(thread_number() % units) * kUnit;
  if (source >= int64_t{p.groups} * p.depth * p.r * p.s) return;
  const int tap_w = static_cast<int>(source % p.s), tap_h = static_cast<int>(source / p.s % p.r);
  const int64_t output = source / p.s / p.r;
  // tap dilation = phase + padding (mod stride)
  auto remainder = [&](int tap) {
    return static_cast<int>((int64_t{tap} * p.dilation + int64_t{p.stride - 1} * p.padding) % p.stride);
  };
  const int phase = remainder(tap_h) * p.stride + remainder(tap_w);
  const ConvAxis h = p.axis_h(phase), w = p.axis_w(phase);
  const int tap =
      (tap_h - h.filter_start) / h.filter_step * w.taps + (tap_w - w.filter_start) / w.filter_step;
  const int64_t row = output / p.depth * p.length(phase) + int64_t{tap} * p.depth + output % p.depth;
  float in[kUnit] = {};
  T out[kUnit];
  load(in, filter + source * p.columns + column, p.columns - column, vectors);
#pragma unroll
  for (int i = 0; i < kUnit; ++i) out[i] = convert<T>(in[i]);
  store(out, packed + packed_start<T>(p, phase) + row * pitch + column, kUnit, true);
}

}  // namespace

void launch_pack_filter(CudaStream& stream, DType type, const ConvProduct& p, const void* filter,
                        void* packed) {
  TAPER_CHECK(aligned(packed), "a packed filter at {}, which is no multiple of 16 bytes", packed);
  dispatch(type, "pack_filter", [&](auto zero) {
    using T = decltype(zero);
    const auto* from = static_cast<const float*>(filter);
    auto* to = static_cast<T*>(packed);
    if (p.backward) {
      const int64_t rows = int64_t{p.groups} * p.depth * p.r * p.s;
      launch(pack_backward<T>, blocks_for(rows * (packed_pitch<T>(p) / kPerVectorOfBoth<T, float>), kThreads),
             kThreads, 0, stream.handle(), p, p.columns % kPerVector<float> == 0 && aligned(filter), from,
             to);
    } else {
      const int64_t row_tiles = blocks_for(p.length(0), kTile),
                    column_tiles = blocks_for(packed_pitch<T>(p), kTile);
      launch(pack_forward<T>, blocks_for(row_tiles * column_tiles * p.groups, 1), dim3(kTile, kTileRows), 0,
             stream.handle(), p, static_cast<int>(row_tiles), static_cast<int>(column_tiles), from, to);
    }
  });
}

}  // namespace taper::cuda
