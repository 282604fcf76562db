#pragma once
// A few questions that a tiny network can learn, in SQuAD's files.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/philox.h"

namespace taper {

/// What is asked is always who is not a thing: of the contexts' nouns one is "her teacher", "some swallows"
/// or "the old ferryman", at a random place, and the others are things. In version 2 about a third of the
/// contexts has none.
class SmallSquad {
 public:
  explicit SmallSquad(bool version2) : version2_(version2) {}

  /// train-*.json and dev-*.json in the folder, which is made.
  void write(const std::filesystem::path& folder) {
    std::filesystem::create_directories(folder);
    Draws draws(17, 0, 0);
    for (const auto& [split, count] : {std::pair("train", 192), std::pair("dev", 67)})
      std::ofstream(folder / (std::string(split) + (version2_ ? "-v2.0.json" : "-v1.1.json")))
          << file(draws, split, count).dump();
  }

  /// The share of the test questions whose answer is the most frequent one: what the best constant reaches.
  double best_constant() const {
    std::map<std::string, int> counts;
    int most = 0;
    for (const std::string& answer : answers_) most = std::max(most, ++counts[answer]);
    return static_cast<double>(most) / static_cast<double>(answers_.size());
  }
  /// The lines that `taper predict` reads for the test questions.
  std::string lines() const {
    std::string all;
    for (const std::string& context : contexts_) all += kQuestion + ("\t" + context) + "\n";
    return all;
  }
  const std::vector<std::string>& answers() const { return answers_; }  ///< to them; "": none

 private:
  static constexpr const char* kQuestion = "who carries the river?";

  nlohmann::json file(Draws& draws, const std::string& split, int count) {
    const std::vector<std::string> things{"the narrow network", "a wide river", "every narrowing"},
        people{"her teacher", "some swallows", "the old ferryman"},
        verbs{"imitates", "overtakes", "remembers", "carries", "follows"};
    const auto pick = [&](const std::vector<std::string>& from) {
      return from[draws.below(static_cast<uint32_t>(from.size()))];
    };
    nlohmann::json paragraphs = nlohmann::json::array();
    answers_.clear();
    contexts_.clear();
    for (int i = 0; i < count; ++i) {
      const bool impossible = version2_ && draws.below(3) == 0;
      const uint32_t place = impossible ? 100 : draws.below(8);
      std::string context, answer;
      size_t begin = 0;
      for (uint32_t noun = 0; noun < 8; ++noun) {
        std::string name = pick(things);
        if (noun == place) {
          begin = context.size();
          name = answer = pick(people);
        }
        context += name + (noun % 2 == 0 ? " " + pick(verbs) + " " : noun < 7 ? ". " : ".");
      }
      nlohmann::json question{
          {"id", split + std::to_string(i)}, {"question", kQuestion}, {"answers", nlohmann::json::array()}};
      if (version2_) question["is_impossible"] = impossible;
      if (!impossible) question["answers"].push_back({{"text", answer}, {"answer_start", begin}});
      paragraphs.push_back({{"context", context}, {"qas", {question}}});
      answers_.push_back(answer);
      contexts_.push_back(context);
    }
    return {{"version", version2_ ? "v2.0" : "1.1"},
            {"data", {{{"title", "test"}, {"paragraphs", paragraphs}}}}};
  }

  bool version2_;
  std::vector<std::string> answers_, contexts_;
};

}  // namespace taper
