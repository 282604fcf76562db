// Any bytes as a configuration: UserError or a configuration whose resolved text reads back the same.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "recipes/config.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  Configuration configuration;
  try {
    configuration = parse_configuration({reinterpret_cast<const char*>(data), size}, "fuzz.toml");
  } catch (const UserError&) {
    return 0;
  }
  const std::string text = write_configuration(configuration);
  const Configuration again = parse_configuration(text, "again.toml");
  if (again != configuration || write_configuration(again) != text) std::abort();
  return 0;
}
