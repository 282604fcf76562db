#include "recipes/text/trainer.h"

#include <algorithm>
#include <map>
#include <queue>

#include "recipes/text/unicode.h"
#include "recipes/text/words.h"
#include "runtime/error.h"

namespace taper {
namespace {

using Characters = std::vector<int32_t>;
using Words = std::map<Characters, int64_t>;  // in code point order, whatever the order of the text

constexpr size_t kLongestLearntWord = 100;
constexpr int64_t kReportEvery = 256;

/// The `most` most frequent characters, in code point order; of equally frequent ones the smaller.
Characters alphabet_of(const Words& words, int64_t most) {
  std::map<int32_t, int64_t> counts;
  for (const auto& [word, count] : words)
    for (const int32_t c : word) counts[c] += count;
  std::vector<std::pair<int32_t, int64_t>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  sorted.resize(std::min(sorted.size(), static_cast<size_t>(most)));
  Characters alphabet;
  for (const auto& [character, count] : sorted) alphabet.push_back(character);
  std::sort(alphabet.begin(), alphabet.end());
  return alphabet;
}

/// The vocabulary as it grows, and the words cut into its tokens.
class Merger {
 public:
  Merger(const Words& words, const Characters& alphabet) {
    for (const std::string& token : Vocabulary::special_tokens()) id(token);
    for (const int32_t c : alphabet) id(text(c, false));
    for (const auto& [word, count] : words) {
      Word cut{{}, count};
      for (size_t i = 0; i < word.size(); ++i)
        if (std::binary_search(alphabet.begin(), alphabet.end(), word[i]))
          cut.tokens.push_back(id(text(word[i], i > 0)));
      words_.push_back(std::move(cut));
    }
  }

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  std::vector<std::string> tokens() && { return std::move(tokens_); }

  void merge_until(int64_t size_wanted, int64_t min_frequency, const VocabularyTrainer::Report& report) {
    for (size_t i = 0; i < words_.size(); ++i) count_pairs(i, 1);
    queue_touched();
    while (size() < size_wanted && !queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(best.pair);
      if (found == pairs_.end() || found->second.count == 0) continue;
      if (found->second.count !=
          best.count) {  // it became rarer since; a pair that became more frequent is queued anew
        if (found->second.count < best.count) queue_.push({found->second.count, best.pair});
        continue;
      }
      if (best.count < min_frequency) return;
      merge(best.pair);
      if (size() % kReportEvery == 0) report(size());
    }
  }

 private:
  using PairKey = uint64_t;  // the left token's id above the right one's: smaller ids first
  struct Word {
    std::vector<int32_t> tokens;
    int64_t count;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<size_t> words;  // those that have had it, sorted in part, some twice
  };
  struct Candidate {
    int64_t count;
    PairKey pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static std::string text(int32_t character, bool continues) {
    std::string result = continues ? "##" : "";
    append_utf8(result, character);
    return result;
  }

  int32_t id(const std::string& token) {
    const auto [place, is_new] = ids_.emplace(token, static_cast<int32_t>(tokens_.size()));
    if (is_new) tokens_.push_back(token);
    return place->second;
  }

  static PairKey key(int32_t left, int32_t right) {
    return static_cast<PairKey>(left) << 32 | static_cast<PairKey>(right);
  }

  void count_pairs(size_t index, int64_t sign) {
    const Word& word = words_[index];
    for (size_t i = 0; i + 1 < word.tokens.size(); ++i) {
      const PairKey pair = key(word.tokens[i], word.tokens[i + 1]);
      Pair& entry = pairs_[pair];
      entry.count += sign * word.count;
      if (sign < 0) continue;
      if (entry.words.empty() || entry.words.back() != index) entry.words.push_back(index);
      touched_.push_back(pair);
    }
  }

  void queue_touched() {
    std::sort(touched_.begin(), touched_.end());
    touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
    for (const PairKey pair : touched_) queue_.push({pairs_[pair].count, pair});
    touched_.clear();
  }

  void merge(PairKey pair) {
    const auto left = static_cast<int32_t>(pair >> 32), right = static_cast<int32_t>(pair & 0xFFFFFFFF);
    const std::string& tail = tokens_[static_cast<size_t>(right)];
    const int32_t merged =
        id(tokens_[static_cast<size_t>(left)] + tail.substr(tail.starts_with("##") ? 2 : 0));
    std::vector<size_t> where = std::move(pairs_[pair].words);
    pairs_[pair].words.clear();
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    for (const size_t index : where) {
      auto& tokens = words_[index].tokens;
      count_pairs(index, -1);
      size_t kept = 0;
      for (size_t i = 0; i < tokens.size(); ++kept) {
        const bool here = i + 1 < tokens.size() && tokens[i] == left && tokens[i + 1] == right;
        tokens[kept] = here ? merged : tokens[i];
        i += here ? 2 : 1;
      }
      tokens.resize(kept);
      count_pairs(index, 1);
    }
    queue_touched();
    pairs_.erase(pair);
  }

  std::vector<std::string> tokens_;
  TextMap<int32_t> ids_;
  std::vector<Word> words_;
  std::unordered_map<PairKey, Pair> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<PairKey> touched_;
};

}  // namespace

void VocabularyTrainer::add(std::string_view line) {
  for (size_t at = 0; at < line.size();) {
    size_t end = at + 1;
    if (!ends_word(line[at]))
      while (end < line.size() && !ends_word(line[end])) ++end;
    const std::string_view run = line.substr(at, end - at);
    at = end;
    if (run == " ") continue;
    if (const auto found = runs_.find(run); found != runs_.end()) {
      ++found->second;
    } else {
      if (invalid_utf8(run) >= 0) throw UserError("a line is not UTF-8; convert it");
      runs_.emplace(run, 1);
    }
  }
}

std::vector<std::string> VocabularyTrainer::train(const Report& report) const {
  Words words;
  for (const auto& [run, count] : runs_) {
    for_each_word(run, options_.lowercase, [&](std::span<const Letter> word) {
      if (word.size() > kLongestLearntWord) return;
      Characters characters;
      for (const Letter& letter : word) characters.push_back(letter.code);
      words[characters] += count;
    });
  }
  if (words.empty()) throw UserError("the text has no words to learn a vocabulary from; is it empty?");
  Merger merger(words, alphabet_of(words, options_.alphabet));
  if (merger.size() > options_.size)
    throw UserError(
        "a vocabulary of {} tokens has no room for the {} special tokens and characters of this text; ask "
        "for more tokens",
        options_.size, merger.size());
  merger.merge_until(options_.size, options_.min_frequency, report);
  return std::move(merger).tokens();
}

}  // namespace taper
