#pragma once
// A few kilobytes of text and a vocabulary for it, on disk.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "recipes/text/trainer.h"
#include "recipes/text/vocabulary.h"
#include "runtime/philox.h"

namespace taper {

/// Sentences of a small grammar in two files, `corpus/one.txt` and `corpus/two.txt`, and vocab.txt, in a
/// folder that goes with the object.
struct SmallText {
  explicit SmallText(const std::string& name, int64_t sentences = 400)
      : folder(std::filesystem::temp_directory_path() / ("taper-" + name + "-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder / "corpus");
    VocabularyTrainer trainer({.size = 120});
    Draws draws(11, 0, 0);
    for (const char* file : {"one.txt", "two.txt"}) {
      std::ofstream out(folder / "corpus" / file);
      for (int64_t i = 0; i < sentences / 2; ++i) {
        std::string line = sentence(draws);
        trainer.add(line);
        out << line << '\n' << (draws.below(8) == 0 ? "\n" : "");
      }
    }
    write_vocabulary(folder / "vocab.txt", Vocabulary(trainer.train([](int64_t) {}), "the test"));
  }
  ~SmallText() { std::filesystem::remove_all(folder); }
  SmallText(const SmallText&) = delete;
  SmallText& operator=(const SmallText&) = delete;

  static std::string sentence(Draws& draws) {
    static const std::vector<std::string> kNouns{"the narrow network", "a wide river",  "her teacher",
                                                 "the old ferryman",   "some swallows", "every narrowing"};
    static const std::vector<std::string> kVerbs{"imitates", "overtakes", "remembers", "carries", "follows"};
    auto pick = [&](const std::vector<std::string>& from) {
      return from[draws.below(static_cast<uint32_t>(from.size()))];
    };
    std::string text = pick(kNouns) + " " + pick(kVerbs) + " " + pick(kNouns);
    if (draws.below(3) == 0) text += ", and " + pick(kNouns) + " " + pick(kVerbs) + " nothing";
    return text + ".";
  }
  /// What makes the tiny configuration read this text.
  std::vector<std::string> settings() const {
    return {"data.path=" + (folder / "corpus").string(), "data.vocabulary=" + (folder / "vocab.txt").string(),
            "data.cache=" + (folder / "cache").string()};
  }

  std::filesystem::path folder;
};

}  // namespace taper
