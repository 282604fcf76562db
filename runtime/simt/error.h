#pragma once
// Which error the next cudaGetLastError of this thread gives, and in which words.

#include <driver_types.h>

#include <string>

namespace taper::simt {

/// Remembers an error for cudaGetLastError and returns it; cudaSuccess leaves what is remembered.
cudaError_t remember(cudaError_t error);

/// Remembers that work of a stream failed, with words that cudaGetErrorString gives from now on.
cudaError_t remember_failure(const std::string& message);

}  // namespace taper::simt
