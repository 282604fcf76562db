#pragma once
// Tables of text: tab-separated as GLUE publishes them, and comma-separated (RFC 4180).

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "recipes/text/lines.h"

namespace taper {

/// In files separated by tabs a quote is a character like any other. In those separated by commas a cell may
/// stand in double quotes, between which there may be commas, line ends, and quotes written twice.
enum class Separator : char { tab = '\t', comma = ',' };

/// Reads a table row by row. Lines may end in CR LF; a byte order mark is skipped; empty lines too.
class TableReader {
 public:
  /// `header`: the first row names the columns; without one they are called "1", "2", ... UserError: the file
  /// cannot be read, is empty, or names a column twice.
  TableReader(const std::filesystem::path& path, Separator separator, bool header);

  const std::vector<std::string>& columns() const { return columns_; }
  /// The index of the column `name`. UserError, naming the columns there are.
  size_t column(const std::string& name) const;

  /// The next row's cells, as many as columns; false at the end. UserError names the file, the line and the
  /// counts where a row has other columns than the first, and the line where a quote is not closed or is
  /// inside an unquoted cell; and as LineReader.
  bool next(std::vector<std::string>& cells);
  /// The line that the last row began on, from 1.
  int64_t line() const { return line_; }
  const std::string& name() const { return name_; }

 private:
  bool read(std::vector<std::string>& cells);
  void split_quoted(std::string row, std::vector<std::string>& cells);

  std::string name_;
  Separator separator_;
  LineReader lines_;
  std::vector<std::string> columns_, first_;
  bool first_is_row_ = false;
  int64_t line_ = 0;
};

}  // namespace taper
