#include "kernels/conv.h"

#include "runtime/error.h"

namespace taper {

void check(const ConvShape& s) {
  TAPER_CHECK(s.n > 0 && s.h > 0 && s.w > 0 && s.c > 0, "convolution input [{}, {}, {}, {}]", s.n, s.h, s.w,
              s.c);
  TAPER_CHECK(s.k > 0 && s.r > 0 && s.s > 0, "convolution filter of {} outputs, {} x {}", s.k, s.r, s.s);
  TAPER_CHECK(s.stride > 0 && s.padding >= 0 && s.dilation > 0, "stride {}, padding {}, dilation {}",
              s.stride, s.padding, s.dilation);
  TAPER_CHECK(s.groups > 0 && s.c % s.groups == 0 && s.k % s.groups == 0,
              "{} groups of {} inputs and {} outputs", s.groups, s.c, s.k);
  TAPER_CHECK(
      s.h + 2 * s.padding >= s.dilation * (s.r - 1) + 1 && s.w + 2 * s.padding >= s.dilation * (s.s - 1) + 1,
      "a filter of {} x {} (dilation {}) on an image of {} x {} with padding {}", s.r, s.s, s.dilation, s.h,
      s.w, s.padding);
}

}  // namespace taper
