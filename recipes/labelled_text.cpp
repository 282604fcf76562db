#include "recipes/labelled_text.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <numeric>

#include "recipes/data/shuffle.h"
#include "recipes/text/text_batch.h"
#include "runtime/error.h"

namespace taper {

namespace {

std::string file_of(const DataOptions& options, Split split) {
  const std::filesystem::path folder = options.path;
  if (split == Split::train) return folder / (options.format == "csv" ? "train.csv" : "train.tsv");
  if (!options.test_file.empty()) return folder / options.test_file;
  if (options.format != "glue") return folder / (options.format == "csv" ? "test.csv" : "test.tsv");
  // MNLI has two, and the labels of every test file are secret.
  const std::filesystem::path matched = folder / "dev_matched.tsv";
  return std::filesystem::exists(matched) ? matched : folder / "dev.tsv";
}

// Of a split's sequences and labels.
uint64_t content(const std::vector<TextSequence>& sequences, const std::vector<Example>& examples) {
  uint64_t result = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto bytes = std::as_bytes(std::span(sequences[i].words));
    result = fold(result, hash({reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    result = fold(result, static_cast<uint64_t>(examples[i].label));
    result = fold(result, std::bit_cast<uint64_t>(examples[i].score));
  }
  return result;
}

}  // namespace

ExampleFormat example_format(const DataOptions& options) {
  if (options.format == "glue") {
    std::filesystem::path path = options.path;
    if (!path.has_filename()) path = path.parent_path();
    std::string task = path.filename().string();
    for (char& c : task) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const auto format = glue_format(task);
    if (!format)
      throw UserError(
          "{}: GLUE has no task \"{}\"; there are CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI and RTE",
          options.path, task);
    return *format;
  }
  ExampleFormat format{.separator = options.format == "csv" ? Separator::comma : Separator::tab,
                       .text = options.text,
                       .pair = options.pair,
                       .label = options.label,
                       .regression = options.regression};
  format.metrics = options.regression ? std::vector{TaskMetric::pearson, TaskMetric::spearman}
                                      : std::vector{TaskMetric::accuracy, TaskMetric::f1_macro};
  return format;
}

TextSequence make_sequence(Tokenizer& tokenizer, const std::string& text, const std::string& pair,
                           int64_t length) {
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  std::vector<Token> first, second;
  tokenizer.encode(text, first);
  if (!pair.empty()) tokenizer.encode(pair, second);
  const auto room = static_cast<size_t>(length) - (pair.empty() ? 2 : 3);
  while (first.size() + second.size() > room) (first.size() > second.size() ? first : second).pop_back();
  TextSequence result;
  result.words.push_back(vocabulary.cls);
  for (const Token& token : first) result.words.push_back(token.id);
  result.words.push_back(vocabulary.sep);
  result.types.resize(result.words.size(), 0);
  if (pair.empty()) return result;
  for (const Token& token : second) result.words.push_back(token.id);
  result.words.push_back(vocabulary.sep);
  result.types.resize(result.words.size(), 1);
  return result;
}

// Batches of a split from some step on.
class LabelledText::Reader final : public Batches {
 public:
  Reader(const Part& part, bool regression, uint64_t key, int64_t batch_size, int64_t first, int64_t samples,
         bool shuffled)
      : part_(part),
        regression_(regression),
        key_(key),
        batch_size_(batch_size),
        step_(first),
        samples_(samples),
        shuffled_(shuffled) {
    order_.resize(static_cast<size_t>(samples));
    std::iota(order_.begin(), order_.end(), 0);
  }

  std::unique_ptr<Batch> next() override {
    const int64_t steps = shuffled_ ? samples_ / batch_size_ : (samples_ + batch_size_ - 1) / batch_size_;
    const int64_t epoch = step_ / steps, begin = step_ % steps * batch_size_;
    if (shuffled_ && epoch != order_epoch_) shuffle(order_, samples_, fold(key_, hash("order")), epoch);
    order_epoch_ = epoch;
    auto batch = std::make_unique<TextBatch>();
    batch->dropout_key = fold(fold(key_, hash("dropout")), static_cast<uint64_t>(step_));
    for (int64_t i = begin; i < std::min(begin + batch_size_, samples_); ++i) {
      const int64_t sample = order_[static_cast<size_t>(i)];
      const TextSequence& sequence = part_.sequences[static_cast<size_t>(sample)];
      const Example& example = part_.examples[static_cast<size_t>(sample)];
      batch->add(sample, sequence.words, sequence.types, {}, std::span(&example.label, 1));
      if (regression_) batch->scores.push_back(static_cast<float>(example.score));
    }
    ++step_;
    return batch;
  }

 private:
  const Part& part_;
  bool regression_;
  uint64_t key_;
  int64_t batch_size_, step_, samples_;
  bool shuffled_;
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;
};

LabelledText::LabelledText(const Configuration& configuration)
    : options_(configuration.data), format_(example_format(options_)), labels_(format_.labels) {
  Tokenizer tokenizer(std::make_shared<const Vocabulary>(read_vocabulary(options_.vocabulary)),
                      !options_.cased);
  train_ = read(file_of(options_, Split::train), options_.train_limit, tokenizer);
  test_ = read(file_of(options_, Split::test), options_.test_limit, tokenizer);
  identity_ = fmt::format(
      "{:016x}", fold(content(train_.sequences, train_.examples), content(test_.sequences, test_.examples)));
  facts_ = {.extent = {1, options_.sequence_length},
            .classes = format_.regression ? 1 : std::ssize(labels_),
            .vocabulary = tokenizer.vocabulary().size(),
            .train = std::ssize(train_.examples),
            .test = std::ssize(test_.examples),
            .labelled = true};
}

LabelledText::Part LabelledText::read(const std::string& file, int64_t limit, Tokenizer& tokenizer) {
  Part part{read_examples(file, format_, labels_), {}};
  if (limit > 0 &&
      limit < std::ssize(part.examples)) {  // as for images: any of them, the same ones every time
    std::vector<int64_t> order;
    shuffle(order, std::ssize(part.examples), hash("limit"), 0);
    std::vector<Example> kept;
    for (int64_t i = 0; i < limit; ++i)
      kept.push_back(std::move(part.examples[static_cast<size_t>(order[static_cast<size_t>(i)])]));
    part.examples = std::move(kept);
  }
  for (const Example& example : part.examples)
    part.sequences.push_back(make_sequence(tokenizer, example.text, example.pair, options_.sequence_length));
  return part;
}

std::unique_ptr<Batches> LabelledText::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                     int64_t, Share) const {
  return std::make_unique<Reader>(train_, format_.regression, key, stage.batch_size, first, facts_.train,
                                  true);
}

std::unique_ptr<Batches> LabelledText::plain_batches(Split split, int64_t batch_size, int64_t limit,
                                                     int64_t first) const {
  const int64_t samples = limit > 0 ? std::min(limit, size(split)) : size(split);
  return std::make_unique<Reader>(split == Split::train ? train_ : test_, format_.regression,
                                  hash("plain batches"), batch_size, first, samples, false);
}

std::vector<double> LabelledText::score(const std::vector<double>& predicted) const {
  std::vector<double> scores = taper::score(format_, test_.examples, predicted);
  for (double& score : scores)
    if (std::isnan(score)) score = 0;
  return scores;
}

}  // namespace taper
