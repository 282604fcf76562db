#pragma once
// What a person watching the run sees, on standard error.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

namespace taper {

/// One moment of a stage. Units and steps count from 0 and 1: `step` steps of the unit are done.
struct ProgressState {
  std::string stage = {};
  int64_t unit = 0;
  int64_t units = 1;
  int64_t step = 0;
  int64_t steps = 1;  ///< of each unit
  double epoch = 0;
  double loss = 0;
  double lr = 0;
  std::string item = "image";  ///< what speed counts
  double items_per_s = 0;
  double gflops = 0;  ///< GFLOP/s
};

/// The one line, without line end, cut to `columns` (0: not cut); `seconds_left` < 0: unknown.
std::string progress_line(const ProgressState& state, double seconds_left, int64_t columns);

/// "4 min 10 s", "2 h 5 min", "12 s".
std::string duration_text(double seconds);

/// Redraws one line on a terminal; elsewhere prints a plain line every 10 s.
class Progress {
 public:
  using Clock = std::function<double()>;  ///< seconds, monotonic

  Progress(std::FILE* out, bool terminal, Clock clock);
  /// On standard error, with the steady clock.
  Progress();
  /// Leaves the terminal with a clean line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A stage starts (or is resumed) here: time left is estimated from now on.
  void begin();
  void update(const ProgressState& state);
  /// A line of its own; the progress line continues below it.
  void message(std::string_view text);

 private:
  void erase();
  double seconds_left(const ProgressState& state, double now);

  std::FILE* out_;
  bool terminal_;
  Clock clock_;
  double began_ = 0;
  int64_t steps_at_begin_ = -1;
  double last_shown_ = -1e9;
  bool line_shown_ = false;
};

/// For work that is no run: says on standard error how far it is, every few seconds.
class Pulse {
 public:
  /// `sentence` is called only when it is time.
  template <typename Sentence>
  void beat(const Sentence& sentence) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < kInterval) return;
    last_ = now;
    std::fputs((sentence() + "\n").c_str(), stderr);
  }

 private:
  static constexpr std::chrono::seconds kInterval{5};
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace taper
