#pragma once
// The memory of the simulated device.

#include <cstdint>

namespace taper::simt {

/// Lets the device have this much memory; the default is 16 GiB.
void set_memory_limit(int64_t bytes);

}  // namespace taper::simt
