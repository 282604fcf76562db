// Any bytes as a SQuAD file: UserError, or questions whose answers are in their contexts, and windows that
// cover them.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "recipes/text/squad_windows.h"
#include "runtime/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  std::vector<std::string> tokens = Vocabulary::special_tokens();
  for (const char* piece : {"a", "##a", "e", "##e", "in", "##n", ".", "?"}) tokens.emplace_back(piece);
  Tokenizer tokenizer(std::make_shared<const Vocabulary>(std::move(tokens), "input"), true);
  const SquadOptions options{.max_length = 12, .stride = 3, .max_question = 4, .max_answer = 3, .best = 4};
  try {
    const Squad squad = parse_squad({reinterpret_cast<const char*>(data), size}, "input");
    for (const SquadQuestion& question : squad.questions) {
      for (const SquadAnswer& answer : question.answers)
        require(question.context->substr(static_cast<size_t>(answer.begin),
                                         static_cast<size_t>(answer.end - answer.begin)) == answer.text);
      const std::vector<SquadWindow> windows = make_windows(question, tokenizer, options);
      std::vector<std::vector<float>> logits;
      for (const SquadWindow& window : windows) {
        require(window.ids.size() <= 12 && window.start <= window.end && window.end < std::ssize(window.ids));
        std::vector<float>& values = logits.emplace_back();
        for (size_t i = 0; i < 2 * window.ids.size(); ++i) values.push_back(static_cast<float>(i * 7 % 5));
      }
      const SquadPrediction found = best_answer(question, windows, logits, options, squad.version2);
      require(question.context->find(found.text) != std::string::npos);
      const SquadScore score = squad_score(found.text, question, squad.version2);
      require(score.f1 >= 0 && score.f1 <= 1 && (score.exact == 0 || score.exact == 1));
    }
  } catch (const UserError&) {
    return 0;
  }
  return 0;
}
