# nvcc, and what it compiles for.

# Every GPU from Ampere on: code of its own for those that training runs on, PTX for what comes after them.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100)
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
if(ccache AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${ccache})
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13)
  message(FATAL_ERROR "The CUDA kernels need nvcc 13; ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}. Set CUDACXX to "
    "a newer one, for example to what 'scripts/cuda-toolkit.sh' gets from PyPI.")
endif()
# CMake 3.25 does not know nvcc's flag for the standard.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
find_package(CUDAToolkit REQUIRED)
