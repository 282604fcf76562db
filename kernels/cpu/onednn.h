#pragma once
// oneDNN behind one stream. For the files of kernels/cpu that use oneDNN, and for nobody else.

#include <dnnl_debug.h>

#include <array>
#include <dnnl.hpp>
#include <initializer_list>
#include <map>
#include <unordered_map>

#include "kernels/cpu/cpu.h"
#include "runtime/tensor.h"

static_assert(DNNL_VERSION_MAJOR == 2, "kernels/cpu is written for version 2 of oneDNN's interface");

namespace taper {

/// Everything that tells one primitive from another: which op, its shape, types and fused parts.
using PrimitiveKey = std::array<int64_t, 24>;

/// A primitive, made once, and the memory objects that it runs on: between runs only their pointers change.
struct Primitive {
  dnnl::primitive primitive;
  std::unordered_map<int, dnnl::memory> arguments;  ///< by DNNL_ARG_*, the scratchpad among them
  int64_t scratch_bytes = 0;
};

/// One stream's engine and primitives. The library's own scratchpad is never used: with it, a bf16 primitive
/// that two threads ran at once gave wrong results (oneDNN 2.6.3).
struct OneDnn {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<PrimitiveKey, Primitive> primitives;

  /// The primitive for `key`, made by make() at the first call. Failure names `what` if oneDNN refuses.
  template <typename Make>
  Primitive& primitive(const PrimitiveKey& key, const char* what, Make make) {
    auto found = primitives.find(key);
    if (found == primitives.end()) {
      try {
        found = primitives.emplace(key, make()).first;
      } catch (const dnnl::error& error) {
        throw Failure("oneDNN cannot run this {}: {} (status {})", what, error.what(),
                      dnnl_status2str(error.status));
      }
    }
    return found->second;
  }

  /// A primitive with memory objects for `arguments` and its scratchpad.
  template <typename Descriptor, typename Made>
  Primitive assemble(const Descriptor& descriptor, const Made& primitive,
                     std::initializer_list<std::pair<int, dnnl::memory::desc>> arguments) {
    Primitive result{primitive, {}, static_cast<int64_t>(descriptor.scratchpad_desc().get_size())};
    for (const auto& [argument, desc] : arguments)
      if (!desc.is_zero()) result.arguments.emplace(argument, dnnl::memory(desc, engine, DNNL_MEMORY_NONE));
    result.arguments.emplace(DNNL_ARG_SCRATCHPAD,
                             dnnl::memory(descriptor.scratchpad_desc(), engine, DNNL_MEMORY_NONE));
    return result;
  }

  /// Runs the primitive on these pointers, leaving out those that are null; `scratch` holds scratch_bytes.
  void run(Primitive& primitive, std::initializer_list<std::pair<int, const void*>> pointers, void* scratch);
};

/// The stream's oneDNN. Sets the calling thread's number of OpenMP threads to the stream's.
OneDnn& onednn(CpuStream& stream);

/// Whether oneDNN uses AVX-512 (F, BW, VL and DQ).
bool onednn_has_avx512();

/// Whether products and convolutions of `type` are made in f32, of operands widened to it and with the result
/// rounded: those of bf16 without AVX-512, for which oneDNN has none. Sums are in f32 either way.
inline bool computes_in_f32(DType type) { return type == DType::bf16 && !onednn_has_avx512(); }

/// The `count` elements of bf16 as f32, in the stream's memory.
Tensor widened(CpuBackend& backend, Stream& stream, int64_t count, const void* from);
/// f32 rounded to bf16.
void round(CpuBackend& backend, Stream& stream, const Tensor& from, void* to);

/// f32 or bf16; Failure for another type, and where computes_in_f32.
dnnl::memory::data_type onednn_type(DType type);

/// The bytes, rounded up so that what follows in the same block of memory is aligned.
constexpr int64_t aligned(int64_t bytes) { return (bytes + 127) / 128 * 128; }

/// Attributes that every primitive of ours has.
dnnl::primitive_attr user_scratchpad();

}  // namespace taper
