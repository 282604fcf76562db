#pragma once
// The machine, for the log.

#include <string>

namespace taper {

/// The processor's model name, as the kernel tells it; "unknown" where it does not.
std::string cpu_name();

}  // namespace taper
