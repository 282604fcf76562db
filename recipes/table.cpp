#include "recipes/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace taper {

std::string Table::text() const {
  std::vector<size_t> widths(rows_[0].size());
  for (const auto& row : rows_)
    for (size_t i = 0; i < row.size(); ++i) widths.at(i) = std::max(widths.at(i), row[i].size());
  std::string text;
  for (const auto& row : rows_) {
    std::string line = fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t i = 1; i < row.size(); ++i) line += fmt::format("  {:>{}}", row[i], widths[i]);
    if (&row == &rows_[1]) text += fmt::format("{:-<{}}\n", "", line.size());
    text += line;
    text += '\n';
  }
  return text;
}

std::string grouped(int64_t value) { return fmt::format("{}", fmt::group_digits(value)); }

}  // namespace taper
