#include "recipes/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <map>

#include "recipes/config_fields.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

constexpr int64_t kLargestFile = 1 << 20;

std::string join(std::string_view prefix, std::string_view key) {
  return prefix.empty() ? std::string(key) : fmt::format("{}.{}", prefix, key);
}

/// Levenshtein distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

struct Nearest {
  std::string key;
  size_t distance = std::string::npos;
};

/// Compares the last parts of the keys; a key of another section counts as one edit more.
void find_nearest(const Section& section, const std::string& path, std::string_view unknown_section,
                  std::string_view unknown, Nearest& nearest) {
  auto consider = [&](std::string_view key) {
    size_t distance = edit_distance(key, unknown) + (path == unknown_section ? 0 : 1);
    if (distance < nearest.distance) nearest = {join(path, key), distance};
  };
  for (const Field& field : section.fields) consider(field.key);
  for (const Section& inner : section.sections) {
    consider(inner.key);
    find_nearest(inner, join(path, inner.key), unknown_section, unknown, nearest);
  }
}

std::string found(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return fmt::format("the string \"{}\"", **node.as_string());
    case toml::node_type::integer:
      return fmt::format("the integer {}", **node.as_integer());
    case toml::node_type::floating_point:
      return fmt::format("the number {}", **node.as_floating_point());
    case toml::node_type::boolean:
      return fmt::format("the boolean {}", **node.as_boolean());
    default:
      return "a date or time";
  }
}

template <typename T>
struct Element;
template <>
struct Element<bool> {
  static constexpr const char* kName = "a boolean (true or false)";
};
template <>
struct Element<int64_t> {
  static constexpr const char* kName = "an integer";
};
template <>
struct Element<double> {
  static constexpr const char* kName = "a number";
};
template <>
struct Element<std::string> {
  static constexpr const char* kName = "a string";
};

/// Reads toml tables into the tree of fields, and remembers where each key was set.
class Reader {
 public:
  explicit Reader(Section root) : root_(std::move(root)) {}

  /// `line_of(source)` turns a position into the place that messages name.
  void read(const toml::table& table, const std::function<std::string(const toml::source_region&)>& line_of) {
    line_of_ = line_of;
    read(table, root_, "");
  }

  std::string place(std::string_view key, std::string_view otherwise) const {
    for (std::string_view path = key; !path.empty();) {
      if (auto it = places_.find(path); it != places_.end()) return it->second;
      size_t dot = path.rfind('.');
      path = dot == std::string_view::npos ? std::string_view{} : path.substr(0, dot);
    }
    return std::string(otherwise);
  }

  /// The field with this dotted key, or null.
  const Field* find(std::string_view key) const {
    const Section* section = &root_;
    for (size_t dot = key.find('.'); dot != std::string_view::npos; dot = key.find('.')) {
      auto it = std::ranges::find(section->sections, key.substr(0, dot), &Section::key);
      if (it == section->sections.end()) return nullptr;
      section = &*it;
      key.remove_prefix(dot + 1);
    }
    auto it = std::ranges::find(section->fields, key, &Field::key);
    return it == section->fields.end() ? nullptr : &*it;
  }

 private:
  void read(const toml::table& table, const Section& section, const std::string& path) {
    for (const auto& [key, node] : table) {
      std::string full = join(path, key.str());
      std::string place = line_of_(key.source());
      auto field = std::ranges::find(section.fields, key.str(), &Field::key);
      if (field != section.fields.end()) {
        std::visit([&, &from = node](auto* value) { read(from, *field, *value, full, place); }, field->value);
        places_[full] = place;
        continue;
      }
      auto inner = std::ranges::find(section.sections, key.str(), &Section::key);
      if (inner == section.sections.end()) {
        Nearest nearest;
        find_nearest(root_, "", path, key.str(), nearest);
        throw UserError("{}: there is no key {}; the nearest valid key is {}", place, full, nearest.key);
      }
      const toml::table* inner_table = node.as_table();
      if (!inner_table)
        throw UserError("{}: {} is {}, expected a table: [{}]", place, full, found(node), full);
      places_[full] = place;
      read(*inner_table, *inner, full);
    }
  }

  template <typename T>
  static T element(const toml::node& node, const Field& field, const std::string& key,
                   const std::string& place) {
    std::optional<T> value;
    if constexpr (std::is_same_v<T, bool>) {
      if (node.is_boolean()) value = **node.as_boolean();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (node.is_string()) value = **node.as_string();
    } else if (node.is_integer()) {
      value = static_cast<T>(**node.as_integer());
    } else if constexpr (std::is_same_v<T, double>) {
      if (node.is_floating_point()) value = **node.as_floating_point();
    }
    if (!value) throw UserError("{}: {} is {}, expected {}", place, key, found(node), Element<T>::kName);
    if constexpr (std::is_same_v<T, std::string>) {
      if (!field.choices.empty() && std::ranges::find(field.choices, *value) == field.choices.end()) {
        throw UserError("{}: {} is {}, expected one of: {}", place, key, found(node),
                        fmt::join(field.choices, ", "));
      }
    } else if constexpr (!std::is_same_v<T, bool>) {
      if (!field.limits.hold(static_cast<double>(*value))) {
        std::string limits = field.limits.text();
        throw UserError("{}: {} is {}, which is out of range: it must be {}", place, key, found(node),
                        limits.empty() ? "finite" : limits);
      }
    }
    return *value;
  }

  template <typename T>
  static void read(const toml::node& node, const Field& field, T& value, const std::string& key,
                   const std::string& place) {
    value = element<T>(node, field, key, place);
  }

  template <typename T>
  static void read(const toml::node& node, const Field& field, std::vector<T>& value, const std::string& key,
                   const std::string& place) {
    const toml::array* array = node.as_array();
    if (!array) {
      throw UserError("{}: {} is {}, expected a {}, such as [...]", place, key, found(node),
                      type_name(field.value));
    }
    if (field.length >= 0 && static_cast<int64_t>(array->size()) != field.length)
      throw UserError("{}: {} has {} elements, expected {}", place, key, array->size(), field.length);
    value.clear();
    for (size_t i = 0; i < array->size(); ++i)
      value.push_back(element<T>((*array)[i], field, fmt::format("{}[{}]", key, i), place));
  }

  Section root_;
  std::function<std::string(const toml::source_region&)> line_of_;
  std::map<std::string, std::string, std::less<>> places_;
};

void apply_override(Reader& reader, const std::string& setting) {
  std::string place = fmt::format("--set {} (command line)", setting);
  size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UserError("{}: expected KEY=VALUE, such as wide.epochs=2", place);
  std::string key = setting.substr(0, equals), text = setting.substr(equals + 1);
  const Field* field = reader.find(key);
  bool plain = field && std::holds_alternative<std::string*>(field->value) && !text.starts_with('"') &&
               !text.starts_with('\'');
  toml::table table;
  try {
    table = toml::parse(fmt::format("{} = {}", key, plain ? toml_string(text) : text));
  } catch (const toml::parse_error& error) {
    throw UserError("{}: the value is not TOML: {}", place, error.description());
  }
  for (const toml::table* section = &table; section; section = section->begin()->second.as_table())
    if (section->size() != 1) throw UserError("{}: expected one value", place);
  reader.read(table, [&](const toml::source_region&) { return place; });
}

void fill_in(Configuration& configuration, std::string_view file) {
  if (configuration.name.empty()) configuration.name = std::filesystem::path(file).stem().string();
  if (configuration.network.width == 0 && configuration.network.kind != "bert")
    configuration.network.width = configuration.network.style == "imagenet" ? 64 : 16;
  const auto fill = [](ExampleOptions& options, const std::string& format) {
    if (options.sequence_length == 0) options.sequence_length = format.starts_with("squad") ? 384 : 128;
  };
  fill(configuration.data, configuration.data.format);
  fill(configuration.task, configuration.task.format);
}

}  // namespace

Configuration parse_configuration(std::string_view text, std::string_view file,
                                  const std::vector<std::string>& overrides) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    throw UserError("{}:{}: not TOML: {}", file, error.source().begin.line, error.description());
  }
  Configuration configuration;
  Reader reader(describe(configuration));
  reader.read(table, [&](const toml::source_region& source) {
    return fmt::format("{}:{}", file, source.begin.line);
  });
  for (const std::string& setting : overrides) apply_override(reader, setting);
  fill_in(configuration, file);
  check_configuration(configuration, [&](std::string_view key) { return reader.place(key, file); });
  return configuration;
}

Configuration read_configuration(const std::filesystem::path& file,
                                 const std::vector<std::string>& overrides) {
  const std::vector<std::byte> bytes = read_file(file, kLargestFile);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return parse_configuration(text, file.string(), overrides);
}

bool Configuration::runs(std::string_view stage) const {
  return std::ranges::find(stages, stage) != stages.end();
}

bool Configuration::trains(std::string_view stage) const {
  return runs(stage) && stage != "merge" && stage != "task" && !(stage == "wide" && !wide.weights.empty());
}

const StageOptions& Configuration::stage(std::string_view stage_name) const {
  if (stage_name == "baseline") return baseline;
  if (stage_name == "wide") return wide;
  if (stage_name == "imitate") return imitate;
  if (stage_name == "match") return match;
  if (stage_name == "finetune") return finetune;
  if (stage_name == "task") return task;
  throw Failure("the stage {} has no options", stage_name);
}

}  // namespace taper
