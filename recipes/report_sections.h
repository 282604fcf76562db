#pragma once
// The parts of the report. Each returns HTML, fully escaped; `runs` differ only in their seed.

#include <string>
#include <vector>

#include "recipes/run_history.h"

namespace taper {

using Runs = std::vector<RunHistory>;

/// Title, what was trained and how, and the result in large figures and one sentence.
std::string report_summary(const Runs& runs);
/// The table of networks, and their accuracies drawn.
std::string report_networks(const Runs& runs);
/// Training loss and test accuracy of each stage, and imitation errors.
std::string report_curves(const Runs& runs);
/// Steps, time and arithmetic of each stage.
std::string report_costs(const Runs& runs);
/// Data notes, commands, versions, resolved configuration.
std::string report_reproduction(const Runs& runs);

}  // namespace taper
