#include "recipes/report_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace taper {
namespace {

constexpr double kWidth = 420;

/// Maps [low, high] to [from, to], linearly or by logarithm, and knows its ticks.
class Axis {
 public:
  Axis(double low, double high, double from, double to, bool logarithmic)
      : from_(from), to_(to), logarithmic_(logarithmic) {
    if (logarithmic_) {
      low_ = std::log10(low), high_ = std::log10(high);
      if (high_ - low_ < 0.3) low_ -= 0.15, high_ += 0.15;
    } else {
      low_ = low, high_ = high;
      if (!(high_ > low_))
        low_ -= 0.5 * std::max(std::abs(low_), 1e-3), high_ = low_ + std::max(std::abs(high), 1e-3);
    }
  }

  /// Widens a linear axis to whole ticks.
  void round_outwards() {
    if (logarithmic_) return;
    const double step = step_ = tick_step();
    low_ = std::floor(low_ / step + 1e-9) * step;
    high_ = std::ceil(high_ / step - 1e-9) * step;
  }

  double operator()(double value) const {
    const double at = ((logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_);
    return from_ + std::clamp(at, 0.0, 1.0) * (to_ - from_);
  }

  std::vector<double> ticks() const { return logarithmic_ ? decades() : steps(); }

  /// Decimals that tell the ticks of a linear axis apart, times `scale`.
  int decimals(double scale) const {
    return std::max(0, static_cast<int>(std::ceil(-std::log10(tick_step() * scale) - 1e-9)));
  }

 private:
  double tick_step() const {
    if (step_ > 0) return step_;
    const double rough = (high_ - low_) / 4;
    const double magnitude = std::pow(10, std::floor(std::log10(rough)));
    for (double factor : {1.0, 2.0, 5.0})
      if (rough <= factor * magnitude * (1 + 1e-9)) return factor * magnitude;
    return 10 * magnitude;
  }

  std::vector<double> steps() const {
    std::vector<double> ticks;
    const double step = tick_step();
    const auto first = static_cast<int64_t>(std::ceil(low_ / step - 1e-9));
    for (int64_t i = first; static_cast<double>(i) * step <= high_ + 1e-9 * step; ++i)
      ticks.push_back(static_cast<double>(i) * step);
    return ticks;
  }

  std::vector<double> decades() const {
    std::vector<double> ticks;
    const int first = static_cast<int>(std::floor(low_)), last = static_cast<int>(std::ceil(high_));
    const int stride = std::max(1, (last - first) / 5);
    for (int decade = first; decade <= last; decade += stride) {
      for (double factor : {1.0, 1.5, 2.0, 3.0, 5.0, 7.0}) {
        const double value = factor * std::pow(10, decade), at = std::log10(value);
        const double range = high_ - low_;
        const bool wanted = factor == 1.0 || range < 0.8 || (range < 2 && (factor == 2.0 || factor == 5.0));
        if (wanted && at >= low_ - 1e-9 && at <= high_ + 1e-9) ticks.push_back(value);
      }
    }
    return ticks;
  }

  double low_, high_, from_, to_;
  double step_ = 0;  ///< between ticks, once the axis is rounded to them
  bool logarithmic_;
};

/// 12000 as "12k", so that step numbers stay short.
std::string short_count(double value) {
  if (value >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:g}", value);
}

/// SVG needs a title with an id that is unique on the page: made from the text, so that pages are the same
/// bytes each time.
std::string open_svg(const std::string& title, const std::string& description, double height) {
  std::string id = "c";
  for (char c : title)
    id += (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ? c : '-';
  return fmt::format(
      "<figure><figcaption>{0}</figcaption>\n<svg viewBox=\"0 0 {1} {2:.0f}\" role=\"img\" "
      "aria-labelledby=\"{3} {3}-d\"><title id=\"{3}\">{0}</title><desc id=\"{3}-d\">{4}</desc>\n",
      escape_html(title), kWidth, height, id, escape_html(description));
}

std::string text(double x, double y, const char* style, std::string_view content) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\">{}</text>\n", x, y, style,
                     escape_html(content));
}

std::string line(double x1, double y1, double x2, double y2, const std::string& style) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1,
                     x2, y2, style);
}

std::string percent(double fraction, int decimals) {
  return fmt::format("{:.{}f}\u2009%", fraction * 100, decimals);
}

bool drawable(const ChartPoint& point, bool logarithmic) {
  return std::isfinite(point.x) && std::isfinite(point.y) && (!logarithmic || point.y > 0);
}

std::string draw(const ChartLine& drawn, const Axis& x, const Axis& y, bool logarithmic) {
  std::string out;
  for (const auto& stroke : drawn.strokes) {
    std::string path;
    for (const ChartPoint& point : stroke) {
      if (!drawable(point, logarithmic)) continue;
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(point.x), y(point.y));
      if (drawn.dots) {
        out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" class=\"{}\"/>\n", x(point.x),
                           y(point.y), drawn.style);
      }
    }
    if (!path.empty()) out += fmt::format("<path d=\"{}\" class=\"{}\"/>\n", path, drawn.style);
  }
  return out;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string line_chart(const LineChart& chart) {
  constexpr double kHeight = 220, kLeft = 50, kRight = kWidth - 14, kTop = 12, kBottom = kHeight - 40;
  double low = std::numeric_limits<double>::infinity(), high = -low, last = 0;
  for (const ChartLine& drawn : chart.lines) {
    for (const auto& stroke : drawn.strokes) {
      for (const ChartPoint& point : stroke) {
        if (!drawable(point, chart.logarithmic)) continue;
        low = std::min(low, point.y), high = std::max(high, point.y), last = std::max(last, point.x);
      }
    }
  }
  if (!(low <= high)) {
    return fmt::format(
        "<figure><figcaption>{}</figcaption><p class=\"note\">Nothing was recorded.</p></figure>\n",
        escape_html(chart.title));
  }
  Axis x(0, last, kLeft, kRight, false), y(low, high, kBottom, kTop, chart.logarithmic);
  y.round_outwards();
  std::string out = open_svg(chart.title, chart.description, kHeight);
  for (double tick : y.ticks()) {
    out += line(kLeft, y(tick), kRight, y(tick), "grid");
    out += text(kLeft - 7, y(tick) + 4, "tick end",
                chart.percent       ? percent(tick, y.decimals(100))
                : chart.logarithmic ? fmt::format("{:g}", tick)
                                    : fmt::format("{:.{}f}", tick, y.decimals(1)));
  }
  for (double tick : x.ticks()) {
    out += line(x(tick), kBottom, x(tick), kBottom + 4, "axis");
    out += text(x(tick), kBottom + 18, "tick middle", short_count(tick));
  }
  out += line(kLeft, kBottom, kRight, kBottom, "axis");
  out += text((kLeft + kRight) / 2, kHeight - 5, "tick middle", chart.x_label);
  for (const ChartLine& drawn : chart.lines) out += draw(drawn, x, y, chart.logarithmic);
  return out + "</svg></figure>\n";
}

std::string error_bars(const std::string& title, const std::string& description,
                       const std::vector<ErrorBar>& bars) {
  constexpr double kLeft = 92, kRight = kWidth - 58, kRow = 40, kTop = 6;
  double most = 1e-9;
  for (const ErrorBar& bar : bars) {
    for (double value : {bar.before, bar.after})
      if (std::isfinite(value)) most = std::max(most, value);
  }
  const double height = kTop + kRow * static_cast<double>(bars.size());
  const Axis x(0, most, kLeft, kRight, false);
  std::string out = open_svg(title, description, height);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double top = kTop + kRow * static_cast<double>(i);
    out += text(kLeft - 8, top + 19, "tick end strong", bars[i].name);
    auto bar = [&](double value, double y, const char* style) {
      if (!std::isfinite(value)) return;
      out += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"13\" rx=\"2\" class=\"{}\"/>\n", kLeft,
          y, std::max(1.0, x(value) - kLeft), style);
      out += text(std::max(kLeft + 1, x(value)) + 5, y + 11, "tick", percent(value, value < 0.1 ? 1 : 0));
    };
    bar(bars[i].before, top + 2, "before");
    bar(bars[i].after, top + 17, "after");
  }
  return out + "</svg></figure>\n";
}

std::string accuracy_plot(const std::string& title, const std::string& description,
                          const std::vector<AccuracyRow>& rows) {
  constexpr double kLeft = 18, kRight = kWidth - 18, kRow = 50, kTop = 6;
  double low = 1, high = 0;
  for (const AccuracyRow& row : rows) {
    for (double value : row.values) {
      if (!std::isfinite(value)) continue;
      low = std::min({low, value, row.mean - row.deviation});
      high = std::max({high, value, row.mean + row.deviation});
    }
  }
  if (!(low <= high)) return "";
  const double margin = std::max(0.005, 0.15 * (high - low)),
               bottom = kTop + kRow * static_cast<double>(rows.size());
  Axis x(std::max(0.0, low - margin), std::min(1.0, high + margin), kLeft, kRight, false);
  x.round_outwards();
  std::string out = open_svg(title, description, bottom + 26);
  for (double tick : x.ticks()) {
    out += line(x(tick), kTop, x(tick), bottom, "grid");
    out += text(x(tick), bottom + 18, "tick middle", percent(tick, x.decimals(100)));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const AccuracyRow& row = rows[i];
    if (!std::isfinite(row.mean)) continue;
    const double top = kTop + kRow * static_cast<double>(i), y = top + 33;
    out += text(kLeft, top + 15, "tick strong", row.label);
    out += line(kLeft, y, kRight, y, "grid");
    if (row.deviation > 0)
      out += line(x(row.mean - row.deviation), y, x(row.mean + row.deviation), y, "spread " + row.style);
    for (double value : row.values) {
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" class=\"seed {}\"/>\n", x(value), y,
                         row.style);
    }
    out += line(x(row.mean), y - 9, x(row.mean), y + 9, "mean " + row.style);
  }
  return out + "</svg></figure>\n";
}

}  // namespace taper
