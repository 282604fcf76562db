#include "runtime/philox.h"

#include <cmath>
#include <numbers>

namespace taper {

double Draws::normal() {
  double u1 = (static_cast<double>(word()) + 1.0) * 0x1p-32;  // in (0, 1]: the logarithm is finite
  double u2 = static_cast<double>(word()) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
}

}  // namespace taper
