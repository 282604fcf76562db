// Which run a directory holds.

#include "recipes/run_log.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfiguration = "config.toml";

/// Names that start with a dot are locks and partial files of a run that ended early.
bool holds_nothing(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory))
    if (!entry.path().filename().string().starts_with('.')) return false;
  return true;
}

}  // namespace

Configuration read_run_configuration(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw UserError("{}: there is no such run directory", directory.string());
  if (!fs::exists(directory / kConfiguration, error))
    throw UserError("{}: is not a run directory: it holds no {}", directory.string(), kConfiguration);
  return read_configuration(directory / kConfiguration);
}

void prepare_run_directory(const fs::path& directory, const Configuration& configuration, bool resume) {
  const std::string name = directory.string();
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_directory(directory, error))
    throw UserError("{}: is a file; the output of a run is a folder", name);
  if (!fs::exists(directory, error)) {
    if (resume) throw UserError("{}: there is no run to resume; leave --resume out to start one", name);
    if (!fs::create_directories(directory, error) && error)
      throw UserError("{}: the folder cannot be made: {}", name, error.message());
  }
  if (fs::exists(directory / kConfiguration, error)) {
    if (!resume) {
      throw UserError("{}: holds another run; add --resume to go on with it, or choose another --output",
                      name);
    }
    const Configuration there = read_run_configuration(directory);
    if (!same_run(there, configuration)) {
      throw UserError(
          "{}: holds a run with another configuration ({}); resume it with its own configuration, or choose "
          "another --output",
          name, first_difference(there, configuration));
    }
    return;
  }
  if (!holds_nothing(directory))
    throw UserError("{}: is not empty and holds no run; choose another --output", name);
  write_file_atomically(directory / kConfiguration, write_configuration(configuration));
}

}  // namespace taper
