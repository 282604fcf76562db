#include "recipes/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace taper {
namespace {

constexpr double kTerminalInterval = 0.1;
constexpr double kPlainInterval = 10;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int64_t columns_of(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/// 1234567 as "1,234,567"; below 10 with one decimal.
std::string count_text(double value) {
  if (!(value < 1e15)) return fmt::format("{}", value);
  if (value < 10) return fmt::format("{:.1f}", value);
  const std::string digits = fmt::format("{:.0f}", value);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

}  // namespace

std::string duration_text(double seconds) {
  int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e12));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return fmt::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

std::string progress_line(const ProgressState& state, double seconds_left, int64_t columns) {
  constexpr int64_t kBar = 12;
  const double all = static_cast<double>(std::max<int64_t>(1, state.units * state.steps));
  const double done = static_cast<double>(state.unit * state.steps + state.step) / all;
  const auto full = static_cast<size_t>(std::clamp<int64_t>(static_cast<int64_t>(done * kBar), 0, kBar));
  std::string line =
      fmt::format("{} [{}{}]", state.stage, std::string(full, '#'), std::string(kBar - full, '.'));
  if (state.units > 1) line += fmt::format(" unit {}/{}", state.unit + 1, state.units);
  line += fmt::format(" epoch {:.2f} step {}/{} loss {:.4g} lr {:.3g} {} {}s/s {} GFLOP/s", state.epoch,
                      state.step, state.steps, state.loss, state.lr, count_text(state.items_per_s),
                      state.item, count_text(state.gflops));
  if (seconds_left >= 0) line += fmt::format(" {} left", duration_text(seconds_left));
  if (columns > 0 && static_cast<int64_t>(line.size()) > columns - 1)
    line.resize(static_cast<size_t>(columns - 1));  // a full last column would wrap
  return line;
}

Progress::Progress(std::FILE* out, bool terminal, Clock clock)
    : out_(out), terminal_(terminal), clock_(std::move(clock)) {
  begin();
}

Progress::Progress() : Progress(stderr, isatty(fileno(stderr)) != 0, steady_seconds) {}

Progress::~Progress() { erase(); }

void Progress::begin() {
  began_ = clock_();
  steps_at_begin_ = -1;
}

double Progress::seconds_left(const ProgressState& state, double now) {
  const int64_t done = state.unit * state.steps + state.step;
  if (steps_at_begin_ < 0) {  // the clock starts at the first step seen, whose own duration is unknown
    steps_at_begin_ = done;
    began_ = now;
  }
  if (done <= steps_at_begin_) return -1;
  const int64_t left = state.units * state.steps - done;
  return (now - began_) / static_cast<double>(done - steps_at_begin_) * static_cast<double>(left);
}

void Progress::update(const ProgressState& state) {
  const double now = clock_();
  const double left = seconds_left(state, now);
  if (now - last_shown_ < (terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_shown_ = now;
  if (terminal_) {
    erase();
    fmt::print(out_, "{}", progress_line(state, left, columns_of(out_)));
    line_shown_ = true;
  } else {
    fmt::print(out_, "{}\n", progress_line(state, left, 0));
  }
  std::fflush(out_);
}

void Progress::message(std::string_view text) {
  erase();
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void Progress::erase() {
  if (!line_shown_) return;
  fmt::print(out_, "\r\x1b[K");
  std::fflush(out_);
  line_shown_ = false;
}

}  // namespace taper
