#pragma once
// The one description of every configuration key: reading, writing, the search for the nearest key and the
// reference page all walk this tree.

#include <functional>
#include <limits>
#include <variant>

#include "recipes/config.h"

namespace taper {

using FieldValue = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                                std::vector<double>*, std::vector<std::string>*>;

/// Limits of a number, or of each element of a list of numbers. Infinity and NaN never pass.
struct Limits {
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool least_excluded = false;
  bool most_excluded = false;

  /// Whether `value` is finite and inside.
  bool hold(double value) const;
  /// "at least 1", "above 0 and at most 1"; empty without limits.
  std::string text() const;
};

struct Field {
  std::string key;
  FieldValue value;
  std::string meaning;
  Limits limits = {};
  std::vector<std::string> choices = {};  ///< of a string, or of each string of a list; empty: any
  int64_t length = -1;                    ///< a list's exact length; -1: any
};

struct Section {
  std::string key;  ///< empty at the top
  std::string meaning;
  std::vector<Field> fields;
  std::vector<Section> sections = {};
};

/// The whole tree, whose values point into `configuration`.
Section describe(Configuration& configuration);

/// "integer", "list of strings" and so on.
std::string type_name(const FieldValue& value);

/// `value` as a quoted TOML string.
std::string toml_string(const std::string& value);

/// Throws UserError unless the settings agree with each other. `place(key)` says where a dotted key was set.
void check_configuration(const Configuration& configuration,
                         const std::function<std::string(std::string_view)>& place);

}  // namespace taper
