#pragma once
// Tables for a terminal.

#include <cstdint>
#include <string>
#include <vector>

namespace taper {

/// Rows under headings; the first column aligned left, the others right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// "25,557,032".
std::string grouped(int64_t value);

}  // namespace taper
