// Convolution forward and its data gradient: the product that conv.cuh describes, in tiles of mma_tile.cuh
// and ffma_tile.cuh.
//
// A block makes 128 pixels x 64 or 128 columns of one group and phase, and goes through the depth from its
// beginning to its end: a sum's order depends on nothing else. The pixels' matrix is gathered as it is
// copied: a thread copies the same piece of the depth for several pixels, 16 bytes where the channels allow
// it and single elements where they do not (an image of 3 channels).
//
// In f32 and tf32 a NaN or infinity may reach only what depends on it, but a zero of the padding times an
// infinite element of the filter is NaN. Such a product makes the sum NaN, so that sums that are not are
// right, and those that are are taken again over the taps that lie in the image. This costs nothing until it
// happens.

#include <type_traits>

#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/conv_launch.h"
#include "kernels/cuda/ffma_tile.cuh"
#include "kernels/cuda/mma_tile.cuh"
#include "runtime/cuda/launch.h"

namespace taper::cuda {

namespace {

/// Copies the gathered matrix, step by step, to the tile's left operand.
template <typename Tile, int kUnit>
class TapGather {
  using T = typename Tile::Element;
  static constexpr int kUnits = Tile::kK / kUnit;  // of a row
  static constexpr int kEach = Tile::kM * kUnits / Tile::kThreads;
  static_assert(kEach * Tile::kThreads == Tile::kM * kUnits);

 public:
  __device__ TapGather(const ConvProduct& p, const ConvAxis& h, const ConvAxis& w, const T* image,
                       const ReadPlace* places)
      : p_(p),
        h_(h),
        w_(w),
        image_(image),
        places_(places),
        at_(static_cast<int>(threadIdx.x) % kUnits * kUnit, max(w.taps, 1), p.depth),
        step_(Tile::kK, max(w.taps, 1), p.depth) {}

  /// The next step's part.
  __device__ __forceinline__ void operator()(T* tile) {
    const int tap_h = at_.high * h_.tap_step, tap_w = at_.middle * w_.tap_step;
    const int64_t element = (int64_t{tap_h} * p_.in_w + tap_w) * p_.groups * p_.depth + at_.low;
    const bool exists = at_.high < h_.taps;
    auto row = [](int i) { return static_cast<int>(threadIdx.x) / kUnits + i * (Tile::kThreads / kUnits); };
    auto source = [&](int i) -> Source<T> {
      const ReadPlace place = places_[row(i)];
      const bool valid = exists && inside(place.h + tap_h, p_.in_h) && inside(place.w + tap_w, p_.in_w);
      return {image_ + (valid ? place.element + element : 0), valid};
    };
    const int k = static_cast<int>(threadIdx.x) % kUnits * kUnit;
    using Operand = typename Tile::template Operand<Major::k, Tile::kM>;
    copy_units<kEach, kUnit, T>([&](int i) { return tile + Operand::place(row(i), k); }, source);
    at_.add(step_, w_.taps, p_.depth);
  }

 private:
  const ConvProduct& p_;
  const ConvAxis &h_, &w_;
  const T* image_;
  const ReadPlace* places_;
  Counter at_, step_;
};

/// The sum for one pixel and column by its definition.
template <typename Tile>
__device__ float sum_inside(const ConvProduct& p, const ConvAxis& h, const ConvAxis& w, const float* image,
                            const float* filter, const ReadPlace& place) {
  const int pitch = packed_pitch<float>(p);
  float sum = 0;
  for (int tap_h = 0; tap_h < h.taps; ++tap_h)
    for (int tap_w = 0; tap_w < w.taps; ++tap_w) {
      const int down = tap_h * h.tap_step, across = tap_w * w.tap_step;
      if (!inside(place.h + down, p.in_h) || !inside(place.w + across, p.in_w)) continue;
      const float* pixel = image + place.element + (int64_t{down} * p.in_w + across) * p.groups * p.depth;
      const float* tap = filter + int64_t{tap_h * w.taps + tap_w} * p.depth * pitch;
      for (int channel = 0; channel < p.depth; ++channel)
        sum += Tile::multiplied(pixel[channel]) * Tile::multiplied(tap[int64_t{channel} * pitch]);
    }
  return sum;
}

/// Of dynamic shared memory: the tile's, and each pixel's place in both images.
template <typename Tile>
constexpr int kSharedBytes = Tile::kSharedBytes +
                             Tile::kM* static_cast<int>(sizeof(ReadPlace) + sizeof(int64_t));

template <typename Tile, int kUnit>
__global__ void __launch_bounds__(Tile::kThreads, kBlocksAtOnce<Tile, kUnit>)
    conv_product_kernel(ConvProduct p, int64_t pixel_tiles, int column_tiles,
                        const typename Tile::Element* in, const typename Tile::Element* filter,
                        const float* bias, const typename Tile::Element* add, bool relu,
                        typename Tile::Element* out, bool vectors) {
  using T = typename Tile::Element;
  auto* shared = dynamic_shared<T>();
  auto* places = reinterpret_cast<ReadPlace*>(dynamic_shared<char>() + Tile::kSharedBytes);
  auto* written = reinterpret_cast<int64_t*>(places + Tile::kM);
  const int first_column = static_cast<int>(blockIdx.x % column_tiles) * Tile::kN;
  const int64_t first_pixel = blockIdx.x / column_tiles % pixel_tiles * Tile::kM;
  const int of_phases = static_cast<int>(blockIdx.x / column_tiles / pixel_tiles);
  const int group = of_phases / p.phases(), phase = of_phases % p.phases();
  const ConvAxis h = p.axis_h(phase), w = p.axis_w(phase);
  const int length = h.taps * w.taps * p.depth, pitch = packed_pitch<T>(p);
  in += int64_t{group} * p.depth;
  filter += packed_start<T>(p, phase) + int64_t{group} * length * pitch + first_column;

  const int image_pixels = h.pixels * w.pixels;
  if (first_pixel >= p.n * image_pixels) return;  // all threads: phases differ in their pixels
  for (int row = static_cast<int>(threadIdx.x); row < Tile::kM; row += Tile::kThreads) {
    const int64_t image = (first_pixel + row) / image_pixels;
    const int pixel = static_cast<int>((first_pixel + row) % image_pixels);
    const int i = pixel / w.pixels, j = pixel % w.pixels;
    const bool exists = image < p.n;
    const int read_h = h.first + i * h.step, read_w = w.first + j * w.step;
    const ReadPlace place{((image * p.in_h + read_h) * p.in_w + read_w) * p.groups * p.depth,
                          exists ? read_h : kOutside, read_w};
    places[row] = place;
    written[row] =
        exists ? ((image * p.out_h + h.out_start + i * h.out_step) * p.out_w + w.out_start + j * w.out_step) *
                         p.groups * p.columns +
                     int64_t{group} * p.columns
               : -1;
  }
  __syncthreads();

  typename Tile::Sums sums = {};
  TapGather<Tile, kUnit> gather(p, h, w, in, places);
  const typename Tile::template Loader<Major::mn, Tile::kN> load_filter{filter, pitch, pitch - first_column,
                                                                        length, true};
  Tile::template multiply<Major::k, Major::mn>(
      sums, shared, (length + Tile::kK - 1) / Tile::kK, [&](T* tile, int64_t) { gather(tile); }, load_filter);

  Tile::for_each_output(sums, shared, [&](int row, int tile_column, float(&values)[4]) {
    const int column = first_column + tile_column, count = p.columns - column;
    if (written[row] < 0 || count <= 0) return;
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (values[i] != values[i] && i < count)
          values[i] = sum_inside<Tile>(p, h, w, in, filter + tile_column + i, places[row]);
    }
    if (bias != nullptr) {
      float added[4] = {};
      load(added, bias + group * p.columns + column, count, vectors);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += added[i];
    }
    T stored[4] = {};
    if (add != nullptr) {
      load(stored, add + written[row] + column, count, vectors);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += to_float(stored[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) stored[i] = convert<T>(relu && values[i] < 0 ? 0.0f : values[i]);
    store(stored, out + written[row] + column, count, vectors);
  });
}

template <typename Tile, int kUnit>
void launch_tiles(CudaStream& stream, const ConvProduct& p, const void* in, const void* filter,
                  const ConvEpilogue& epilogue, void* out) {
  using T = typename Tile::Element;
  int64_t pixels = 0;
  for (int phase = 0; phase < p.phases(); ++phase)
    pixels = std::max(pixels, p.n * p.axis_h(phase).pixels * p.axis_w(phase).pixels);
  const int64_t pixel_tiles = blocks_for(pixels, Tile::kM), column_tiles = blocks_for(p.columns, Tile::kN);
  launch(conv_product_kernel<Tile, kUnit>, blocks_for(pixel_tiles * column_tiles * p.groups * p.phases(), 1),
         Tile::kThreads, kSharedBytes<Tile>, stream.handle(), p, pixel_tiles, static_cast<int>(column_tiles),
         static_cast<const T*>(in), static_cast<const T*>(filter), static_cast<const float*>(epilogue.bias),
         static_cast<const T*>(epilogue.add), epilogue.relu, static_cast<T*>(out),
         p.columns % 4 == 0 && aligned(epilogue.bias, epilogue.add, out));
}

template <typename T>
void launch_on_tensor_cores(CudaStream& stream, const ConvProduct& p, const void* in, const void* filter,
                            const ConvEpilogue& epilogue, void* out) {
  constexpr int kUnit = kPerVector<T>;
  using Wide = MmaTile<T, 128, 128, 4, 2>;
  using Narrow = MmaTile<T, 128, 64, 4, 2>;
  const bool wide = p.columns > 64;
  if (p.depth % kUnit == 0 && aligned(in))
    wide ? launch_tiles<Wide, kUnit>(stream, p, in, filter, epilogue, out)
         : launch_tiles<Narrow, kUnit>(stream, p, in, filter, epilogue, out);
  else
    wide ? launch_tiles<Wide, 1>(stream, p, in, filter, epilogue, out)
         : launch_tiles<Narrow, 1>(stream, p, in, filter, epilogue, out);
}

}  // namespace

void launch_conv_product(CudaStream& stream, DType type, bool tf32, const ConvProduct& p, const void* in,
                         const void* filter, const ConvEpilogue& epilogue, void* out) {
  TAPER_CHECK(aligned(filter), "a packed filter at {}, which is no multiple of 16 bytes", filter);
  if (type == DType::f32 && !tf32)
    p.columns > 64 ? launch_tiles<FfmaTile<128, 128, 4, 2>, 1>(stream, p, in, filter, epilogue, out)
                   : launch_tiles<FfmaTile<64, 64, 2, 2>, 1>(stream, p, in, filter, epilogue, out);
  else
    dispatch(type, "convolution", [&](auto zero) {
      launch_on_tensor_cores<decltype(zero)>(stream, p, in, filter, epilogue, out);
    });
}

}  // namespace taper::cuda
