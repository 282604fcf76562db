#pragma once
// CUDA's index variables: variables here too, for as macros they would catch members of the same names
// (`config.gridDim`).

#include <vector_types.h>

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
constexpr int warpSize = 32;
