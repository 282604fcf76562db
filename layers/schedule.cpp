#include "layers/schedule.h"

#include <cmath>
#include <numbers>

namespace taper {

double Schedule::rate(int64_t step) const {
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  double t = steps > warmup ? static_cast<double>(step - warmup) / static_cast<double>(steps - warmup) : 0;
  switch (kind) {
    case Kind::constant:
      break;
    case Kind::cosine:
      return lr * (1 + std::cos(std::numbers::pi * t)) / 2;
    case Kind::linear:
      return lr * (1 - t);
    case Kind::step: {
      double rate = lr;
      for (int64_t milestone : milestones)
        if (milestone <= step) rate *= gamma;
      return rate;
    }
  }
  return lr;
}

}  // namespace taper
