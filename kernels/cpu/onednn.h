#pragma once
// oneDNN behind one stream. For kernels/cpu/*.cpp that use oneDNN, and for nobody else.

#include <dnnl.hpp>

#include "kernels/cpu/cpu.h"

namespace taper {

struct OneDnn {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};

}  // namespace taper
