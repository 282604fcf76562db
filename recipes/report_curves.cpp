// The report's curves: means over seeds at equal steps.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "recipes/report_chart.h"
#include "recipes/report_sections.h"
#include "recipes/report_words.h"

namespace taper {
namespace {

using Stroke = std::vector<ChartPoint>;

/// Steps of a stage counted on through its units.
double total_step(const StageEvent& stage, int64_t unit, int64_t step) {
  return static_cast<double>(std::max<int64_t>(0, unit) * stage.steps + step);
}

/// Centred moving average over about a twentieth of the stroke; near the ends over as many points as there
/// are on the shorter side, so that it neither lags nor leans.
Stroke smoothed(const Stroke& stroke) {
  Stroke finite;
  std::ranges::copy_if(stroke, std::back_inserter(finite),
                       [](const ChartPoint& p) { return std::isfinite(p.y); });
  const auto size = static_cast<int64_t>(finite.size());
  Stroke out;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t left = std::min(size / 40, i), right = std::min(left, size - 1 - i);
    double sum = 0;
    for (int64_t k = i - left; k <= i + right; ++k) sum += finite[static_cast<size_t>(k)].y;
    out.push_back({finite[static_cast<size_t>(i)].x, sum / static_cast<double>(left + 1 + right)});
  }
  return out;
}

/// Mean over runs of the training loss, one stroke a unit.
std::vector<Stroke> losses(const Runs& runs, const StageEvent& stage) {
  std::map<int64_t, std::map<int64_t, std::vector<double>>> by_unit;
  for (const RunHistory& run : runs) {
    for (const TrainEvent& event : run.train)
      if (event.stage == stage.stage) by_unit[event.unit][event.step].push_back(event.loss);
  }
  std::vector<Stroke> strokes;
  for (const auto& [unit, steps] : by_unit) {
    Stroke stroke;
    for (const auto& [step, loss] : steps)
      stroke.push_back({total_step(stage, unit, step), spread_of(loss).mean});
    strokes.push_back(std::move(stroke));
  }
  return strokes;
}

std::string loss_chart(const Runs& runs, const StageEvent& stage, const std::string& style) {
  std::vector<Stroke> raw = losses(runs, stage), smooth;
  for (const Stroke& stroke : raw) smooth.push_back(smoothed(stroke));
  const bool imitation = stage.stage == "imitate";
  LineChart chart{.title = fmt::format("Training loss, {}", stage.stage),
                  .description = fmt::format(
                      "Training loss over the steps of the stage {}{}; the strong line is a moving average.",
                      stage.stage, runs.size() > 1 ? ", mean over seeds" : ""),
                  .x_label = stage.units > 1 ? "step, unit after unit" : "step",
                  .logarithmic = imitation};
  chart.lines.push_back({"raw " + style, std::move(raw)});
  chart.lines.push_back({style, std::move(smooth)});
  return line_chart(chart);
}

std::string accuracy_chart(const Runs& runs, const StageEvent& stage) {
  const std::string& title = measures_of(runs[0].configuration).metrics[0].title;
  LineChart chart{
      .title = fmt::format("{} on the test split, {}", title, stage.stage),
      .description = fmt::format("{} over the steps of the stage {}{}.", title, stage.stage,
                                 runs.size() > 1 ? ": a faint line for each seed, and their mean" : ""),
      .percent = true};
  std::map<std::string, std::map<double, std::vector<double>>> by_network;
  std::string last;
  for (const RunHistory& run : runs) {
    std::map<std::string, Stroke> own;
    for (const EvaluateEvent& event : run.evaluate) {
      if (event.stage != stage.stage) continue;
      const double x = total_step(stage, event.unit, event.step);
      own[event.network].push_back({x, event.metrics[0]});
      by_network[event.network][x].push_back(event.metrics[0]);
    }
    if (runs.size() > 1) {
      for (auto& [network, stroke] : own)
        chart.lines.push_back({"raw " + network_style(network), {std::move(stroke)}});
    }
  }
  for (const auto& [network, steps] : by_network) {
    Stroke stroke;
    for (const auto& [x, share] : steps) stroke.push_back({x, spread_of(share).mean});
    if (!stroke.empty())
      last += fmt::format(" {} {:.2f} % at the end.", network_title(network), stroke.back().y * 100);
    chart.lines.push_back({network_style(network), {std::move(stroke)}, true});
  }
  chart.description += last;
  if (chart.lines.empty()) return "";
  const bool curve =
      std::ranges::any_of(by_network, [](const auto& entry) { return entry.second.size() > 1; });
  if (curve) return line_chart(chart);
  return fmt::format(
      "<figure><figcaption>{}</figcaption>\n<p class=\"note\">Evaluated once:{}</p></figure>\n",
      escape_html(chart.title), escape_html(last));
}

std::string imitation_errors(const Runs& runs) {
  std::map<int64_t, std::pair<std::vector<double>, std::vector<double>>> errors;
  std::map<int64_t, std::string> names;
  for (const RunHistory& run : runs) {
    for (const UnitEvent& event : run.units) {
      errors[event.unit].first.push_back(event.error_before);
      errors[event.unit].second.push_back(event.error_after);
      names[event.unit] = event.name;
    }
  }
  if (errors.empty()) return "";
  std::vector<ErrorBar> bars;
  bars.reserve(errors.size());
  for (const auto& [unit, both] : errors)
    bars.push_back({names[unit], spread_of(both.first).mean, spread_of(both.second).mean});
  return fmt::format(
      "<h3>How closely each unit imitates</h3>\n<p class=\"note\"><span class=\"key before\"></span> before "
      "and <span class=\"key after\"></span> after its imitation{}: the mean squared difference from "
      "the wide network’s output, as a share of that output’s mean square.</p>\n{}",
      runs.size() > 1 ? ", mean over seeds" : "",
      error_bars("Imitation error by unit", "For each unit, the relative error before and after imitation.",
                 bars));
}

}  // namespace

std::string report_curves(const Runs& runs) {
  std::string out;
  for (const StageEvent& stage : runs[0].stages) {
    const bool trained = std::ranges::any_of(runs, [&](const RunHistory& run) {
      return std::ranges::find(run.train, stage.stage, &TrainEvent::stage) != run.train.end();
    });
    if (!trained) continue;
    const std::string style = stage.stage == "wide" ? "wide" : stage.stage == "baseline" ? "scratch" : "thin";
    out += fmt::format("<h3>{}</h3>\n<div class=\"charts\">\n{}{}</div>\n",
                       escape_html(stage_title(stage.stage)), loss_chart(runs, stage, style),
                       accuracy_chart(runs, stage));
    if (stage.stage == "imitate") out += imitation_errors(runs);
  }
  return out.empty() ? out : "<section>\n<h2>How training went</h2>\n" + out + "</section>\n";
}

}  // namespace taper
