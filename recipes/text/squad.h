#pragma once
// Questions about paragraphs whose answers are spans of them: SQuAD 1.1 (Rajpurkar et al., EMNLP 2016)
// and 2.0 (ACL 2018), as published, and scored as their evaluation scripts do.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

struct SquadAnswer {
  std::string text;
  int64_t begin, end;  ///< its bytes in the context
};

struct SquadQuestion {
  std::string id, question;
  std::shared_ptr<const std::string> context;  ///< shared by the questions of a paragraph
  std::vector<SquadAnswer> answers;            ///< none where the context does not hold one (2.0)
};

struct Squad {
  bool version2 = false;  ///< questions say whether they are impossible
  std::vector<SquadQuestion> questions;
};

/// Reads train-v1.1.json, dev-v2.0.json and the like. Offsets in the file count characters, as Python does.
/// UserError names the file, and the byte where it is not JSON, the place of a member that is missing or of
/// the wrong type, the question whose answer is not where it says in its context, or is missing though the
/// question is not impossible, and an id that is there twice.
Squad read_squad(const std::filesystem::path& path);
/// The same from memory; `shown` is the file's name in errors.
Squad parse_squad(std::string_view json, const std::string& shown);

/// Of one prediction, both 0 to 1: equality with a right answer, and the F1 of their words.
struct SquadScore {
  double exact = 0, f1 = 0;
};

/// The best over the right answers, words compared without case, punctuation and articles. As
/// evaluate-v1.1.py; in version 2, as evaluate-v2.0.py, the empty text is the right answer of a question
/// without one.
SquadScore squad_score(std::string_view prediction, const SquadQuestion& question, bool version2);

/// What the scripts compare: lower case, without ASCII's punctuation, "a", "an" and "the", single spaces.
std::string normalize_answer(std::string_view text);

}  // namespace taper
