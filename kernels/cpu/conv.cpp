// Convolution by oneDNN's direct algorithm. Activations stay NHWC; the filter is laid out as oneDNN likes.

#include <cstring>

#include "kernels/cpu/onednn.h"
#include "runtime/tensor.h"

namespace taper {

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

enum Op : int64_t { kForward, kBackwardData, kBackwardFilter, kPack, kPackBackward, kAccumulate };

PrimitiveKey key_of(Op op, const ConvShape& s, DType type, int64_t fused = 0) {
  return {op,  s.n,      s.h,       s.w,        s.c,      s.k,           s.r,
          s.s, s.stride, s.padding, s.dilation, s.groups, int64_t(type), fused};
}

// oneDNN's names for the extents of one convolution.
struct Descriptors {
  memory::desc x, y, bias, filter, master;
  memory::dims strides, dilates, padding;

  Descriptors(const ConvShape& s, memory::data_type type) {
    x = {{s.n, s.c, s.h, s.w}, type, Tag::nhwc};
    y = {{s.n, s.k, s.out_h(), s.out_w()}, type, Tag::nhwc};
    bias = {{s.k}, memory::data_type::f32, Tag::a};
    bool grouped = s.groups > 1;
    memory::dims dims = grouped ? memory::dims{s.groups, s.k / s.groups, s.c / s.groups, s.r, s.s}
                                : memory::dims{s.k, s.c, s.r, s.s};
    filter = {dims, type, Tag::any};
    master = {dims, memory::data_type::f32, grouped ? Tag::gohwi : Tag::ohwi};
    strides = {s.stride, s.stride};
    dilates = {s.dilation - 1, s.dilation - 1};
    padding = {s.padding, s.padding};
  }
};

// For a 1x1 filter oneDNN first gathers the pixels that a stride leaves. Without AVX-512, version 2.6.3 does
// so in whole vectors of 8 channels and writes beyond its scratchpad, and into that of another thread, where
// the channels do not fill them. So there we gather them ourselves, for a convolution without a stride.
bool gathers(const ConvShape& s) {
  return s.r * s.s == 1 && s.stride > 1 && s.padding == 0 && s.c / s.groups % 8 != 0 && !onednn_has_avx512();
}

ConvShape gathered(const ConvShape& s) {
  ConvShape dense = s;
  dense.h = s.out_h();
  dense.w = s.out_w();
  dense.stride = 1;
  return dense;
}

int64_t x_size(const ConvShape& s) { return s.n * s.h * s.w * s.c; }
int64_t y_size(const ConvShape& s) { return s.n * s.out_h() * s.out_w() * s.k; }

// Calls use(first byte in x, first byte among the gathered) for each pixel.
template <typename Use>
void for_pixels(const ConvShape& s, int64_t pixel, Use use) {
  int64_t to = 0;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t h = 0; h < s.out_h(); ++h)
      for (int64_t w = 0; w < s.out_w(); ++w, to += pixel)
        use(((n * s.h + h * s.stride) * s.w + w * s.stride) * pixel, to);
}

Tensor gather(Stream& stream, const ConvShape& s, DType type, const void* x) {
  Tensor dense(stream, type, {s.n, s.out_h(), s.out_w(), s.c});
  const int64_t pixel = s.c * size_of(type);
  for_pixels(s, pixel, [&](int64_t from, int64_t to) {
    std::memcpy(static_cast<char*>(dense.data()) + to, static_cast<const char*>(x) + from,
                static_cast<size_t>(pixel));
  });
  return dense;
}

constexpr auto kDirect = dnnl::algorithm::convolution_direct;

// Bits of `fused` for the forward pass.
constexpr int64_t kBias = 1, kAdd = 2;

dnnl::convolution_forward::primitive_desc forward_descriptor(OneDnn& dnn, const Descriptors& d,
                                                             const memory::desc& filter, int64_t fused) {
  dnnl::post_ops post;
  if (fused & kAdd) post.append_sum(1);
  dnnl::primitive_attr attributes = user_scratchpad();
  attributes.set_post_ops(post);
  dnnl::convolution_forward::desc desc(dnnl::prop_kind::forward_inference, kDirect, d.x, filter,
                                       fused & kBias ? d.bias : memory::desc(), d.y, d.strides, d.dilates,
                                       d.padding, d.padding);
  return {desc, attributes, dnn.engine};
}

// The convolution of `images` of the shape's images. The plain one of all images decides the filter's layout;
// others take that layout.
Primitive& forward_primitive(OneDnn& dnn, const ConvShape& s, DType type, int64_t images, int64_t fused) {
  PrimitiveKey key = key_of(kForward, s, type, fused);
  key.back() = images;
  return dnn.primitive(key, "convolution", [&] {
    ConvShape part = s;
    part.n = images;
    Descriptors d(part, onednn_type(type));
    bool decides = images == s.n && fused == 0;
    memory::desc filter =
        decides ? d.filter
                : forward_primitive(dnn, s, type, s.n, 0).arguments.at(DNNL_ARG_WEIGHTS).get_desc();
    auto descriptor = forward_descriptor(dnn, d, filter, fused);
    return dnn.assemble(descriptor, dnnl::convolution_forward(descriptor),
                        {{DNNL_ARG_SRC, descriptor.src_desc()},
                         {DNNL_ARG_WEIGHTS, descriptor.weights_desc()},
                         {DNNL_ARG_BIAS, descriptor.bias_desc()},
                         {DNNL_ARG_DST, descriptor.dst_desc()}});
  });
}

// oneDNN asks for the forward's descriptor as a hint for the backward passes.
dnnl::convolution_forward::primitive_desc hint(OneDnn& dnn, const Descriptors& d) {
  return forward_descriptor(dnn, d, d.filter, 0);
}

Primitive& backward_data_primitive(OneDnn& dnn, const ConvShape& s, DType type) {
  return dnn.primitive(key_of(kBackwardData, s, type), "convolution's gradient", [&] {
    Descriptors d(s, onednn_type(type));
    dnnl::convolution_backward_data::desc desc(kDirect, d.x, d.filter, d.y, d.strides, d.dilates, d.padding,
                                               d.padding);
    dnnl::convolution_backward_data::primitive_desc descriptor(desc, user_scratchpad(), dnn.engine,
                                                               hint(dnn, d));
    return dnn.assemble(descriptor, dnnl::convolution_backward_data(descriptor),
                        {{DNNL_ARG_DIFF_DST, descriptor.diff_dst_desc()},
                         {DNNL_ARG_WEIGHTS, descriptor.weights_desc()},
                         {DNNL_ARG_DIFF_SRC, descriptor.diff_src_desc()}});
  });
}

// The filter's gradient is f32 for bf16 activations too, in a layout of oneDNN's choice.
Primitive& backward_filter_primitive(OneDnn& dnn, const ConvShape& s, DType type) {
  return dnn.primitive(key_of(kBackwardFilter, s, type), "convolution's filter gradient", [&] {
    Descriptors d(s, onednn_type(type));
    memory::desc gradient(d.filter.dims(), memory::data_type::f32, Tag::any);
    dnnl::convolution_backward_weights::desc desc(kDirect, d.x, gradient, d.y, d.strides, d.dilates,
                                                  d.padding, d.padding);
    dnnl::convolution_backward_weights::primitive_desc descriptor(desc, user_scratchpad(), dnn.engine,
                                                                  hint(dnn, d));
    return dnn.assemble(descriptor, dnnl::convolution_backward_weights(descriptor),
                        {{DNNL_ARG_SRC, descriptor.src_desc()},
                         {DNNL_ARG_DIFF_DST, descriptor.diff_dst_desc()},
                         {DNNL_ARG_DIFF_WEIGHTS, descriptor.diff_weights_desc()}});
  });
}

memory::desc packed_desc(OneDnn& dnn, const ConvShape& s, DType type, ConvPass pass) {
  Primitive& primitive = pass == ConvPass::forward ? forward_primitive(dnn, s, type, s.n, 0)
                                                   : backward_data_primitive(dnn, s, type);
  return primitive.arguments.at(DNNL_ARG_WEIGHTS).get_desc();
}

// to = from, or to += from, between two layouts and types.
Primitive make_reorder(OneDnn& dnn, const memory::desc& from, const memory::desc& to, bool accumulate) {
  dnnl::primitive_attr attributes = user_scratchpad();
  dnnl::post_ops post;
  if (accumulate) post.append_sum(1);
  attributes.set_post_ops(post);
  dnnl::reorder::primitive_desc descriptor(dnn.engine, from, dnn.engine, to, attributes);
  return dnn.assemble(descriptor, dnnl::reorder(descriptor), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

// How many images at once: their outputs stay in the second-level cache, and the count divides n.
int64_t cached_images(int64_t n, int64_t bytes_of_one) {
  constexpr int64_t kCache = int64_t{512} * 1024;
  int64_t images = std::clamp<int64_t>(kCache / bytes_of_one, 1, n);
  while (n % images != 0) --images;
  return images;
}

}  // namespace

FilterFormat CpuBackend::filter_format(Stream& stream, const ConvShape& shape, DType type, ConvPass pass) {
  check(shape);
  if (computes_in_f32(type)) {
    FilterFormat f32 = filter_format(stream, shape, DType::f32, pass);
    return {"bf16 as f32: " + f32.key, f32.bytes};
  }
  if (gathers(shape)) return filter_format(stream, gathered(shape), type, pass);
  memory::desc desc = packed_desc(onednn(cpu_stream(stream)), shape, type, pass);
  const dnnl_memory_desc_t& d = desc.data;
  const dnnl_blocking_desc_t& b = d.format_desc.blocking;
  TAPER_CHECK(d.format_kind == dnnl_blocked && d.extra.flags == 0, "oneDNN's filter layout {}",
              int(d.format_kind));
  auto list = [](const dnnl_dim_t* values, int count) {
    return fmt::format("{}", fmt::join(values, values + count, ","));
  };
  std::string key = fmt::format("onednn {} [{}] in [{}] strides [{}] blocks [{}] of [{}]", taper::name(type),
                                list(d.dims, d.ndims), list(d.padded_dims, d.ndims), list(b.strides, d.ndims),
                                list(b.inner_blks, b.inner_nblks), list(b.inner_idxs, b.inner_nblks));
  return {key, static_cast<int64_t>(desc.get_size())};
}

void CpuBackend::pack_filter(Stream& stream, const ConvShape& shape, DType type, ConvPass pass,
                             const void* filter, void* packed) {
  check(shape);
  if (computes_in_f32(type)) {
    const int64_t count = shape.k * shape.r * shape.s * (shape.c / shape.groups);
    Tensor rounded(stream, DType::bf16, {count});
    cast(stream, count, DType::f32, filter, DType::bf16, rounded.data());
    return pack_filter(stream, shape, DType::f32, pass, widened(*this, stream, count, rounded.data()).data(),
                       packed);
  }
  if (gathers(shape)) return pack_filter(stream, gathered(shape), type, pass, filter, packed);
  CpuStream& cpu = cpu_stream(stream);
  OneDnn& dnn = onednn(cpu);
  Op op = pass == ConvPass::forward ? kPack : kPackBackward;
  Primitive& reorder = dnn.primitive(key_of(op, shape, type), "packing of a filter", [&] {
    return make_reorder(dnn, Descriptors(shape, onednn_type(type)).master,
                        packed_desc(dnn, shape, type, pass), false);
  });
  dnn.run(reorder, {{DNNL_ARG_FROM, filter}, {DNNL_ARG_TO, packed}}, cpu.scratch(reorder.scratch_bytes));
}

void CpuBackend::conv_forward(Stream& stream, const ConvShape& shape, DType type, const void* x,
                              const void* packed, const ConvEpilogue& epilogue, void* y) {
  check(shape);
  if (computes_in_f32(type)) {
    Tensor y32(stream, DType::f32, {y_size(shape)}), add32;
    ConvEpilogue f32 = epilogue;
    if (epilogue.add != nullptr) {
      add32 = widened(*this, stream, y_size(shape), epilogue.add);
      f32.add = add32.data();
    }
    conv_forward(stream, shape, DType::f32, widened(*this, stream, x_size(shape), x).data(), packed, f32,
                 y32.data());
    return round(*this, stream, y32, y);
  }
  if (gathers(shape))
    return conv_forward(stream, gathered(shape), type, gather(stream, shape, type, x).data(), packed,
                        epilogue, y);
  CpuStream& cpu = cpu_stream(stream);
  OneDnn& dnn = onednn(cpu);
  int64_t x_image = shape.h * shape.w * shape.c * size_of(type);
  int64_t y_count = shape.out_h() * shape.out_w() * shape.k, y_image = y_count * size_of(type);
  // oneDNN adds to what lies in y already, and its relu turns NaN into 0: both are passes of our own beside
  // the convolution, made on as many images as stay in the cache.
  bool copies = epilogue.add != nullptr && epilogue.add != y;
  int64_t images = copies || epilogue.relu ? cached_images(shape.n, y_image) : shape.n;
  int64_t fused = (epilogue.bias ? kBias : 0) | (epilogue.add ? kAdd : 0);
  Primitive& primitive = forward_primitive(dnn, shape, type, images, fused);
  void* scratch = cpu.scratch(primitive.scratch_bytes);
  for (int64_t i = 0; i < shape.n; i += images) {
    const void* x_part = static_cast<const char*>(x) + i * x_image;
    void* y_part = static_cast<char*>(y) + i * y_image;
    if (copies) cpu.copy(y_part, static_cast<const char*>(epilogue.add) + i * y_image, images * y_image);
    dnn.run(primitive,
            {{DNNL_ARG_SRC, x_part},
             {DNNL_ARG_WEIGHTS, packed},
             {DNNL_ARG_BIAS, epilogue.bias},
             {DNNL_ARG_DST, y_part}},
            scratch);
    if (epilogue.relu) activate(stream, Activation::relu, images * y_count, type, y_part, y_part);
  }
}

void CpuBackend::conv_backward_data(Stream& stream, const ConvShape& shape, DType type, const void* dy,
                                    const void* packed, void* dx) {
  check(shape);
  if (computes_in_f32(type)) {
    Tensor dx32(stream, DType::f32, {x_size(shape)});
    conv_backward_data(stream, shape, DType::f32, widened(*this, stream, y_size(shape), dy).data(), packed,
                       dx32.data());
    return round(*this, stream, dx32, dx);
  }
  if (gathers(shape)) {
    Tensor dense(stream, type, {shape.n, shape.out_h(), shape.out_w(), shape.c});
    conv_backward_data(stream, gathered(shape), type, dy, packed, dense.data());
    const int64_t pixel = shape.c * size_of(type);
    std::memset(dx, 0, static_cast<size_t>(shape.n * shape.h * shape.w * pixel));
    for_pixels(shape, pixel, [&](int64_t to, int64_t from) {
      std::memcpy(static_cast<char*>(dx) + to, static_cast<const char*>(dense.data()) + from,
                  static_cast<size_t>(pixel));
    });
    return;
  }
  CpuStream& cpu = cpu_stream(stream);
  OneDnn& dnn = onednn(cpu);
  Primitive& primitive = backward_data_primitive(dnn, shape, type);
  dnn.run(primitive, {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DIFF_SRC, dx}},
          cpu.scratch(primitive.scratch_bytes));
}

void CpuBackend::conv_backward_filter(Stream& stream, const ConvShape& shape, DType type, const void* x,
                                      const void* dy, void* dfilter) {
  check(shape);
  if (computes_in_f32(type))
    return conv_backward_filter(stream, shape, DType::f32, widened(*this, stream, x_size(shape), x).data(),
                                widened(*this, stream, y_size(shape), dy).data(), dfilter);
  if (gathers(shape))
    return conv_backward_filter(stream, gathered(shape), type, gather(stream, shape, type, x).data(), dy,
                                dfilter);
  CpuStream& cpu = cpu_stream(stream);
  OneDnn& dnn = onednn(cpu);
  Primitive& primitive = backward_filter_primitive(dnn, shape, type);
  memory::desc gradient_desc = primitive.arguments.at(DNNL_ARG_DIFF_WEIGHTS).get_desc();
  Primitive& accumulate = dnn.primitive(key_of(kAccumulate, shape, type), "sum of filter gradients", [&] {
    return make_reorder(dnn, gradient_desc, Descriptors(shape, onednn_type(type)).master, true);
  });
  int64_t gradient_bytes = aligned(static_cast<int64_t>(gradient_desc.get_size()));
  auto* gradient = static_cast<char*>(
      cpu.scratch(gradient_bytes + std::max(primitive.scratch_bytes, accumulate.scratch_bytes)));
  void* scratch = gradient + gradient_bytes;
  dnn.run(primitive, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_WEIGHTS, gradient}},
          scratch);
  dnn.run(accumulate, {{DNNL_ARG_FROM, gradient}, {DNNL_ARG_TO, dfilter}}, scratch);
}

}  // namespace taper
