#pragma once
// A dense row-major array on a device. No strides: images are NHWC, filters KRSC, sequences [batch, time,
// feature].

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace taper {

using Shape = std::vector<int64_t>;

/// The number of elements; 1 for a scalar's empty shape. Throws Failure on a negative extent or overflow.
int64_t elements(const Shape& shape);
/// "[8, 28, 28, 16]".
std::string to_string(const Shape& shape);

/// A handle: copies share the memory, which goes back to its allocator with the last of them.
class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised.
  Tensor(Stream& stream, DType type, Shape shape);
  static Tensor zeros(Stream& stream, DType type, Shape shape);
  /// A copy of host values, which must be as many as the shape's elements.
  template <typename T>
  static Tensor from(Stream& stream, Shape shape, std::span<const T> host) {
    Tensor result(stream, dtype_of<T>(), std::move(shape));
    TAPER_CHECK(result.size() == static_cast<int64_t>(host.size()), "{} values for shape {}", host.size(),
                to_string(result.shape()));
    stream.upload(result.data(), host.data(), result.bytes());
    return result;
  }

  bool defined() const { return block_ != nullptr; }
  DType dtype() const { return type_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int64_t axis) const { return shape_.at(static_cast<size_t>(axis)); }
  int64_t size() const { return size_; }
  int64_t bytes() const { return size_ * size_of(type_); }
  void* data() { return data_; }
  const void* data() const { return data_; }
  /// The data as T; Failure where the element type is another.
  template <typename T>
  T* as() {
    TAPER_CHECK(dtype_of<T>() == type_, "a tensor of {}", name(type_));
    return static_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return const_cast<Tensor*>(this)->as<T>();
  }
  /// The same memory under another shape of as many elements.
  Tensor view(Shape shape) const;
  /// `count` elements from `offset` on, as a vector that shares the memory.
  Tensor slice(int64_t offset, int64_t count) const;
  /// A copy on the host.
  template <typename T>
  std::vector<T> host(Stream& stream) const {
    std::vector<T> result(static_cast<size_t>(size_));
    TAPER_CHECK(dtype_of<T>() == type_, "a tensor of {}", name(type_));
    stream.download(result.data(), data_, bytes());
    return result;
  }

 private:
  std::shared_ptr<void> block_;
  void* data_ = nullptr;
  DType type_ = DType::f32;
  Shape shape_;
  int64_t size_ = 0;
};

}  // namespace taper
