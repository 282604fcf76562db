#pragma once
// A network's tensors as host values and as files.

#include <span>
#include <vector>

#include "autograd/parameter.h"

namespace taper {

/// A parameter's values on the host, in its layout in memory; exact, as every type fits in double.
std::vector<double> host_values(Stream& stream, const Parameter& parameter);
/// Sets a parameter to `values`, rounded to its type; its derived copies are then stale. As many values as
/// elements: Failure.
void set_values(Stream& stream, Parameter& parameter, std::span<const double> values);

}  // namespace taper
