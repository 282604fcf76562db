#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pool.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

// Channels that one pass over a window's pixels takes: their state stays in registers or the first cache.
constexpr int64_t kChannels = 64;

// The window's part that lies inside the image: places from first to last - 1 along one axis.
struct Range {
  int64_t first, last;
};
HWY_INLINE Range inside(int64_t start, int64_t size, int64_t extent) {
  return {std::max<int64_t>(0, -start), std::min(size, extent - start)};
}

template <typename T>
void window_maximum(const PoolShape& s, const T* image, int64_t top, int64_t left, int64_t channels, T* y,
                    uint8_t* winner) {
  float best[kChannels];
  int32_t place[kChannels];
  Range rows = inside(top, s.size, s.h), columns = inside(left, s.size, s.w);
  bool first = true;
  for (int64_t r = rows.first; r < rows.last; ++r)
    for (int64_t q = columns.first; q < columns.last; ++q) {
      const T* x = image + ((top + r) * s.w + left + q) * s.c;
      int32_t here = static_cast<int32_t>(r * s.size + q);
      if (first) {
        for (int64_t j = 0; j < channels; ++j) best[j] = to_float(x[j]), place[j] = here;
        first = false;
        continue;
      }
      for (int64_t j = 0; j < channels; ++j) {
        float v = to_float(x[j]);
        // A NaN wins over any number; nothing wins over a NaN.
        bool wins = !(v <= best[j]) & (best[j] == best[j]);
        best[j] = wins ? v : best[j];
        place[j] = wins ? here : place[j];
      }
    }
  for (int64_t j = 0; j < channels; ++j) {
    y[j] = from_float<T>(best[j]);
    winner[j] = static_cast<uint8_t>(place[j]);
  }
}

void max_forward_loops(int threads, const PoolShape& s, DType type, const void* x, void* y, uint8_t* winner) {
  int64_t out_h = s.out_h(), out_w = s.out_w();
  with_type(type, [&]<typename T>(T) {
    for_parts(threads, s.n * out_h, 1, [&](int64_t row, int64_t) {
      const T* image = static_cast<const T*>(x) + row / out_h * s.h * s.w * s.c;
      int64_t top = row % out_h * s.stride - s.padding;
      for (int64_t column = 0; column < out_w; ++column)
        for (int64_t c = 0; c < s.c; c += kChannels) {
          int64_t out = (row * out_w + column) * s.c + c;
          window_maximum(s, image + c, top, column * s.stride - s.padding, std::min(kChannels, s.c - c),
                         static_cast<T*>(y) + out, winner + out);
        }
    });
  });
}

// The windows along one axis that cover a pixel.
HWY_INLINE Range covering(int64_t pixel, const PoolShape& s, int64_t windows) {
  int64_t reach = pixel + s.padding - s.size;  // the last place before the earliest window's start
  return {reach < 0 ? 0 : reach / s.stride + 1, std::min(windows, (pixel + s.padding) / s.stride + 1)};
}

template <typename T>
void pixel_gradient(const PoolShape& s, const T* dy, const uint8_t* winner, int64_t h, int64_t w,
                    int64_t channels, T* dx) {
  float sum[kChannels] = {};
  Range rows = covering(h, s, s.out_h()), columns = covering(w, s, s.out_w());
  for (int64_t r = rows.first; r < rows.last; ++r)
    for (int64_t q = columns.first; q < columns.last; ++q) {
      int64_t window = (r * s.out_w() + q) * s.c;
      auto place =
          static_cast<uint8_t>((h - r * s.stride + s.padding) * s.size + w - q * s.stride + s.padding);
      for (int64_t j = 0; j < channels; ++j)
        sum[j] += winner[window + j] == place ? to_float(dy[window + j]) : 0.0f;
    }
  for (int64_t j = 0; j < channels; ++j) dx[j] = from_float<T>(sum[j]);
}

void max_backward_loops(int threads, const PoolShape& s, DType type, const void* dy, const uint8_t* winner,
                        void* dx) {
  with_type(type, [&]<typename T>(T) {
    for_parts(threads, s.n * s.h, 1, [&](int64_t row, int64_t) {
      int64_t windows = row / s.h * s.out_h() * s.out_w() * s.c;
      for (int64_t w = 0; w < s.w; ++w)
        for (int64_t c = 0; c < s.c; c += kChannels)
          pixel_gradient(s, static_cast<const T*>(dy) + windows + c, winner + windows + c, row % s.h, w,
                         std::min(kChannels, s.c - c), static_cast<T*>(dx) + (row * s.w + w) * s.c + c);
    });
  });
}

void average_backward_loops(int threads, int64_t n, int64_t pixels, int64_t c, DType type, const void* dy,
                            void* dx) {
  with_type(type, [&]<typename T>(T) {
    for_parts(threads, n, 1, [&](int64_t image, int64_t) {
      const T* from = static_cast<const T*>(dy) + image * c;
      T* first = static_cast<T*>(dx) + image * pixels * c;
      for (int64_t j = 0; j < c; ++j)
        first[j] = from_float<T>(to_float(from[j]) / static_cast<float>(pixels));
      for (int64_t pixel = 1; pixel < pixels; ++pixel) std::copy(first, first + c, first + pixel * c);
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {
HWY_EXPORT(max_forward_loops);
HWY_EXPORT(max_backward_loops);
HWY_EXPORT(average_backward_loops);

void check(const PoolShape& s) {
  TAPER_CHECK(s.n > 0 && s.h > 0 && s.w > 0 && s.c > 0, "pooling of [{}, {}, {}, {}]", s.n, s.h, s.w, s.c);
  TAPER_CHECK(s.size > 0 && s.size <= 15 && s.stride > 0 && s.padding >= 0 && s.padding <= s.size / 2 &&
                  s.h + 2 * s.padding >= s.size && s.w + 2 * s.padding >= s.size,
              "pooling windows of {0} x {0}, stride {1}, padding {2} on {3} x {4}", s.size, s.stride,
              s.padding, s.h, s.w);
}
}  // namespace

void CpuBackend::max_pool_forward(Stream& stream, const PoolShape& shape, DType type, const void* x, void* y,
                                  uint8_t* winner) {
  check(shape);
  HWY_DYNAMIC_DISPATCH(max_forward_loops)(cpu_stream(stream).threads(), shape, type, x, y, winner);
}

void CpuBackend::max_pool_backward(Stream& stream, const PoolShape& shape, DType type, const void* dy,
                                   const uint8_t* winner, void* dx) {
  check(shape);
  HWY_DYNAMIC_DISPATCH(max_backward_loops)(cpu_stream(stream).threads(), shape, type, dy, winner, dx);
}

void CpuBackend::average_pool_backward(Stream& stream, int64_t n, int64_t pixels, int64_t c, DType type,
                                       const void* dy, void* dx) {
  HWY_DYNAMIC_DISPATCH(average_backward_loops)(cpu_stream(stream).threads(), n, pixels, c, type, dy, dx);
}

}  // namespace taper
#endif
