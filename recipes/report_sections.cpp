#include "recipes/report_sections.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <functional>

#include "recipes/progress.h"
#include "recipes/report_chart.h"
#include "recipes/report_words.h"

namespace taper {
namespace {

std::vector<std::string> names_of_networks(const Runs& runs) {
  std::vector<std::string> names;
  for (const RunHistory& run : runs) {
    for (const NetworkEvent& event : run.networks)
      if (std::ranges::find(names, event.network) == names.end()) names.push_back(event.network);
  }
  return names;
}

const Measures& measures(const Runs& runs) { return measures_of(runs[0].configuration); }

/// A network's metric, to be asked for in place of a member.
auto metric(size_t i) {
  return [i](const NetworkEvent& event) { return event.metrics.at(i); };
}

/// One value a run; NaN where a run does not have the network. `member`: of NetworkEvent, or a function of
/// it.
template <typename Member>
std::vector<double> values(const Runs& runs, const std::string& network, Member member) {
  std::vector<double> all;
  for (const RunHistory& run : runs) {
    auto found = std::ranges::find(run.networks, network, &NetworkEvent::network);
    all.push_back(found == run.networks.end() ? std::nan("")
                                              : static_cast<double>(std::invoke(member, *found)));
  }
  return all;
}

template <typename Member>
Spread spread(const Runs& runs, const std::string& network, Member member) {
  return spread_of(values(runs, network, member));
}

std::string tile(const Runs& runs, const std::string& network) {
  return fmt::format(
      "<div class=\"tile {}\"><span class=\"name\">{}</span><b>{}</b><span>{} parameters</span></div>\n",
      network_style(network), escape_html(network_title(network)),
      percent_text(spread(runs, network, metric(0))),
      grouped(spread(runs, network, &NetworkEvent::parameters).mean));
}

bool has(const Runs& runs, const std::string& network) { return spread(runs, network, metric(0)).count > 0; }

std::string flops_cell(const Spread& flops) {
  return flops.count == 0 || flops.mean == 0 ? "–" : scaled(flops.mean);
}

std::string network_row(const Runs& runs, const std::string& network) {
  const Spread first = spread(runs, network, metric(0));
  std::vector<std::string> cells{fmt::format("{} <small>[{}]</small>", percent_text(first), first.count),
                                 grouped(spread(runs, network, &NetworkEvent::parameters).mean),
                                 scaled(spread(runs, network, &NetworkEvent::flops).mean)};
  const std::vector<Metric>& metrics = measures(runs).metrics;
  for (size_t i = 1; i < metrics.size(); ++i) {
    const Spread other = spread(runs, network, metric(i));
    cells.push_back(metrics[i].percent ? percent_text(other) : number_text(other));
  }
  cells.insert(cells.end(), {number_text(spread(runs, network, &NetworkEvent::loss)),
                             grouped(spread(runs, network, &NetworkEvent::items_per_s).mean),
                             flops_cell(spread(runs, network, &NetworkEvent::training_flops)),
                             flops_cell(spread(runs, network, &NetworkEvent::teacher_flops))});
  return fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape_html(network_title(network)),
                     fmt::join(cells, "</td><td>"));
}

std::string seeds_text(const Runs& runs) {
  return runs.size() == 1 ? fmt::format("one run, seed {}", runs[0].configuration.seed)
                          : fmt::format("{} runs with different seeds", runs.size());
}

}  // namespace

std::string report_summary(const Runs& runs) {
  const Configuration& c = runs[0].configuration;
  const std::string limit =
      c.data.train_limit > 0
          ? fmt::format(" ({} training {}s)", grouped(static_cast<double>(c.data.train_limit)),
                        measures(runs).sample)
          : "";
  std::string out = fmt::format("<header>\n<h1>{}</h1>\n<p class=\"soft\">{}{}</p>\n", escape_html(c.name),
                                runs[0].time.empty() ? "" : escape_html(runs[0].time.substr(0, 10)) + " · ",
                                seeds_text(runs));
  out += fmt::format("<p class=\"lead\">The network: {}, trained on the {} in {}{}. {}</p>\n</header>\n",
                     escape_html(network_words(c.network)), measures(runs).material, escape_html(c.data.path),
                     limit, escape_html(method_words(c)));
  if (names_of_networks(runs).empty())
    return out + "<p>The run has not finished a network yet; what follows is what was recorded so far.</p>\n";
  out += "<div class=\"tiles\">\n";
  for (const char* network : {"thin", "baseline", "wide"})
    if (has(runs, network)) out += tile(runs, network);
  out += "</div>\n";
  out += fmt::format(
      "<p class=\"note\">{}{}.</p>\n", measures(runs).meaning,
      runs.size() > 1 ? fmt::format(", mean ± standard deviation over {} seeds", runs.size()) : "");
  const std::string comparison =
      comparison_words(values(runs, "thin", metric(0)), values(runs, "baseline", metric(0)));
  if (!comparison.empty()) out += fmt::format("<p>{}</p>\n", escape_html(comparison));
  return out;
}

std::string report_networks(const Runs& runs) {
  const std::vector<std::string> names = names_of_networks(runs);
  if (names.empty()) return "";
  std::string out =
      "<section>\n<h2>Networks</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Networks\">"
      "<table>\n<thead><tr>";
  const Measures& what = measures(runs);
  std::string items = what.item + "s per second";
  items[0] = static_cast<char>(std::toupper(items[0]));
  std::vector<std::string> heads{"Network", what.metrics[0].title + " [seeds]", "Parameters",
                                 "FLOPs per " + what.sample};
  for (size_t i = 1; i < what.metrics.size(); ++i) heads.push_back(what.metrics[i].title);
  heads.insert(heads.end(), {"Loss", items, "Training FLOPs", "Cost of the teacher, FLOPs"});
  for (const std::string& head : heads) out += fmt::format("<th scope=\"col\">{}</th>", head);
  out += "</tr></thead>\n<tbody>\n";
  std::vector<AccuracyRow> rows;
  for (const std::string& name : names) {
    out += network_row(runs, name);
    const std::vector<double> each = values(runs, name, metric(0));
    const Spread both = spread_of(each);
    rows.push_back({network_title(name), network_style(name), each, both.mean, both.deviation});
  }
  out += "</tbody></table></div>\n";
  out +=
      "<p class=\"note\">Accuracy and loss are on the test split. FLOPs are floating-point operations, two "
      "for each multiply-add. The cost of the teacher is what training the wide network and running it "
      "beside the thin one took; it is paid once, in training, and nothing of it remains in the thin one. ";
  out += runs.size() == 1 ? "One seed shows no spread.</p>\n"
                          : "± is one sample standard deviation over seeds.</p>\n";
  out += accuracy_plot(
      what.metrics[0].title + " on the test split",
      "Each dot is a seed, the upright bar the mean, the line one standard deviation to each side.", rows);
  return out + "</section>\n";
}

std::string report_costs(const Runs& runs) {
  if (runs[0].stages.empty()) return "";
  std::string out =
      "<section>\n<h2>Time and cost of each stage</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Stages\"><table>\n<thead><tr>";
  for (const char* head : {"Stage", "Steps", "Time", "FLOPs, own network", "FLOPs, teacher beside it"})
    out += fmt::format("<th scope=\"col\">{}</th>", head);
  out += "</tr></thead>\n<tbody>\n";
  for (const StageEvent& stage : runs[0].stages) {
    std::vector<double> seconds, student, teacher;
    for (const RunHistory& run : runs) {
      auto found = std::ranges::find(run.stages, stage.stage, &StageEvent::stage);
      if (found == run.stages.end() || found->seconds == 0) continue;
      seconds.push_back(found->seconds);
      student.push_back(found->student_flops);
      teacher.push_back(found->teacher_flops);
    }
    const std::string steps = grouped(static_cast<double>(stage.steps));
    out += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                       escape_html(stage.stage),
                       stage.units > 1 ? fmt::format("{} × {}", stage.units, steps) : steps,
                       seconds.empty() ? "not finished" : duration_text(spread_of(seconds).mean),
                       flops_cell(spread_of(student)), flops_cell(spread_of(teacher)));
  }
  return out + "</tbody></table></div>\n</section>\n";
}

std::string report_reproduction(const Runs& runs) {
  std::string out = "<section>\n<h2>Data</h2>\n";
  bool skipped = false;
  auto tell = [&](int64_t files, const char* of, const RunHistory& run, const char* note) {
    if (files == 0) return;
    skipped = true;
    out += fmt::format("<p>{} files could not be decoded and were left out of {} (seed {}{}).</p>\n",
                       grouped(static_cast<double>(files)), of, run.configuration.seed, note);
  };
  for (const RunHistory& run : runs) {
    tell(run.skipped, "training", run, "; a file counts in each epoch");
    // Each evaluation reads all test images.
    tell(run.evaluate.empty() ? 0 : run.evaluate.back().skipped, "the test images", run, "");
  }
  if (!skipped) out += "<p>Every file could be read; none was left out.</p>\n";
  out += "</section>\n<section>\n<h2>How to reproduce it</h2>\n";
  std::string commands;
  for (const RunHistory& run : runs)
    if (!run.run.command.empty()) commands += run.run.command + "\n";
  if (!commands.empty()) out += fmt::format("<pre>{}</pre>\n", escape_html(commands));
  out +=
      "<p>The same version, instruction set and libraries give the same numbers to the last bit, whatever "
      "the number of cores.</p>\n<dl>\n";
  auto item = [&](const char* term, const std::string& what) {
    if (!what.empty()) out += fmt::format("<dt>{}</dt><dd>{}</dd>\n", term, escape_html(what));
  };
  item("Taper", runs[0].version);
  item("Processor", runs[0].run.cpu);
  item("Instruction set", runs[0].run.instruction_set);
  item("Libraries", fmt::format("{}", fmt::join(runs[0].run.libraries, ", ")));
  item("Started", runs[0].time);
  out += fmt::format("</dl>\n<details><summary>Resolved configuration{}</summary>\n<pre>{}</pre></details>\n",
                     runs.size() > 1 ? fmt::format(" (seed {})", runs[0].configuration.seed) : "",
                     escape_html(write_configuration(runs[0].configuration)));
  return out + "</section>\n";
}

}  // namespace taper
