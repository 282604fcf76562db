#pragma once
// Activations that more than one family computes, in f32; kernels/activation.h has the formulas.

#include <cuda_runtime.h>

namespace taper::cuda {

/// Phi(x) by erfc: 1 + erf would cancel far to the left.
__device__ inline float normal_distribution(float x) { return 0.5f * erfcf(-0.70710678f * x); }
struct Gelu {
  __device__ float operator()(float x) const { return x * normal_distribution(x); }
};
/// exp(-2u), u = sqrt(2 / pi) (x + 0.044715 x^3): 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)).
__device__ inline float gelu_tanh_exponential(float x) {
  return expf(-2 * 0.79788456f * x * (1 + 0.044715f * x * x));
}
struct GeluTanh {
  __device__ float operator()(float x) const { return x / (1 + gelu_tanh_exponential(x)); }
};

}  // namespace taper::cuda
