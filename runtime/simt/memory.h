#pragma once
// The memory of the simulated device.

#include <cstddef>

namespace taper::simt {

/// Whether all these bytes lie in one block that is allocated on the device.
bool on_device(const void* pointer, size_t bytes);

}  // namespace taper::simt
