#pragma once
// Every op of the CUDA backend, on small pieces of the shapes that ResNet-50 and BERT give them: what
// simt_check_access_test.cpp counts the accesses of.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "runtime/tensor.h"

namespace taper::simt_test {

/// Runs ops on the checked device, in one type of activations.
class Ops {
 public:
  Ops(CudaBackend& backend, Stream& stream, DType type) : b(backend), s(stream), type(type) {}
  CudaBackend& b;
  Stream& s;
  const DType type;

  /// Values between -1 and 1, of the activations' type.
  void* values(int64_t count) { return keep(cast(floats(count), type)); }
  void* f32(int64_t count) { return keep(floats(count)); }
  void* space(int64_t count) { return keep(Tensor(s, type, {count})); }
  void* f32_space(int64_t count) { return keep(Tensor::zeros(s, DType::f32, {count})); }
  template <typename T>
  T* integers(int64_t count, const std::function<int64_t(int64_t)>& value) {
    std::vector<T> host;
    for (int64_t i = 0; i < count; ++i) host.push_back(static_cast<T>(value(i)));
    return static_cast<T*>(keep(Tensor::from<T>(s, {count}, host)));
  }

 private:
  Tensor floats(int64_t count) {
    std::vector<float> host;
    for (int64_t i = 0; i < count; ++i) host.push_back(static_cast<float>((i * 7919) % 251) / 125 - 1);
    return Tensor::from<float>(s, {count}, host);
  }
  Tensor cast(const Tensor& from, DType to) {
    if (to == DType::f32) return from;
    Tensor result(s, to, from.shape());
    b.cast(s, from.size(), DType::f32, from.data(), to, result.data());
    return result;
  }
  void* keep(Tensor tensor) { return tensors_.emplace_back(std::move(tensor)).data(); }
  std::vector<Tensor> tensors_;
};

/// An op, prepared: what is called is counted.
using Call = std::function<void()>;
using Prepare = std::function<Call(Ops&)>;
struct Op {
  std::string name;
  Prepare prepare;
};

/// Products and convolutions, which are made in f32, bf16 and tf32.
std::vector<Op> products();
/// What else has activations, in f32 or bf16.
std::vector<Op> other_ops();
/// Losses on logits, and optimizers: f32 whatever the activations are.
std::vector<Op> ops_of_f32();

}  // namespace taper::simt_test
