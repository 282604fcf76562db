#include "kernels/reference/reference.h"

#include "runtime/error.h"

namespace taper {

std::unique_ptr<Stream> ReferenceBackend::make_stream(int) { return std::make_unique<HostStream>(); }

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

namespace reference {

void require_double(DType type) {
  if (type != DType::f64)
    throw Failure("the reference backend computes in f64 only, not in {}; --device cpu computes in {}",
                  taper::name(type), taper::name(type));
}

}  // namespace reference
}  // namespace taper
