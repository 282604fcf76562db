#include "kernels/cpu/onednn.h"

#include <omp.h>

namespace taper {

void OneDnn::run(Primitive& primitive, std::initializer_list<std::pair<int, const void*>> pointers,
                 void* scratch) {
  auto set = [&](int argument, const void* pointer) {
    dnnl::memory& memory = primitive.arguments.at(argument);
    // Setting a pointer also clears the padding of a blocked layout, which takes time and writes to memory
    // that other streams read.
    if (memory.get_data_handle() != pointer) memory.set_data_handle(const_cast<void*>(pointer), stream);
  };
  try {
    for (const auto& [argument, pointer] : pointers)
      if (pointer != nullptr) set(argument, pointer);
    set(DNNL_ARG_SCRATCHPAD, scratch);
    primitive.primitive.execute(stream, primitive.arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    throw Failure("oneDNN failed while it ran: {} (status {})", error.what(), dnnl_status2str(error.status));
  }
}

OneDnn& onednn(CpuStream& stream) {
  omp_set_num_threads(stream.threads());
  return stream.onednn();
}

bool onednn_has_avx512() {
  constexpr auto kAvx512 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  static const bool has = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kAvx512) == kAvx512;
  return has;
}

Tensor widened(CpuBackend& backend, Stream& stream, int64_t count, const void* from) {
  Tensor f32(stream, DType::f32, {count});
  backend.cast(stream, count, DType::bf16, from, DType::f32, f32.data());
  return f32;
}

void round(CpuBackend& backend, Stream& stream, const Tensor& from, void* to) {
  backend.cast(stream, from.size(), DType::f32, from.data(), DType::bf16, to);
}

dnnl::memory::data_type onednn_type(DType type) {
  if (type == DType::f32) return dnnl::memory::data_type::f32;
  TAPER_CHECK(type == DType::bf16 && !computes_in_f32(type),
              "the cpu backend has no convolution or product of {}", name(type));
  return dnnl::memory::data_type::bf16;
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace taper
