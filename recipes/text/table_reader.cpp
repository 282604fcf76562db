#include "recipes/text/table_reader.h"

#include <algorithm>

#include "runtime/error.h"

namespace taper {

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string_view without_line_end(std::string_view line) {
  return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
}

}  // namespace

TableReader::TableReader(const std::filesystem::path& path, Separator separator, bool header)
    : name_(path.string()), separator_(separator), lines_(path, InvalidText::refuse) {
  if (!read(first_)) throw UserError("{} has no rows; is it the right file?", name_);
  if (!header) {
    for (size_t i = 1; i <= first_.size(); ++i) columns_.push_back(std::to_string(i));
    first_is_row_ = true;
    return;
  }
  columns_ = std::move(first_);
  for (size_t i = 0; i < columns_.size(); ++i)
    if (std::find(columns_.begin() + static_cast<long>(i) + 1, columns_.end(), columns_[i]) != columns_.end())
      throw UserError("{}: the header has two columns called \"{}\"; rename one of them", name_, columns_[i]);
}

size_t TableReader::column(const std::string& name) const {
  const auto found = std::ranges::find(columns_, name);
  if (found == columns_.end())
    throw UserError("{} has no column \"{}\"; it has {}", name_, name,
                    fmt::join(columns_, separator_ == Separator::tab ? " | " : ", "));
  return static_cast<size_t>(found - columns_.begin());
}

bool TableReader::next(std::vector<std::string>& cells) {
  if (first_is_row_) {
    first_is_row_ = false;
    cells = std::move(first_);
    return true;
  }
  if (!read(cells)) return false;
  if (cells.size() != columns_.size())
    throw UserError("{}: line {} has {} columns, and the first line has {}; {}", name_, line_, cells.size(),
                    columns_.size(),
                    separator_ == Separator::tab
                        ? "a text cannot hold a tab, and every column needs one before it"
                        : "a text with commas in it stands in double quotes");
  return true;
}

bool TableReader::read(std::vector<std::string>& cells) {
  std::string_view line;
  do {
    if (!lines_.next(line)) return false;
    line = without_line_end(line);
    if (lines_.lines() == 1 && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  } while (line.empty());
  line_ = lines_.lines();
  cells.clear();
  if (separator_ == Separator::comma) {
    split_quoted(std::string(line), cells);
    return true;
  }
  for (size_t begin = 0, end = 0; begin <= line.size(); begin = end + 1) {
    end = std::min(line.find('\t', begin), line.size());
    cells.emplace_back(line.substr(begin, end - begin));
  }
  return true;
}

// The quotes of a whole row are even in number, as one inside a quoted cell is written twice.
void TableReader::split_quoted(std::string row, std::vector<std::string>& cells) {
  for (int64_t quotes = std::ranges::count(row, '"'); quotes % 2 != 0;) {
    std::string_view more;
    if (!lines_.next(more) || row.size() + more.size() > LineReader::kLongestLine)
      throw UserError(
          "{}: a quote in the row of line {} is not closed; close it, or write one in a quoted text twice",
          name_, line_);
    quotes += std::ranges::count(more, '"');
    row += '\n';
    row += without_line_end(more);
  }
  for (size_t at = 0; at <= row.size(); ++at) {  // past the comma before each cell
    std::string& cell = cells.emplace_back();
    if (at == row.size() || row[at] != '"') {
      const size_t end = std::min(row.find(',', at), row.size());
      cell = row.substr(at, end - at);
      if (cell.find('"') != std::string::npos)
        throw UserError(
            "{}: the row of line {} has a quote in a text without quotes; quote the text and write it twice",
            name_, line_);
      at = end;
      continue;
    }
    size_t end = at + 1;  // of the quoted text, where a quote is not followed by another
    for (; row.at(end) != '"' || (end + 1 < row.size() && row[end + 1] == '"'); ++end) {
      if (row[end] == '"') ++end;
      cell += row[end];
    }
    at = end + 1;
    if (at < row.size() && row[at] != ',')
      throw UserError(
          "{}: the row of line {} goes on after a closing quote; write a quote in a quoted text twice", name_,
          line_);
  }
}

}  // namespace taper
