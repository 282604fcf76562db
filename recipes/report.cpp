#include "recipes/report.h"

#include "recipes/report_chart.h"
#include "recipes/report_sections.h"
#include "recipes/report_style.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

/// Seeds are what a report may average over; everything else must agree.
void check_same_recipe(const Runs& runs) {
  for (const RunHistory& run : runs) {
    Configuration same_seed = run.configuration;
    same_seed.seed = runs[0].configuration.seed;
    same_seed.name = runs[0].configuration.name;
    const std::string difference = first_difference(runs[0].configuration, same_seed);
    if (!difference.empty()) {
      throw UserError(
          "{} and {}: a report covers runs that differ only in their seed, but {}; report them apart",
          runs[0].directory.string(), run.directory.string(), difference);
    }
  }
}

}  // namespace

std::string report_html(const std::vector<std::filesystem::path>& directories) {
  if (directories.empty()) throw UserError("a report needs at least one run directory");
  Runs runs;
  for (const auto& directory : directories) runs.push_back(read_history(directory));
  check_same_recipe(runs);
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n"
      "<style>{}</style>\n</head>\n<body>\n<main>\n",
      escape_html(runs[0].configuration.name), kReportStyle);
  out += report_summary(runs);
  out += report_networks(runs);
  out += report_curves(runs);
  out += report_costs(runs);
  out += report_reproduction(runs);
  return out + "</main>\n</body>\n</html>\n";
}

void write_report(const std::filesystem::path& file, const std::vector<std::filesystem::path>& runs) {
  write_file_atomically(file, report_html(runs));
}

}  // namespace taper
