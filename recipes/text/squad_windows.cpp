#include "recipes/text/squad_windows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <set>

#include "runtime/error.h"

namespace taper {

namespace {

/// The positions of the first answer among the context's tokens; none where it has no tokens of its own.
std::optional<std::pair<int64_t, int64_t>> answer_tokens(const SquadQuestion& question,
                                                         std::span<const Token> tokens) {
  if (question.answers.empty()) return std::nullopt;
  const SquadAnswer& answer = question.answers.front();
  const auto first = std::ranges::find_if(tokens, [&](const Token& t) { return t.end > answer.begin; });
  const auto past = std::find_if(first, tokens.end(), [&](const Token& t) { return t.begin >= answer.end; });
  if (first == past) return std::nullopt;
  return std::pair(first - tokens.begin(), past - tokens.begin() - 1);
}

/// A candidate; `text` empty is that there is no answer.
struct Candidate {
  std::string text;
  double score;
};

/// The positions of the largest logits, largest first, the smaller position first among equal ones. `part`: 0
/// for starts, 1 for ends.
std::vector<int64_t> largest(const std::vector<float>& logits, size_t part, int64_t count) {
  std::vector<int64_t> order(logits.size() / 2);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return logits[static_cast<size_t>(2 * a) + part] > logits[static_cast<size_t>(2 * b) + part];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(count)));
  return order;
}

}  // namespace

std::vector<SquadWindow> make_windows(const SquadQuestion& question, Tokenizer& tokenizer,
                                      const SquadOptions& options) {
  std::vector<Token> asked, tokens;
  tokenizer.encode(question.question, asked);
  tokenizer.encode(*question.context, tokens);
  asked.resize(std::min(asked.size(), static_cast<size_t>(options.max_question)), Token{});
  const int64_t room = options.max_length - std::ssize(asked) - 3;
  if (room < 1 || options.stride < 1)
    throw UserError(
        "a question of {} tokens leaves no room for its context in sequences of {}; make them longer",
        asked.size(), options.max_length);
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  const auto answer = answer_tokens(question, tokens);
  std::vector<SquadWindow> windows;
  std::vector<int64_t> begins;
  for (int64_t begin = 0;; begin += std::min(options.stride, room)) {
    const int64_t end = std::min(begin + room, std::ssize(tokens));
    SquadWindow& window = windows.emplace_back();
    begins.push_back(begin);
    window.ids.push_back(vocabulary.cls);
    for (const Token& token : asked) window.ids.push_back(token.id);
    window.ids.push_back(vocabulary.sep);
    window.context = std::ssize(window.ids);
    window.tokens.assign(tokens.begin() + begin, tokens.begin() + end);
    for (const Token& token : window.tokens) window.ids.push_back(token.id);
    window.ids.push_back(vocabulary.sep);
    window.widest.assign(window.tokens.size(), false);
    if (answer && answer->first >= begin && answer->second < end) {
      window.start = static_cast<int32_t>(window.context + answer->first - begin);
      window.end = static_cast<int32_t>(window.context + answer->second - begin);
    }
    if (end == std::ssize(tokens)) break;
  }
  // The smaller of a token's two sides counts, and a hundredth of its window's length.
  for (int64_t t = 0; t < std::ssize(tokens); ++t) {
    size_t best = 0;
    double most = -1;
    for (size_t w = 0; w < windows.size(); ++w) {
      const int64_t size = std::ssize(windows[w].tokens), left = t - begins[w], right = size - 1 - left;
      if (left < 0 || right < 0) continue;
      const double shown = static_cast<double>(std::min(left, right)) + 0.01 * static_cast<double>(size);
      if (shown > most) {
        most = shown;
        best = w;
      }
    }
    windows[best].widest[static_cast<size_t>(t - begins[best])] = true;
  }
  return windows;
}

SquadPrediction best_answer(const SquadQuestion& question, std::span<const SquadWindow> windows,
                            std::span<const std::vector<float>> logits, const SquadOptions& options,
                            bool version2) {
  TAPER_CHECK(windows.size() == logits.size(), "{} windows and logits of {}", windows.size(), logits.size());
  struct Span {
    size_t window;
    int64_t start, end;  // among the window's tokens
    double score;
  };
  std::vector<Span> spans;
  double null_score = std::numeric_limits<double>::infinity();
  for (size_t w = 0; w < windows.size(); ++w) {
    const SquadWindow& window = windows[w];
    const std::vector<float>& values = logits[w];
    TAPER_CHECK(values.size() == 2 * window.ids.size(), "{} logits for {} positions", values.size(),
                window.ids.size());
    null_score = std::min(null_score, static_cast<double>(values[0]) + values[1]);
    const std::vector<int64_t> ends = largest(values, 1, options.best);
    for (const int64_t start : largest(values, 0, options.best)) {
      const int64_t first = start - window.context;
      if (first < 0 || first >= std::ssize(window.tokens) || !window.widest[static_cast<size_t>(first)])
        continue;
      for (const int64_t end : ends) {
        const int64_t last = end - window.context;
        if (last < first || last >= std::ssize(window.tokens) || last - first >= options.max_answer) continue;
        spans.push_back({w, first, last,
                         static_cast<double>(values[static_cast<size_t>(2 * start)]) +
                             values[static_cast<size_t>(2 * end) + 1]});
      }
    }
  }
  std::ranges::stable_sort(spans, [](const Span& a, const Span& b) { return a.score > b.score; });
  std::vector<Candidate> candidates;
  std::set<std::string> seen;
  for (const Span& span : spans) {
    if (std::ssize(candidates) == options.best) break;
    const std::vector<Token>& tokens = windows[span.window].tokens;
    const int64_t begin = tokens[static_cast<size_t>(span.start)].begin,
                  end = tokens[static_cast<size_t>(span.end)].end;
    std::string text = question.context->substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    if (seen.insert(text).second) candidates.push_back({std::move(text), span.score});
  }
  const bool none =
      version2 && (candidates.empty() || null_score - candidates.front().score > options.null_threshold);
  if (version2) candidates.push_back({"", null_score});
  if (candidates.empty()) return {};
  const Candidate chosen = none ? candidates.back() : candidates.front();
  double most = chosen.score, sum = 0;
  for (const Candidate& candidate : candidates) most = std::max(most, candidate.score);
  for (const Candidate& candidate : candidates) sum += std::exp(candidate.score - most);
  return {chosen.text, std::exp(chosen.score - most) / sum};
}

}  // namespace taper
