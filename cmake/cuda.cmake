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
# CMake 3.25 takes it for granted, and CUDA 13 has it no more.
if(NOT TARGET CUDA::nvToolsExt)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit REQUIRED)

# NCCL, between the GPUs of several ranks: the machine's, or PyPI's, where scripts/cuda-toolkit.sh puts it.
file(GLOB pypi_nccl ${CMAKE_SOURCE_DIR}/.cache/cuda/lib/python3*/site-packages/nvidia/nccl)
find_path(TAPER_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${pypi_nccl} PATH_SUFFIXES include)
find_library(TAPER_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} ${pypi_nccl} PATH_SUFFIXES lib)
if(NOT TAPER_NCCL_INCLUDE OR NOT TAPER_NCCL_LIBRARY)
  message(FATAL_ERROR "The device cuda needs NCCL: install NVIDIA's libnccl-dev, or run 'scripts/cuda-toolkit.sh compiler', "
    "which gets it from PyPI.")
endif()
add_library(taper_nccl INTERFACE)
target_include_directories(taper_nccl SYSTEM INTERFACE ${TAPER_NCCL_INCLUDE})
target_link_libraries(taper_nccl INTERFACE ${TAPER_NCCL_LIBRARY})
