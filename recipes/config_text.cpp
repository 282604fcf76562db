// The configuration as text: TOML with every key, and the reference page.

#include <fmt/ranges.h>

#include <sstream>

#include "recipes/config_fields.h"
#include "runtime/error.h"

namespace taper {
namespace {

std::string text(bool value) { return value ? "true" : "false"; }
std::string text(int64_t value) { return fmt::format("{}", value); }

/// The shortest text that reads back as the same double, and as a float rather than an integer.
std::string text(double value) {
  std::string digits = fmt::format("{}", value);
  return digits.find_first_of(".en") == std::string::npos ? digits + ".0" : digits;
}

std::string text(const std::string& value) { return toml_string(value); }

template <typename T>
std::string text(const std::vector<T>& values) {
  std::vector<std::string> parts;
  parts.reserve(values.size());
  for (const T& value : values) parts.push_back(text(value));
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

std::string text(const FieldValue& value) {
  return std::visit([](const auto* pointer) { return text(*pointer); }, value);
}

void write(const Section& section, const std::string& path, std::string& out) {
  if (!path.empty()) out += fmt::format("\n[{}]\n", path);
  for (const Field& field : section.fields) out += fmt::format("{} = {}\n", field.key, text(field.value));
  for (const Section& inner : section.sections)
    write(inner, path.empty() ? inner.key : path + "." + inner.key, out);
}

void document(const Section& section, const std::string& path, std::string& out) {
  out += path.empty() ? "\n## Top level\n" : fmt::format("\n## `[{}]`\n", path);
  if (!section.meaning.empty()) out += fmt::format("\n{}\n", section.meaning);
  out += "\n| key | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n";
  for (const Field& field : section.fields) {
    std::string allowed = field.limits.text();
    if (!field.choices.empty()) allowed = fmt::format("`{}`", fmt::join(field.choices, "`, `"));
    if (field.length >= 0) allowed += fmt::format(" ({} of them)", field.length);
    out += fmt::format("| `{}` | {} | `{}` | {} | {} |\n", field.key, type_name(field.value),
                       text(field.value), allowed, field.meaning);
  }
  for (const Section& inner : section.sections)
    document(inner, path.empty() ? inner.key : path + "." + inner.key, out);
}

}  // namespace

std::string toml_string(const std::string& value) {
  std::string quoted = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string write_configuration(const Configuration& configuration) {
  Configuration copy = configuration;
  std::string out;
  write(describe(copy), "", out);
  return out;
}

bool same_run(const Configuration& a, const Configuration& b) {
  Configuration same = a;
  same.rank_timeout = b.rank_timeout;
  same.shard_optimizer = b.shard_optimizer;
  same.cuda_graphs = b.cuda_graphs;
  return same == b;
}

std::string first_difference(const Configuration& there, const Configuration& here) {
  std::istringstream a(write_configuration(there)), b(write_configuration(here));
  std::string section, line_a, line_b;
  while (std::getline(a, line_a) && std::getline(b, line_b)) {
    if (line_a.starts_with('[')) section = line_a.substr(1, line_a.size() - 2) + ".";
    if (line_a == line_b) continue;
    const size_t equals = line_a.find(" = ");
    return fmt::format("{}{} is {} there and {} here", section, line_a.substr(0, equals),
                       line_a.substr(equals + 3), line_b.substr(equals + 3));
  }
  return "";
}

std::string configuration_reference() {
  Configuration defaults;
  std::string out =
      "# Configuration\n\n"
      "Generated from the table in `recipes/config_fields.cpp`; `config_test` checks that it is current.\n\n"
      "Every key can be overridden with `--set key=value`, for example `--set wide.epochs=2`. Exactly one "
      "of\n"
      "`epochs` and `steps` is set for every stage that trains, and exactly one of `network.depth` and\n"
      "`network.depths` of a ResNet. The run directory holds the configuration as resolved, with every key "
      "explicit.\n";
  document(describe(defaults), "", out);
  return out;
}

}  // namespace taper
