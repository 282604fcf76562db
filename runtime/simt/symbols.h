#pragma once
// What the executable's symbol table says of kernels and of the arrays in their shared memory.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace taper::simt {

/// A __shared__ variable: a thread-local one of the host, at the same distance from threadIdx in every
/// thread.
struct SharedArray {
  std::string mangled;
  int64_t offset;  // of its first byte from threadIdx's
  size_t bytes;

  std::string name() const;
};

/// A function, by its address, with the shared arrays that it declares itself.
struct KernelSymbol {
  std::string name;  // without parameters
  std::vector<SharedArray> shared;
};
const KernelSymbol& kernel_symbol(const void* kernel);

/// The shared arrays of all functions, by ascending offset.
const std::vector<SharedArray>& shared_arrays();

}  // namespace taper::simt
