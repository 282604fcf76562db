#include "kernels/pool.h"

#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"
#include "runtime/error.h"

namespace taper {

using namespace reference;

namespace {

void check(const PoolShape& s) {
  TAPER_CHECK(s.n > 0 && s.h > 0 && s.w > 0 && s.c > 0, "pooling of [{}, {}, {}, {}]", s.n, s.h, s.w, s.c);
  TAPER_CHECK(s.size > 0 && s.size <= 15 && s.stride > 0 && s.padding >= 0 && s.padding <= s.size / 2,
              "pooling windows of {}, stride {}, padding {}", s.size, s.stride, s.padding);
  TAPER_CHECK(s.h + 2 * s.padding >= s.size && s.w + 2 * s.padding >= s.size,
              "pooling windows of {} on {} x {} with padding {}", s.size, s.h, s.w, s.padding);
}

}  // namespace

void ReferenceBackend::max_pool_forward(Stream&, const PoolShape& s, DType type, const void* x, void* y,
                                        uint8_t* winner) {
  require_double(type);
  check(s);
  int64_t i = 0;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t oh = 0; oh < s.out_h(); ++oh)
      for (int64_t ow = 0; ow < s.out_w(); ++ow)
        for (int64_t c = 0; c < s.c; ++c, ++i) {
          double best = -std::numeric_limits<double>::infinity();
          int64_t place = -1;
          for (int64_t r = 0; r < s.size; ++r)
            for (int64_t q = 0; q < s.size; ++q) {
              int64_t ih = oh * s.stride - s.padding + r, iw = ow * s.stride - s.padding + q;
              if (ih < 0 || ih >= s.h || iw < 0 || iw >= s.w) continue;
              double value = in(x)[((n * s.h + ih) * s.w + iw) * s.c + c];
              if (place < 0 || value > best || (std::isnan(value) && !std::isnan(best))) {
                best = value;
                place = r * s.size + q;
              }
            }
          out(y)[i] = best;
          winner[i] = static_cast<uint8_t>(place);
        }
}

void ReferenceBackend::max_pool_backward(Stream&, const PoolShape& s, DType type, const void* dy,
                                         const uint8_t* winner, void* dx) {
  require_double(type);
  check(s);
  for (int64_t i = 0; i < s.n * s.h * s.w * s.c; ++i) out(dx)[i] = 0;
  int64_t i = 0;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t oh = 0; oh < s.out_h(); ++oh)
      for (int64_t ow = 0; ow < s.out_w(); ++ow)
        for (int64_t c = 0; c < s.c; ++c, ++i) {
          int64_t ih = oh * s.stride - s.padding + winner[i] / s.size;
          int64_t iw = ow * s.stride - s.padding + winner[i] % s.size;
          out(dx)[((n * s.h + ih) * s.w + iw) * s.c + c] += in(dy)[i];
        }
}

void ReferenceBackend::average_pool_forward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type,
                                            const void* x, void* y) {
  require_double(type);
  for (int64_t b = 0; b < n; ++b)
    for (int64_t i = 0; i < c; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < pixels; ++p) sum += in(x)[(b * pixels + p) * c + i];
      out(y)[b * c + i] = sum / static_cast<double>(pixels);
    }
}

void ReferenceBackend::average_pool_backward(Stream&, int64_t n, int64_t pixels, int64_t c, DType type,
                                             const void* dy, void* dx) {
  require_double(type);
  for (int64_t b = 0; b < n; ++b)
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t i = 0; i < c; ++i)
        out(dx)[(b * pixels + p) * c + i] = in(dy)[b * c + i] / static_cast<double>(pixels);
}

}  // namespace taper
