#pragma once
// Memory of the simulated device for tests.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace taper::simt_test {

/// Device memory that holds `values`, or `count` times nothing.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  explicit OnDevice(size_t count) : count_(count) { EXPECT_EQ(cudaMalloc(&data_, bytes()), cudaSuccess); }
  ~OnDevice() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* get() { return data_; }
  std::vector<T> values() {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }
  size_t count_;
  T* data_ = nullptr;
};

/// Small integers, exact in bf16 and tf32, with exact sums of products.
inline std::vector<float> integers(size_t count, int seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = static_cast<float>((i * 7919 + static_cast<size_t>(seed) * 104729) % 251 % 17) - 8;
  return values;
}

}  // namespace taper::simt_test
