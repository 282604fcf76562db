#include "runtime/simt/check/report.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <tuple>

#include "runtime/error.h"
#include "runtime/simt/check/checker.h"

namespace taper::simt {

namespace {

// Counts from the beginning and writes the report at the end, if the environment asks for it.
struct AtExit {
  AtExit() : path(std::getenv("TAPER_SIMT_REPORT")) {
    if (path != nullptr) count_accesses(true);
  }
  ~AtExit() {
    if (path != nullptr) std::ofstream(path) << report();
  }
  const char* path;
};

}  // namespace

void report_at_exit() { static const AtExit at_exit; }

void count_accesses(bool count) { Checker::instance().count(count); }

std::vector<LineCounts> line_counts() {
  Checker& checker = Checker::instance();
  std::lock_guard lock(checker.one_grid());
  // Several instructions may belong to a line.
  std::map<std::tuple<std::string, std::string, bool, bool>, LineCounts> lines;
  for (const auto& [counted, totals] : checker.counts().totals()) {
    std::string line = checker.sites().text(counted.site);
    LineCounts& sum = lines[{counted.kernel, line, counted.shared, counted.write}];
    sum.kernel = counted.kernel;
    sum.line = line;
    sum.shared = counted.shared;
    sum.write = counted.write;
    sum.requests += totals.requests;
    sum.moved += totals.moved;
    sum.least += totals.least;
  }
  std::vector<LineCounts> result;
  for (auto& [key, line] : lines) result.push_back(std::move(line));
  return result;
}

std::string report() {
  std::string text =
      "| kernel | line | memory | requests | passes or sectors | at least | ratio |\n"
      "| --- | --- | --- | ---: | ---: | ---: | ---: |\n";
  for (const LineCounts& line : line_counts())
    text += fmt::format("| {} | {} | {} {} | {} | {} | {} | {:.2f} |\n", line.kernel, line.line,
                        line.shared ? "shared" : "global", line.write ? "write" : "read", line.requests,
                        line.moved, line.least,
                        static_cast<double>(line.moved) / static_cast<double>(line.least));
  return text;
}

}  // namespace taper::simt
