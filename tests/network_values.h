#pragma once
// Small networks with random values on the reference backend, for tests of what is built on networks.

#include <string>
#include <vector>

#include "autograd/shards.h"
#include "layers/bridge.h"
#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {

/// Standard normal numbers.
inline std::vector<double> normals(int64_t count, std::string_view name) {
  Draws draws(hash(name), 0, 0);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& v : values) v = draws.normal();
  return values;
}

/// Every tensor of an allocated store: variances from 0.5 to 1.5, norms' weights about 1, the rest normal
/// with a deviation of 0.5.
inline void randomize(Stream& stream, ParameterStore& store) {
  for (Parameter& p : store.all()) {
    std::vector<double> values = normals(p.size, p.name);
    for (double& v : values) {
      if (p.role == Role::running_variance)
        v = 0.5 + 1 / (1 + v * v);
      else
        v = 0.5 * v + (p.role == Role::norm_weight ? 1 : 0);
    }
    set_values(stream, p, values);
  }
}

}  // namespace taper
