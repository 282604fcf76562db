#include "recipes/questions.h"

#include <algorithm>
#include <filesystem>

#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

namespace {

std::string squad_file(const DataOptions& options, Split split) {
  const std::filesystem::path folder = options.path;
  if (split == Split::test && !options.test_file.empty()) return folder / options.test_file;
  return folder / fmt::format("{}-v{}.json", split == Split::train ? "train" : "dev",
                              may_be_unanswerable(options) ? "2.0" : "1.1");
}

uint64_t content_of(const std::vector<SquadQuestion>& questions, const std::vector<SquadWindow>& windows) {
  uint64_t result = 0;
  for (const SquadWindow& window : windows) {
    const auto bytes = std::as_bytes(std::span(window.ids));
    result = fold(result, hash({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    result = fold(fold(result, static_cast<uint64_t>(window.start)), static_cast<uint64_t>(window.end));
  }
  for (const SquadQuestion& question : questions)
    for (const SquadAnswer& answer : question.answers) result = fold(result, hash(answer.text));
  return result;
}

}  // namespace

SquadOptions squad_options(const DataOptions& options) {
  return {.max_length = options.sequence_length,
          .stride = options.doc_stride,
          .max_answer = options.max_answer_length,
          .best = options.n_best_size,
          .null_threshold = options.null_score_diff_threshold};
}

bool may_be_unanswerable(const DataOptions& options) { return options.format == "squad_v2"; }

void add_window(TextBatch& batch, int64_t sample, const SquadWindow& window) {
  std::vector<int32_t> types(window.ids.size(), 1);
  std::fill_n(types.begin(), window.context, 0);
  const int32_t ends[] = {window.start, window.end};
  batch.add(sample, window.ids, types, {}, ends);
}

Questions::Questions(const Configuration& configuration) : options_(configuration.data) {
  Tokenizer tokenizer(vocabulary_of(configuration), !options_.cased);
  train_ = read(squad_file(options_, Split::train), options_.train_limit, tokenizer);
  test_ = read(squad_file(options_, Split::test), options_.test_limit, tokenizer);
  identity_ = fmt::format("{:016x}", fold(content_of(train_.questions, train_.windows),
                                          content_of(test_.questions, test_.windows)));
  // Only answers that are looked for need the contexts' texts and the places of their tokens.
  train_.questions.clear();
  for (SquadWindow& window : train_.windows) {
    window.tokens = {};
    window.widest = {};
  }
  facts_ = {.extent = {1, options_.sequence_length},
            .vocabulary = tokenizer.vocabulary().size(),
            .train = std::ssize(train_.windows),
            .test = std::ssize(test_.windows),
            .questions = true};
}

Questions::Part Questions::read(const std::string& file, int64_t limit, Tokenizer& tokenizer) const {
  Part part{.questions = read_squad(file).questions, .windows = {}};
  keep_any(part.questions, limit);
  for (const SquadQuestion& question : part.questions) {
    if (question.answers.empty() && !may_be_unanswerable(options_))
      throw UserError(
          "{}: the question \"{}\" has no answer (is_impossible), as SQuAD 2.0's may; use the format "
          "\"squad_v2\"",
          file, question.id);
    try {
      std::ranges::move(make_windows(question, tokenizer, squad_options(options_)),
                        std::back_inserter(part.windows));
    } catch (const UserError& error) {
      throw UserError("{}: the question \"{}\": {}", file, question.id, error.what());
    }
    part.first.push_back(part.windows.size());
  }
  return part;
}

AddSequence Questions::adder(Split split) const {
  return [&windows = (split == Split::train ? train_ : test_).windows](TextBatch& batch, int64_t sample,
                                                                       int64_t) {
    add_window(batch, sample, windows[static_cast<size_t>(sample)]);
  };
}

std::unique_ptr<Batches> Questions::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                  int64_t, Share) const {
  return std::make_unique<TextBatches>(adder(Split::train), TextBatches::Order::shuffled, facts_.train,
                                       stage.batch_size, key, first);
}

std::unique_ptr<Batches> Questions::plain_batches(Split split, int64_t batch_size, int64_t limit,
                                                  int64_t first) const {
  const int64_t samples = limit > 0 ? std::min(limit, size(split)) : size(split);
  return std::make_unique<TextBatches>(adder(split), TextBatches::Order::plain, samples, batch_size,
                                       hash("plain batches"), first);
}

std::vector<double> Questions::score(const std::vector<double>& predicted) const {
  const auto each = static_cast<size_t>(facts_.scored());
  TAPER_CHECK(predicted.size() == each * test_.windows.size(), "{} logits for {} windows", predicted.size(),
              test_.windows.size());
  SquadScore sum;
  for (size_t q = 0; q < test_.questions.size(); ++q) {
    const auto begin = test_.first[q], end = test_.first[q + 1];
    std::vector<std::vector<float>> logits;
    for (size_t w = begin; w < end; ++w) {
      const auto from = predicted.begin() + static_cast<int64_t>(w * each);
      logits.emplace_back(from, from + 2 * std::ssize(test_.windows[w].ids));
    }
    const SquadPrediction found =
        best_answer(test_.questions[q], std::span(test_.windows).subspan(begin, end - begin), logits,
                    squad_options(options_), may_be_unanswerable(options_));
    const SquadScore score = squad_score(found.text, test_.questions[q], may_be_unanswerable(options_));
    sum = {sum.exact + score.exact, sum.f1 + score.f1};
  }
  const auto count = static_cast<double>(test_.questions.size());
  return {sum.f1 / count, sum.exact / count};
}

}  // namespace taper
