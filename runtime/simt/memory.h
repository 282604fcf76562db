#pragma once
// The memory of the simulated device.

#include <cstddef>

namespace taper::simt {

/// Whether all these bytes lie in one block that is allocated on the device.
bool on_device(const void* pointer, size_t bytes);

/// Tells the checker, where there is one, that the host wrote these bytes of the device's.
void filled(void* destination, size_t bytes);

}  // namespace taper::simt
