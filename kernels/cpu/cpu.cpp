#include "kernels/cpu/cpu.h"

#include "kernels/cpu/onednn.h"
#include "kernels/cpu/targets.h"
// Highway after targets.h.
#include <hwy/highway.h>

namespace taper {

namespace {

std::string isa_name(dnnl::cpu_isa isa) {
  switch (isa) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_core_amx";
    default:
      return fmt::format("isa {:#x}", static_cast<unsigned>(isa));
  }
}

}  // namespace

CpuStream::CpuStream(int threads) : threads_(threads), onednn_(std::make_unique<OneDnn>()) {
  TAPER_CHECK(threads > 0, "a stream of {} threads", threads);
}

CpuStream::~CpuStream() {
  if (scratch_ != nullptr) allocator()->release(scratch_, scratch_bytes_);
}

void* CpuStream::scratch(int64_t bytes) {
  if (bytes > scratch_bytes_) {
    if (scratch_ != nullptr) allocator()->release(scratch_, scratch_bytes_);
    scratch_ = nullptr;
    scratch_ = allocator()->allocate(bytes);
    scratch_bytes_ = bytes;
  }
  return scratch_;
}

CpuStream& cpu_stream(Stream& stream) {
  auto* result = dynamic_cast<CpuStream*>(&stream);
  TAPER_CHECK(result != nullptr, "the cpu backend needs a stream that it made itself");
  return *result;
}

std::string CpuBackend::name() const { return "cpu"; }

std::map<std::string, std::string> CpuBackend::versions() const {
  const dnnl_version_t* v = dnnl::version();
  // The best set that the loops are compiled for (targets.h) and this processor has.
  int64_t target = hwy::SupportedTargets() & HWY_TARGETS;
  target &= -target;
  return {{"oneDNN", fmt::format("{}.{}.{}+{}", v->major, v->minor, v->patch, v->hash)},
          {"instruction_set", fmt::format("{} (loops), {} (oneDNN)", hwy::TargetName(target),
                                          isa_name(dnnl::get_effective_cpu_isa()))}};
}

std::unique_ptr<Stream> CpuBackend::make_stream(int threads) { return std::make_unique<CpuStream>(threads); }

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace taper
