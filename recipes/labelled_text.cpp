#include "recipes/labelled_text.h"

#include <bit>
#include <cctype>
#include <cmath>

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

LabelledText::LabelledText(const Configuration& configuration)
    : options_(configuration.data), format_(example_format(options_)) {
  std::vector<std::string> labels = format_.labels;
  Tokenizer tokenizer(vocabulary_of(configuration), !options_.cased);
  train_ = read(file_of(options_, Split::train), options_.train_limit, tokenizer, labels);
  test_ = read(file_of(options_, Split::test), options_.test_limit, tokenizer, labels);
  identity_ = fmt::format(
      "{:016x}", fold(content(train_.sequences, train_.examples), content(test_.sequences, test_.examples)));
  facts_ = {.extent = {1, options_.sequence_length},
            .classes = format_.regression ? 1 : std::ssize(labels),
            .vocabulary = tokenizer.vocabulary().size(),
            .train = std::ssize(train_.examples),
            .test = std::ssize(test_.examples),
            .labelled = true,
            .labels = labels};
}

LabelledText::Part LabelledText::read(const std::string& file, int64_t limit, Tokenizer& tokenizer,
                                      std::vector<std::string>& labels) const {
  Part part{read_examples(file, format_, labels), {}};
  keep_any(part.examples, limit);
  for (const Example& example : part.examples)
    part.sequences.push_back(make_sequence(tokenizer, example.text, example.pair, options_.sequence_length));
  return part;
}

AddSequence LabelledText::adder(const Part& part) const {
  return [&part, regression = format_.regression](TextBatch& batch, int64_t sample, int64_t) {
    const TextSequence& sequence = part.sequences[static_cast<size_t>(sample)];
    const Example& example = part.examples[static_cast<size_t>(sample)];
    batch.add(sample, sequence.words, sequence.types, {}, std::span(&example.label, 1));
    if (regression) batch.scores.push_back(static_cast<float>(example.score));
  };
}

std::unique_ptr<Batches> LabelledText::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                     int64_t, Share) const {
  return std::make_unique<TextBatches>(adder(train_), TextBatches::Order::shuffled, facts_.train,
                                       stage.batch_size, key, first);
}

std::unique_ptr<Batches> LabelledText::plain_batches(Split split, int64_t batch_size, int64_t limit,
                                                     int64_t first) const {
  const int64_t samples = limit > 0 ? std::min(limit, size(split)) : size(split);
  return std::make_unique<TextBatches>(adder(split == Split::train ? train_ : test_),
                                       TextBatches::Order::plain, samples, batch_size, hash("plain batches"),
                                       first);
}

std::vector<double> LabelledText::score(const std::vector<double>& predicted) const {
  std::vector<double> scores = taper::score(format_, test_.examples, predicted);
  for (double& score : scores)
    if (std::isnan(score)) score = 0;
  return scores;
}

}  // namespace taper
