// Pooling over NHWC activations (kernels/pool.h has formulas and shapes).
//
// Maximum: a thread has one pixel and 16 bytes of its channels (one channel where their number is ragged);
// forward it walks over the pixel's window, backward over the windows that cover the pixel, both in ascending
// order, so that nothing is added by two threads. A block has pixels of one image row. Average: a block has
// one image and up to 32 vectors of channels; forward its threads sum every n-th pixel in f32, then the
// threads' sums pairwise. The bits depend on the shape only.

#include <cmath>

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;

/// The shape with extents in 32 bits, which divide faster; offsets are of 64 bits all the same.
struct Geometry {
  int h, w, out_h, out_w, size, stride, padding;
  int64_t c;
};

/// A thread's part of an image row: a pixel, and its first channel.
struct Place {
  int image, row, column;
  int64_t channel;
};

/// For blocks of `rows` rows in each image, with kWidth channels of a pixel to a thread. The column is beyond
/// the row's end for a thread that has none.
template <int kWidth>
__device__ __forceinline__ Place find_place(int rows, int64_t channels) {
  const auto groups = static_cast<unsigned>(channels / kWidth);
  const unsigned at = blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
  return {static_cast<int>(row / rows), static_cast<int>(row % rows), static_cast<int>(at / groups),
          int64_t{at % groups} * kWidth};
}

/// Places (or windows) along one axis: from first to last - 1.
struct Range {
  int first, last;
};

/// A window's places that lie inside the image.
__device__ __forceinline__ Range inside(int start, int size, int extent) {
  return {start < 0 ? -start : 0, min(size, extent - start)};
}

/// The windows that cover a pixel.
__device__ __forceinline__ Range covering(int pixel, const Geometry& s, int windows) {
  const int reach = pixel + s.padding - s.size;  // the last place before the earliest window's start
  return {reach < 0 ? 0 : reach / s.stride + 1, min(windows, (pixel + s.padding) / s.stride + 1)};
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) max_pool(Geometry s, const T* x, T* y, uint8_t* winner) {
  const Place place = find_place<kWidth>(s.out_h, s.c);
  if (place.column >= s.out_w) return;
  const int top = place.row * s.stride - s.padding, left = place.column * s.stride - s.padding;
  const Range rows = inside(top, s.size, s.h), columns = inside(left, s.size, s.w);
  T best[kWidth];
  uint8_t winners[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    best[i] = convert<T>(-INFINITY);
    winners[i] = static_cast<uint8_t>(rows.first * s.size + columns.first);
  }
  for (int r = rows.first; r < rows.last; ++r)
    for (int q = columns.first; q < columns.last; ++q) {
      T values[kWidth];
      const int64_t pixel = (int64_t{place.image} * s.h + top + r) * s.w + left + q;
      load(values, x + pixel * s.c + place.channel, kWidth, true);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const float value = to_float(values[i]), held = to_float(best[i]);
        // A NaN wins over any number; nothing wins over a NaN.
        if (value <= held || held != held) continue;
        best[i] = values[i];
        winners[i] = static_cast<uint8_t>(r * s.size + q);
      }
    }
  const int64_t out = (int64_t{blockIdx.x} * s.out_w + place.column) * s.c + place.channel;
  store(best, y + out, kWidth, true);
  store(winners, winner + out, kWidth, true);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    max_pool_gradient(Geometry s, const T* dy, const uint8_t* winner, T* dx) {
  const Place place = find_place<kWidth>(s.h, s.c);
  if (place.column >= s.w) return;
  const Range rows = covering(place.row, s, s.out_h), columns = covering(place.column, s, s.out_w);
  float sums[kWidth] = {};
  for (int r = rows.first; r < rows.last; ++r)
    for (int q = columns.first; q < columns.last; ++q) {
      const int64_t window = ((int64_t{place.image} * s.out_h + r) * s.out_w + q) * s.c + place.channel;
      const int own =
          (place.row - r * s.stride + s.padding) * s.size + place.column - q * s.stride + s.padding;
      T gradient[kWidth];
      uint8_t winners[kWidth];
      load(gradient, dy + window, kWidth, true);
      load(winners, winner + window, kWidth, true);
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        if (winners[i] == own) sums[i] += to_float(gradient[i]);
    }
  T out[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out[i] = convert<T>(sums[i]);
  store(out, dx + (int64_t{blockIdx.x} * s.w + place.column) * s.c + place.channel, kWidth, true);
}

/// The first channel of this thread's vector.
template <int kWidth>
__device__ __forceinline__ int64_t own_channel() {
  return (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    average_pool(int64_t pixels, int64_t channels, const T* x, T* y) {
  const int64_t image = blockIdx.x, channel = own_channel<kWidth>();
  float sums[kWidth] = {};
  if (channel < channels)
    for (int64_t pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {
      T values[kWidth];
      load(values, x + (image * pixels + pixel) * channels + channel, kWidth, true);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sums[i] += to_float(values[i]);
    }
  sum_down(sums);
  if (threadIdx.y > 0 || channel >= channels) return;
  T means[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) means[i] = convert<T>(sums[i] / static_cast<float>(pixels));
  store(means, y + image * channels + channel, kWidth, true);
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kColumnThreads)
    average_pool_gradient(int64_t pixels, int64_t channels, const T* dy, T* dx) {
  const int64_t image = blockIdx.x, channel = own_channel<kWidth>();
  if (channel >= channels) return;
  T values[kWidth];
  load(values, dy + image * channels + channel, kWidth, true);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = convert<T>(to_float(values[i]) / static_cast<float>(pixels));
  for (int64_t pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y)
    store(values, dx + (image * pixels + pixel) * channels + channel, kWidth, true);
}

Geometry checked(const PoolShape& s) {
  TAPER_CHECK(s.n > 0 && s.h > 0 && s.w > 0 && s.c > 0, "pooling of [{}, {}, {}, {}]", s.n, s.h, s.w, s.c);
  TAPER_CHECK(s.size > 0 && s.size <= 15 && s.stride > 0 && s.padding >= 0 && s.padding <= s.size / 2 &&
                  s.h + 2 * s.padding >= s.size && s.w + 2 * s.padding >= s.size,
              "pooling windows of {0} x {0}, stride {1}, padding {2} on {3} x {4}", s.size, s.stride,
              s.padding, s.h, s.w);
  constexpr int64_t kMost = int64_t{1} << 24;
  TAPER_CHECK(s.h <= kMost && s.w <= kMost && s.stride <= kMost,
              "pooling on CUDA of {} x {} pixels with stride {}: it takes up to {}", s.h, s.w, s.stride,
              kMost);
  auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {narrow(s.h),    narrow(s.w),      narrow(s.out_h()), narrow(s.out_w()),
          narrow(s.size), narrow(s.stride), narrow(s.padding), s.c};
}

/// Blocks for find_place: image rows, and pieces of them.
dim3 place_grid(int64_t rows, int64_t columns, int64_t groups) {
  return dim3(blocks_for(rows, 1), blocks_for(columns * groups, kThreads));
}

}  // namespace

void CudaBackend::max_pool_forward(Stream& stream, const PoolShape& shape, DType type, const void* x, void* y,
                                   uint8_t* winner) {
  const Geometry s = checked(shape);
  dispatch_width(type, "max_pool_forward", s.c, aligned(x, y, winner), [&](auto zero, auto width) {
    using T = decltype(zero);
    launch(max_pool<T, width()>, place_grid(shape.n * s.out_h, s.out_w, s.c / width()), kThreads, 0,
           cuda_stream(stream).handle(), s, static_cast<const T*>(x), static_cast<T*>(y), winner);
  });
}

void CudaBackend::max_pool_backward(Stream& stream, const PoolShape& shape, DType type, const void* dy,
                                    const uint8_t* winner, void* dx) {
  const Geometry s = checked(shape);
  dispatch_width(type, "max_pool_backward", s.c, aligned(dy, dx, winner), [&](auto zero, auto width) {
    using T = decltype(zero);
    launch(max_pool_gradient<T, width()>, place_grid(shape.n * s.h, s.w, s.c / width()), kThreads, 0,
           cuda_stream(stream).handle(), s, static_cast<const T*>(dy), winner, static_cast<T*>(dx));
  });
}

void CudaBackend::average_pool_forward(Stream& stream, int64_t n, int64_t pixels, int64_t c, DType type,
                                       const void* x, void* y) {
  dispatch_width(type, "average_pool_forward", c, aligned(x, y), [&](auto zero, auto width) {
    using T = decltype(zero);
    const ColumnTiles tiling(c / width());
    launch(average_pool<T, width()>, dim3(blocks_for(n, 1), tiling.tiles), tiling.block(), 0,
           cuda_stream(stream).handle(), pixels, c, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void CudaBackend::average_pool_backward(Stream& stream, int64_t n, int64_t pixels, int64_t c, DType type,
                                        const void* dy, void* dx) {
  dispatch_width(type, "average_pool_backward", c, aligned(dy, dx), [&](auto zero, auto width) {
    using T = decltype(zero);
    const ColumnTiles tiling(c / width());
    launch(average_pool_gradient<T, width()>, dim3(blocks_for(n, 1), tiling.tiles), tiling.block(), 0,
           cuda_stream(stream).handle(), pixels, c, static_cast<const T*>(dy), static_cast<T*>(dx));
  });
}

}  // namespace taper
