// Any bytes as a table: UserError, or rows with as many cells as columns. The first byte says how it is
// separated and whether it has a header.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "recipes/text/examples.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  if (size == 0) return 0;
  static const int kFile = memfd_create("table", 0);  // a file in memory
  if (kFile < 0 || ftruncate(kFile, 0) != 0 ||
      pwrite(kFile, data + 1, size - 1, 0) != static_cast<ssize_t>(size - 1))
    std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(kFile);
  const Separator separator = (data[0] & 1) != 0 ? Separator::comma : Separator::tab;
  const bool header = (data[0] & 2) != 0;
  try {
    TableReader reader(path, separator, header);
    for (std::vector<std::string> cells; reader.next(cells);)
      if (cells.size() != reader.columns().size()) std::abort();
    ExampleFormat format{.separator = separator, .header = header, .text = reader.columns().front()};
    format.label = reader.columns().back();
    format.regression = (data[0] & 4) != 0;
    std::vector<std::string> labels;
    for (const Example& example : read_examples(path, format, labels))
      if (!format.regression && (example.label < 0 || example.label >= std::ssize(labels))) std::abort();
  } catch (const UserError&) {
    return 0;
  }
  return 0;
}
