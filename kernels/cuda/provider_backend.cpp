#include "kernels/cuda/provider_backend.h"

#include <limits>

#include "runtime/cuda/device.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace taper {

namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

std::string text(const MatmulShape& s, DType type, bool tf32, DType out_type) {
  return fmt::format("matmul {}x[{} x {} x {}] {}{} {} -> {}, strides {} {} {}", s.batch, s.m, s.k, s.n,
                     s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', tf32 ? "tf32" : name(type),
                     name(out_type), s.stride_a, s.stride_b, s.stride_out);
}

std::string text(const char* op, const ConvShape& s, DType type, bool tf32) {
  return fmt::format(
      "{} [{} x {} x {} x {}] filter [{} x {} x {}] stride {} padding {} dilation {} groups {} {}", op, s.n,
      s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.padding, s.dilation, s.groups, tf32 ? "tf32" : name(type));
}

/// A vendor's own errors are not what this is for: it has nothing for the shape.
void require(bool made, const std::string& what) {
  if (!made)
    throw Failure("NVIDIA's library has no deterministic way to make {}; \"own\" and \"auto\" do without it",
                  what);
}

/// Elements from the first to the last of a batch.
int64_t span(int64_t batch, int64_t stride, int64_t matrix) { return (batch - 1) * stride + matrix; }

/// Memory for a measurement, all zeros.
Tensor zeros(Stream& stream, DType type, int64_t size) { return Tensor::zeros(stream, type, {size}); }

struct ConvSizes {
  explicit ConvSizes(const ConvShape& s)
      : x(s.n * s.h * s.w * s.c), y(s.n * s.out_h() * s.out_w() * s.k), filter(s.filter_size()) {}
  int64_t x, y, filter;
};

const char* name_of(ConvPass pass) {
  return pass == ConvPass::forward ? "conv_forward" : "conv_backward_data";
}

}  // namespace

ProviderBackend::ProviderBackend(std::string name, int device, const BackendOptions& options,
                                 std::unique_ptr<VendorKernels> vendor)
    : CudaBackend(std::move(name), device, options),
      vendor_(std::move(vendor)),
      choices_(options.choices != nullptr ? options.choices : std::make_shared<ProviderChoices>()) {}

bool ProviderBackend::by_vendor(Provider asked, const std::string& key,
                                const std::function<double(Provider)>& seconds) {
  if (asked != Provider::automatic) return asked == Provider::vendor;
  return choices_->choose(key, seconds) == Provider::vendor;
}

bool ProviderBackend::matmul_by_vendor(CudaStream& stream, const MatmulShape& s, DType type, DType out_type) {
  return by_vendor(options().matmul, text(s, type, options().tf32, out_type), [&](Provider provider) {
    Tensor a = zeros(stream, type, span(s.batch, s.stride_a, s.m * s.k));
    Tensor b = zeros(stream, type, span(s.batch, s.stride_b, s.k * s.n));
    Tensor out = zeros(stream, out_type, span(s.batch, s.stride_out, s.m * s.n));
    bool made = true;
    const double took = cuda_seconds(stream, [&] {
      if (provider == Provider::own)
        CudaBackend::matmul(stream, s, type, a.data(), b.data(), {}, out_type, out.data());
      else
        made = vendor_->matmul(stream, s, type, options().tf32, a.data(), b.data(), 1, false, out_type,
                               out.data());
    });
    return made ? took : kNever;
  });
}

void ProviderBackend::matmul(Stream& stream, const MatmulShape& shape, DType type, const void* a,
                             const void* b, const MatmulEpilogue& e, DType out_type, void* out) {
  CudaStream& queue = cuda_stream(stream);
  if (!matmul_by_vendor(queue, shape, type, out_type))
    return CudaBackend::matmul(stream, shape, type, a, b, e, out_type, out);
  const std::string what = text(shape, type, options().tf32, out_type);
  const bool plain = e.bias == nullptr && e.activation == Activation::none && e.pre_activation == nullptr &&
                     e.residual == nullptr;
  if (plain)
    return require(
        vendor_->matmul(queue, shape, type, options().tf32, a, b, e.scale, e.accumulate, out_type, out),
        what);
  MatmulShape dense = shape;
  dense.stride_out = shape.m * shape.n;
  Tensor product(stream, DType::f32, {shape.batch, shape.m, shape.n});
  require(vendor_->matmul(queue, dense, type, options().tf32, a, b, 1, false, DType::f32, product.data()),
          what);
  apply_epilogue(stream, shape, product.as<float>(), e, out_type, out);
}

bool ProviderBackend::conv_by_vendor(CudaStream& stream, const ConvShape& s, DType type, ConvPass pass) {
  check(s);
  return by_vendor(
      options().convolution, text(name_of(pass), s, type, options().tf32), [&](Provider provider) {
        const ConvSizes sizes(s);
        const bool forward = pass == ConvPass::forward;
        Tensor in = zeros(stream, type, forward ? sizes.x : sizes.y);
        Tensor out = zeros(stream, type, forward ? sizes.y : sizes.x);
        const int64_t own_bytes = CudaBackend::filter_format(stream, s, type, pass).bytes;
        Tensor filter = zeros(stream, DType::u8, std::max(own_bytes, sizes.filter * size_of(type)));
        bool made = true;
        const double took = cuda_seconds(stream, [&] {
          if (provider == Provider::own && forward)
            CudaBackend::conv_forward(stream, s, type, in.data(), filter.data(), {}, out.data());
          else if (provider == Provider::own)
            CudaBackend::conv_backward_data(stream, s, type, in.data(), filter.data(), out.data());
          else if (forward)
            made =
                vendor_->conv_forward(stream, s, type, options().tf32, in.data(), filter.data(), out.data());
          else
            made = vendor_->conv_backward_data(stream, s, type, options().tf32, in.data(), filter.data(),
                                               out.data());
        });
        return made ? took : kNever;
      });
}

bool ProviderBackend::filter_gradient_by_vendor(CudaStream& stream, const ConvShape& s, DType type) {
  check(s);
  const std::string key = text("conv_backward_filter", s, type, options().tf32);
  return by_vendor(options().convolution, key, [&](Provider provider) {
    const ConvSizes sizes(s);
    Tensor x = zeros(stream, type, sizes.x), dy = zeros(stream, type, sizes.y);
    Tensor dfilter = zeros(stream, provider == Provider::own ? DType::f32 : type, sizes.filter);
    bool made = true;
    const double took = cuda_seconds(stream, [&] {
      if (provider == Provider::own)
        CudaBackend::conv_backward_filter(stream, s, type, x.data(), dy.data(), dfilter.data());
      else
        made = vendor_->conv_backward_filter(stream, s, type, options().tf32, x.data(), dy.data(),
                                             dfilter.data());
    });
    return made ? took : kNever;
  });
}

FilterFormat ProviderBackend::filter_format(Stream& stream, const ConvShape& shape, DType type,
                                            ConvPass pass) {
  if (!conv_by_vendor(cuda_stream(stream), shape, type, pass))
    return CudaBackend::filter_format(stream, shape, type, pass);
  return {fmt::format("krsc {}", taper::name(type)), shape.filter_size() * size_of(type)};
}

void ProviderBackend::pack_filter(Stream& stream, const ConvShape& shape, DType type, ConvPass pass,
                                  const void* filter, void* packed) {
  if (conv_by_vendor(cuda_stream(stream), shape, type, pass))
    cast(stream, shape.filter_size(), DType::f32, filter, type, packed);
  else
    CudaBackend::pack_filter(stream, shape, type, pass, filter, packed);
}

void ProviderBackend::conv_forward(Stream& stream, const ConvShape& s, DType type, const void* x,
                                   const void* packed, const ConvEpilogue& epilogue, void* y) {
  CudaStream& queue = cuda_stream(stream);
  if (!conv_by_vendor(queue, s, type, ConvPass::forward))
    return CudaBackend::conv_forward(stream, s, type, x, packed, epilogue, y);
  require(vendor_->conv_forward(queue, s, type, options().tf32, x, packed, y),
          text("conv_forward", s, type, options().tf32));
  if (epilogue.bias == nullptr && epilogue.add == nullptr && !epilogue.relu) return;
  // Batch norm's inference with a scale of 1 is the same function, element by element, so that y may be x.
  const std::vector<float> ones(static_cast<size_t>(s.k), 1.0f);
  Tensor scale = Tensor::from<float>(stream, {s.k}, ones), none;
  if (epilogue.bias == nullptr) none = zeros(stream, DType::f32, s.k);
  batch_norm_inference(stream, {s.n * s.out_h() * s.out_w(), s.k, epilogue.relu}, type, y, scale.data(),
                       epilogue.bias != nullptr ? epilogue.bias : none.data(), epilogue.add, y);
}

void ProviderBackend::conv_backward_data(Stream& stream, const ConvShape& s, DType type, const void* dy,
                                         const void* packed, void* dx) {
  CudaStream& queue = cuda_stream(stream);
  if (!conv_by_vendor(queue, s, type, ConvPass::backward_data))
    return CudaBackend::conv_backward_data(stream, s, type, dy, packed, dx);
  require(vendor_->conv_backward_data(queue, s, type, options().tf32, dy, packed, dx),
          text("conv_backward_data", s, type, options().tf32));
}

void ProviderBackend::conv_backward_filter(Stream& stream, const ConvShape& s, DType type, const void* x,
                                           const void* dy, void* dfilter) {
  CudaStream& queue = cuda_stream(stream);
  if (!filter_gradient_by_vendor(queue, s, type))
    return CudaBackend::conv_backward_filter(stream, s, type, x, dy, dfilter);
  Tensor gradient(stream, type, {s.filter_size()});
  require(vendor_->conv_backward_filter(queue, s, type, options().tf32, x, dy, gradient.data()),
          text("conv_backward_filter", s, type, options().tf32));
  if (type != DType::f32) {
    Tensor wide(stream, DType::f32, {s.filter_size()});
    cast(stream, s.filter_size(), type, gradient.data(), DType::f32, wide.data());
    gradient = wide;
  }
  add(stream, s.filter_size(), DType::f32, dfilter, gradient.data(), dfilter);
}

}  // namespace taper
