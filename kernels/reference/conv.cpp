#include "kernels/conv.h"

#include "kernels/reference/reference.h"

namespace taper {

using namespace reference;

namespace {

/// Calls visit(x, filter, y) with the offsets of every multiply-add of the convolution.
template <typename Visit>
void for_each_product(const ConvShape& s, Visit&& visit) {
  int64_t group_c = s.c / s.groups, group_k = s.k / s.groups;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t oh = 0; oh < s.out_h(); ++oh)
      for (int64_t ow = 0; ow < s.out_w(); ++ow)
        for (int64_t k = 0; k < s.k; ++k)
          for (int64_t r = 0; r < s.r; ++r)
            for (int64_t q = 0; q < s.s; ++q) {
              int64_t ih = oh * s.stride - s.padding + r * s.dilation;
              int64_t iw = ow * s.stride - s.padding + q * s.dilation;
              if (ih < 0 || ih >= s.h || iw < 0 || iw >= s.w) continue;
              for (int64_t c = 0; c < group_c; ++c)
                visit(((n * s.h + ih) * s.w + iw) * s.c + k / group_k * group_c + c,
                      ((k * s.r + r) * s.s + q) * group_c + c,
                      ((n * s.out_h() + oh) * s.out_w() + ow) * s.k + k);
            }
}

}  // namespace

FilterFormat ReferenceBackend::filter_format(Stream&, const ConvShape& shape, DType type, ConvPass) {
  require_double(type);
  check(shape);
  return {"krsc", shape.filter_size() * size_of(type)};
}

void ReferenceBackend::pack_filter(Stream& stream, const ConvShape& shape, DType type, ConvPass,
                                   const void* filter, void* packed) {
  require_double(type);
  check(shape);
  stream.copy(packed, filter, shape.filter_size() * size_of(type));
}

void ReferenceBackend::conv_forward(Stream&, const ConvShape& shape, DType type, const void* x,
                                    const void* packed, const ConvEpilogue& epilogue, void* y) {
  require_double(type);
  check(shape);
  int64_t size = shape.n * shape.out_h() * shape.out_w() * shape.k;
  for (int64_t i = 0; i < size; ++i) {
    out(y)[i] = 0;
    if (epilogue.bias != nullptr) out(y)[i] += in(epilogue.bias)[i % shape.k];
    if (epilogue.add != nullptr) out(y)[i] += in(epilogue.add)[i];
  }
  for_each_product(shape,
                   [&](int64_t xi, int64_t fi, int64_t yi) { out(y)[yi] += in(x)[xi] * in(packed)[fi]; });
  if (epilogue.relu)
    for (int64_t i = 0; i < size; ++i) out(y)[i] = activation(Activation::relu, in(y)[i]);
}

void ReferenceBackend::conv_backward_data(Stream&, const ConvShape& shape, DType type, const void* dy,
                                          const void* packed, void* dx) {
  require_double(type);
  check(shape);
  for (int64_t i = 0; i < shape.n * shape.h * shape.w * shape.c; ++i) out(dx)[i] = 0;
  for_each_product(shape,
                   [&](int64_t xi, int64_t fi, int64_t yi) { out(dx)[xi] += in(dy)[yi] * in(packed)[fi]; });
}

void ReferenceBackend::conv_backward_filter(Stream&, const ConvShape& shape, DType type, const void* x,
                                            const void* dy, void* dfilter) {
  require_double(type);
  check(shape);
  for_each_product(shape,
                   [&](int64_t xi, int64_t fi, int64_t yi) { out(dfilter)[fi] += in(dy)[yi] * in(x)[xi]; });
}

}  // namespace taper
