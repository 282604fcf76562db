// Convolution in the CUDA backend: conv.cuh has the index maths, conv_product.cu the forward pass and the
// data gradient, conv_filter.cu the filter gradient, conv_pack.cu the layouts of filters.

#include <limits>
#include <numeric>

#include "kernels/cuda/conv_launch.h"
#include "kernels/cuda/cuda.h"

namespace taper {

using namespace cuda;

namespace {

/// What kernels count in 32 bits; the elements of whole images they count in 64.
void check_extents(const ConvShape& s) {
  check(s);
  constexpr int64_t kMost = 1 << 30;
  for (int64_t extent : {s.n, s.h + 2 * s.padding, s.w + 2 * s.padding, s.stride, s.dilation, s.c, s.k})
    TAPER_CHECK(extent < kMost, "an extent of {} in a convolution on CUDA, which takes less than {}", extent,
                kMost);
  TAPER_CHECK(s.filter_size() / s.k < kMost && s.r * s.s * (s.k / s.groups) < kMost,
              "a convolution's sum of {} products on CUDA, which takes less than {}",
              std::max(s.filter_size() / s.k, s.r * s.s * (s.k / s.groups)), kMost);
  TAPER_CHECK(s.h * s.w < kMost && s.out_h() * s.out_w() < kMost,
              "an image of {} x {} in a convolution on CUDA, which takes less than {} pixels", s.h, s.w,
              kMost);
}

ConvProduct product_of(const ConvShape& s, ConvPass pass) {
  check_extents(s);
  auto number = [](int64_t value) { return static_cast<int>(value); };
  ConvProduct p{.n = s.n,
                .in_h = number(s.h),
                .in_w = number(s.w),
                .depth = number(s.c / s.groups),
                .out_h = number(s.out_h()),
                .out_w = number(s.out_w()),
                .columns = number(s.k / s.groups),
                .r = number(s.r),
                .s = number(s.s),
                .stride = number(s.stride),
                .padding = number(s.padding),
                .dilation = number(s.dilation),
                .groups = number(s.groups),
                .common = number(std::gcd(s.stride, s.dilation)),
                .backward = pass == ConvPass::backward_data};
  if (p.backward) {
    std::swap(p.in_h, p.out_h);
    std::swap(p.in_w, p.out_w);
    std::swap(p.depth, p.columns);
  }
  return p;
}

}  // namespace

FilterFormat CudaBackend::filter_format(Stream&, const ConvShape& shape, DType type, ConvPass pass) {
  const ConvProduct p = product_of(shape, pass);
  FilterFormat format;
  dispatch(type, "filter_format", [&](auto zero) {
    using T = decltype(zero);
    const std::string phases =
        p.backward ? fmt::format(", stride {}, padding {}, dilation {}", p.stride, p.padding, p.dilation)
                   : "";
    format = {fmt::format("cuda {} {} groups [{} x {} x {}][{}]{}", taper::name(type), p.groups, p.r, p.s,
                          p.depth, packed_pitch<T>(p), phases),
              packed_start<T>(p, p.phases()) * static_cast<int64_t>(sizeof(T))};
  });
  return format;
}

void CudaBackend::pack_filter(Stream& stream, const ConvShape& shape, DType type, ConvPass pass,
                              const void* filter, void* packed) {
  launch_pack_filter(cuda_stream(stream), type, product_of(shape, pass), filter, packed);
}

void CudaBackend::conv_forward(Stream& stream, const ConvShape& shape, DType type, const void* x,
                               const void* packed, const ConvEpilogue& epilogue, void* y) {
  launch_conv_product(cuda_stream(stream), type, options_.tf32, product_of(shape, ConvPass::forward), x,
                      packed, epilogue, y);
}

void CudaBackend::conv_backward_data(Stream& stream, const ConvShape& shape, DType type, const void* dy,
                                     const void* packed, void* dx) {
  launch_conv_product(cuda_stream(stream), type, options_.tf32, product_of(shape, ConvPass::backward_data),
                      dy, packed, {}, dx);
}

void CudaBackend::conv_backward_filter(Stream& stream, const ConvShape& shape, DType type, const void* x,
                                       const void* dy, void* dfilter) {
  launch_filter_gradient(cuda_stream(stream), type, options_.tf32, product_of(shape, ConvPass::forward), x,
                         dy, dfilter);
}

}  // namespace taper
