#pragma once
// The report's charts as inline SVG, coloured by the page's style sheet. Values that are not finite are left
// out. All text is escaped here.

#include <string>
#include <string_view>
#include <vector>

namespace taper {

/// Text for HTML: & < > " ' escaped.
std::string escape_html(std::string_view text);

struct ChartPoint {
  double x, y;
};

struct ChartLine {
  std::string style;                             ///< CSS class: "thin", "wide", "scratch", "raw ..."
  std::vector<std::vector<ChartPoint>> strokes;  ///< a line each; a gap between them
  bool dots = false;
};

struct LineChart {
  std::string title;
  std::string description;  ///< what a reader who cannot see it is told
  std::string x_label = "step";
  bool percent = false;      ///< y is a fraction, shown in percent
  bool logarithmic = false;  ///< y on a logarithmic scale
  std::vector<ChartLine> lines = {};
};

/// A figure with caption; a sentence instead of the chart if it has no point.
std::string line_chart(const LineChart& chart);

struct ErrorBar {
  std::string name;
  double before, after;  ///< fractions
};

/// Two horizontal bars for each unit.
std::string error_bars(const std::string& title, const std::string& description,
                       const std::vector<ErrorBar>& bars);

struct AccuracyRow {
  std::string label;
  std::string style;
  std::vector<double> values;  ///< of each seed, fractions
  double mean, deviation;      ///< deviation 0: one seed
};

/// One row a network: each seed a dot, the mean a bar, one standard deviation to each side a line.
std::string accuracy_plot(const std::string& title, const std::string& description,
                          const std::vector<AccuracyRow>& rows);

}  // namespace taper
