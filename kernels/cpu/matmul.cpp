// Matrix products by oneDNN's matmul.

#include "kernels/cpu/onednn.h"

namespace taper {

namespace {

using dnnl::memory;

// Which parts of the epilogue oneDNN runs itself.
constexpr int64_t kBias = 1, kScale = 2, kAccumulate = 4, kGelu = 8, kGeluTanh = 16, kResidual = 32;

constexpr int64_t kMatmul = 100;  // apart from the convolutions' numbers in a PrimitiveKey

// Arguments of post-operations are named by their place: a bias after a scale is the second.
constexpr int kScaledBias = DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1;
int residual_argument(int64_t fused) {
  int before = (fused & kScale ? 1 : 0) + (fused & kScale && fused & kBias ? 1 : 0) +
               (fused & (kGelu | kGeluTanh) ? 1 : 0);
  return DNNL_ARG_ATTR_MULTIPLE_POST_OP(before) | DNNL_ARG_SRC_1;
}

// Whether a single matrix serves the whole batch.
bool shared(int64_t stride) { return stride == 0; }

memory::desc matrix(int64_t batch, int64_t rows, int64_t columns, bool transposed, int64_t stride,
                    memory::data_type type) {
  int64_t count = shared(stride) ? 1 : batch;
  int64_t step = count == 1 ? rows * columns : stride;
  memory::dims strides = transposed ? memory::dims{step, 1, rows} : memory::dims{step, columns, 1};
  return {{count, rows, columns}, type, strides};
}

Primitive make_matmul(OneDnn& dnn, const MatmulShape& s, memory::data_type type, memory::data_type out_type,
                      int64_t fused, double scale) {
  memory::desc a = matrix(s.batch, s.m, s.k, s.transpose_a, s.stride_a, type);
  memory::desc b = matrix(s.batch, s.k, s.n, s.transpose_b, s.stride_b, type);
  memory::desc out = matrix(s.batch, s.m, s.n, false, s.stride_out, out_type);
  memory::desc bias({1, 1, s.n}, memory::data_type::f32, memory::format_tag::abc);
  dnnl::post_ops post;
  // oneDNN's own scale would multiply the bias too.
  if (fused & kScale) post.append_eltwise(1, dnnl::algorithm::eltwise_linear, static_cast<float>(scale), 0);
  bool bias_after_scale = fused & kScale && fused & kBias;
  if (bias_after_scale) post.append_binary(dnnl::algorithm::binary_add, bias);
  if (fused & kAccumulate) post.append_sum(1);
  if (fused & kGelu) post.append_eltwise(1, dnnl::algorithm::eltwise_gelu_erf, 0, 0);
  if (fused & kGeluTanh) post.append_eltwise(1, dnnl::algorithm::eltwise_gelu_tanh, 0, 0);
  if (fused & kResidual) post.append_binary(dnnl::algorithm::binary_add, out);
  dnnl::primitive_attr attributes = user_scratchpad();
  attributes.set_post_ops(post);
  bool own_bias = fused & kBias && !bias_after_scale;
  auto desc = own_bias ? dnnl::matmul::desc(a, b, bias, out) : dnnl::matmul::desc(a, b, out);
  dnnl::matmul::primitive_desc descriptor(desc, attributes, dnn.engine);
  return dnn.assemble(descriptor, dnnl::matmul(descriptor),
                      {{DNNL_ARG_SRC, a},
                       {DNNL_ARG_WEIGHTS, b},
                       {DNNL_ARG_BIAS, own_bias ? bias : memory::desc()},
                       {kScaledBias, bias_after_scale ? bias : memory::desc()},
                       {residual_argument(fused), fused & kResidual ? out : memory::desc()},
                       {DNNL_ARG_DST, out}});
}

// `count` matrices of bf16, `stride` elements apart, as f32 without gaps.
Tensor widened_matrices(CpuBackend& backend, Stream& stream, int64_t count, int64_t size, int64_t stride,
                        const void* from) {
  Tensor all(stream, DType::f32, {count * size});
  for (int64_t i = 0; i < count; ++i)
    backend.cast(stream, size, DType::bf16, static_cast<const bf16*>(from) + i * stride, DType::f32,
                 all.slice(i * size, size).data());
  return all;
}

// A product of bf16 by one of f32.
void matmul_in_f32(CpuBackend& backend, Stream& stream, const MatmulShape& shape, const void* a,
                   const void* b, const MatmulEpilogue& epilogue, DType out_type, void* out) {
  MatmulShape dense = shape;
  auto operand = [&](const void* from, int64_t size, int64_t& stride) {
    Tensor all = widened_matrices(backend, stream, shared(stride) ? 1 : shape.batch, size, stride, from);
    if (!shared(stride)) stride = size;
    return all;
  };
  const Tensor a32 = operand(a, shape.m * shape.k, dense.stride_a),
               b32 = operand(b, shape.k * shape.n, dense.stride_b);
  if (out_type == DType::f32)
    return backend.matmul(stream, dense, DType::f32, a32.data(), b32.data(), epilogue, DType::f32, out);
  const int64_t size = dense.stride_out = shape.m * shape.n;
  auto result = [&](const void* from) {
    return widened_matrices(backend, stream, shape.batch, size, shape.stride_out, from);
  };
  auto store = [&](const Tensor& from, void* to) {
    for (int64_t i = 0; i < shape.batch; ++i)
      round(backend, stream, from.slice(i * size, size), static_cast<bf16*>(to) + i * shape.stride_out);
  };
  MatmulEpilogue f32 = epilogue;
  Tensor out32 = epilogue.accumulate ? result(out) : Tensor(stream, DType::f32, {shape.batch * size});
  Tensor residual, before;
  if (epilogue.residual != nullptr) {
    residual = result(epilogue.residual);
    f32.residual = residual.data();
  }
  if (epilogue.pre_activation != nullptr) {
    before = Tensor(stream, DType::f32, {shape.batch * size});
    f32.pre_activation = before.data();
  }
  backend.matmul(stream, dense, DType::f32, a32.data(), b32.data(), f32, DType::f32, out32.data());
  if (before.defined()) store(before, epilogue.pre_activation);
  store(out32, out);
}

}  // namespace

void CpuBackend::matmul(Stream& stream, const MatmulShape& shape, DType type, const void* a, const void* b,
                        const MatmulEpilogue& epilogue, DType out_type, void* out) {
  TAPER_CHECK(shape.m > 0 && shape.n > 0 && shape.k > 0 && shape.batch > 0,
              "a product of {} times {} x {} x {}", shape.batch, shape.m, shape.k, shape.n);
  TAPER_CHECK(!epilogue.accumulate || (epilogue.bias == nullptr && epilogue.activation == Activation::none &&
                                       epilogue.pre_activation == nullptr && epilogue.residual == nullptr),
              "an accumulating product takes nothing but a scale");
  TAPER_CHECK(out_type == type || out_type == accumulator(type), "a product of {} written as {}",
              taper::name(type), taper::name(out_type));
  if (computes_in_f32(type)) return matmul_in_f32(*this, stream, shape, a, b, epilogue, out_type, out);
  if (shape.batch > 1 && shared(shape.stride_a) && shared(shape.stride_b)) {
    // oneDNN cannot say that one product is written several times.
    for (int64_t i = 0; i < shape.batch; ++i) {
      auto at = [&](const void* base) -> void* {
        if (base == nullptr) return nullptr;
        return static_cast<char*>(const_cast<void*>(base)) + i * shape.stride_out * size_of(out_type);
      };
      MatmulShape one = shape;
      one.batch = 1;
      MatmulEpilogue part = epilogue;
      part.pre_activation = at(epilogue.pre_activation);
      part.residual = at(epilogue.residual);
      matmul(stream, one, type, a, b, part, out_type, at(out));
    }
    return;
  }
  CpuStream& cpu = cpu_stream(stream);
  OneDnn& dnn = onednn(cpu);

  // What the backward needs is written by the product itself, the activation then by a second pass over it.
  bool separate = epilogue.pre_activation != nullptr;
  void* target = separate ? epilogue.pre_activation : out;
  int64_t fused = (epilogue.bias ? kBias : 0) | (epilogue.scale != 1 ? kScale : 0) |
                  (epilogue.accumulate ? kAccumulate : 0);
  if (!separate && epilogue.residual != nullptr) fused |= kResidual;
  if (!separate && epilogue.activation == Activation::gelu) fused |= kGelu;
  if (!separate && epilogue.activation == Activation::gelu_tanh) fused |= kGeluTanh;
  PrimitiveKey key{kMatmul,
                   shape.m,
                   shape.n,
                   shape.k,
                   shape.transpose_a,
                   shape.transpose_b,
                   shape.batch,
                   shape.stride_a,
                   shape.stride_b,
                   shape.stride_out,
                   int64_t(type),
                   int64_t(out_type),
                   fused,
                   std::bit_cast<int64_t>(epilogue.scale)};
  Primitive& primitive = dnn.primitive(key, "matrix product", [&] {
    return make_matmul(dnn, shape, onednn_type(type), onednn_type(out_type), fused, epilogue.scale);
  });
  dnn.run(primitive,
          {{DNNL_ARG_SRC, a},
           {DNNL_ARG_WEIGHTS, b},
           {fused & kScale ? kScaledBias : DNNL_ARG_BIAS, epilogue.bias},
           {residual_argument(fused), fused & kResidual ? epilogue.residual : nullptr},
           {DNNL_ARG_DST, target}},
          cpu.scratch(primitive.scratch_bytes));
  if (!separate) return;
  int64_t count = shape.m * shape.n, step = shape.batch == 1 ? count : shape.stride_out;
  for (int64_t i = 0; i < shape.batch; ++i) {
    auto at = [&](const void* base) { return static_cast<const char*>(base) + i * step * size_of(out_type); };
    void* y = const_cast<char*>(at(out));
    activate(stream, epilogue.activation, count, out_type, at(epilogue.pre_activation), y);
    if (epilogue.residual != nullptr) add(stream, count, out_type, y, at(epilogue.residual), y);
  }
}

}  // namespace taper
