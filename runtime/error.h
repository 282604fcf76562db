#pragma once
// Errors are sentences: what was wrong, where, and what would be right.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>

namespace taper {

/// The base of everything Taper throws. `exit_code` is what the process ends with.
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, int exit_code) : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// The user's mistake (a file, a setting, an argument): exit code 2. The message names the place and the
/// remedy.
class UserError : public Error {
 public:
  template <typename... Args>
  explicit UserError(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...), 2) {}
};

/// Something failed that no setting of the user's made wrong (a full disk, a NaN, a broken invariant): exit
/// code 1.
class Failure : public Error {
 public:
  template <typename... Args>
  explicit Failure(fmt::format_string<Args...> format, Args&&... args)
      : Error(fmt::format(format, std::forward<Args>(args)...), 1) {}
};

/// Throws Failure, prefixed with the place, unless `condition` holds: for contracts between Taper's own
/// parts.
#define TAPER_CHECK(condition, ...)                                                         \
  do {                                                                                      \
    if (!(condition))                                                                       \
      throw ::taper::Failure("{}:{}: {} does not hold: {}", __FILE__, __LINE__, #condition, \
                             fmt::format(__VA_ARGS__));                                     \
  } while (false)

}  // namespace taper
