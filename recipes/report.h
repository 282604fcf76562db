#pragma once
// report.html: one page, without script or any file beside it, that tells what was trained and how well.

#include <filesystem>
#include <string>
#include <vector>

namespace taper {

/// The page for one run, or for several that differ only in their seed: then the table gives mean and sample
/// standard deviation. The same runs give the same bytes. UserError if `runs` is empty, one is no run
/// directory, or two differ in more than name and seed.
std::string report_html(const std::vector<std::filesystem::path>& runs);

/// Writes report_html(runs) to `file`, whole or not at all.
void write_report(const std::filesystem::path& file, const std::vector<std::filesystem::path>& runs);

}  // namespace taper
