#include "runtime/tensor.h"

namespace taper {

int64_t elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) {
    TAPER_CHECK(extent >= 0, "shape {}", to_string(shape));
    TAPER_CHECK(!__builtin_mul_overflow(count, extent, &count), "shape {} has too many elements",
                to_string(shape));
  }
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor::Tensor(Stream& stream, DType type, Shape shape)
    : type_(type), shape_(std::move(shape)), size_(elements(shape_)) {
  int64_t size = 0;
  TAPER_CHECK(!__builtin_mul_overflow(size_, size_of(type), &size), "shape {} has too many bytes",
              to_string(shape_));
  data_ = stream.allocator()->allocate(size);
  block_ = std::shared_ptr<void>(
      data_, [allocator = stream.allocator(), size](void* block) { allocator->release(block, size); });
}

Tensor Tensor::zeros(Stream& stream, DType type, Shape shape) {
  Tensor result(stream, type, std::move(shape));
  stream.zero(result.data(), result.bytes());
  return result;
}

Tensor Tensor::view(Shape shape) const {
  TAPER_CHECK(elements(shape) == size_, "{} seen as {}", to_string(shape_), to_string(shape));
  Tensor result = *this;
  result.shape_ = std::move(shape);
  return result;
}

Tensor Tensor::slice(int64_t offset, int64_t count) const {
  TAPER_CHECK(offset >= 0 && count >= 0 && offset <= size_ - count, "elements {} to {} of {}", offset,
              offset + count, size_);
  Tensor result = *this;
  result.data_ = static_cast<char*>(data_) + offset * size_of(type_);
  result.shape_ = {count};
  result.size_ = count;
  return result;
}

}  // namespace taper
