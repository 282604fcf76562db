#include "recipes/data.h"

#include <nlohmann/json.hpp>

#include "recipes/images.h"
#include "recipes/labelled_text.h"
#include "recipes/masked_text.h"
#include "recipes/questions.h"
#include "runtime/error.h"

namespace taper {

int64_t Data::steps_per_epoch(const StageOptions& stage, const std::string& name) const {
  int64_t steps = facts().train / stage.batch_size;
  if (steps == 0)
    throw UserError("{}.batch_size is {}, but there are only {} training samples; lower it", name,
                    stage.batch_size, facts().train);
  return steps;
}

std::string DataFacts::write() const {
  return nlohmann::json{
      {"height", extent.height},  {"width", extent.width}, {"channels", channels}, {"classes", classes},
      {"vocabulary", vocabulary}, {"train", train},        {"test", test},         {"labelled", labelled},
      {"labels", labels},         {"questions", questions}}
      .dump();
}

DataFacts DataFacts::read(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    return {.extent = {json.at("height"), json.at("width")},
            .channels = json.at("channels"),
            .classes = json.at("classes"),
            .vocabulary = json.at("vocabulary"),
            .train = json.at("train"),
            .test = json.at("test"),
            .labelled = json.at("labelled"),
            .labels = json.at("labels"),
            .questions = json.at("questions")};
  } catch (const nlohmann::json::exception& error) {
    throw Failure("the facts of the data cannot be read: {}", error.what());
  }
}

std::vector<double> Data::score(const std::vector<double>&) const {
  throw Failure("this data has no labels to score");
}

std::shared_ptr<const Vocabulary> vocabulary_of(const Configuration& configuration) {
  const std::string& path = configuration.data.vocabulary;
  auto vocabulary = std::make_shared<const Vocabulary>(read_vocabulary(path));
  const int64_t room = configuration.network.vocab_size;
  if (room != 0 && room < vocabulary->size())
    throw UserError("network.vocab_size is {}, but {} has {} tokens; raise it, or set it to 0", room, path,
                    vocabulary->size());
  return vocabulary;
}

std::shared_ptr<const Vocabulary> vocabulary_of(const Configuration& configuration,
                                                const DataFacts& trained) {
  auto vocabulary = vocabulary_of(configuration);
  if (vocabulary->size() != trained.vocabulary)
    throw UserError("{} has {} tokens, and the run was trained with {}; bring back its vocab.txt",
                    configuration.data.vocabulary, vocabulary->size(), trained.vocabulary);
  return vocabulary;
}

std::unique_ptr<Data> open_data(const Configuration& configuration) {
  if (configuration.data.format == "text") return std::make_unique<MaskedText>(configuration);
  if (configuration.data.labelled()) return std::make_unique<LabelledText>(configuration);
  if (configuration.data.questions()) return std::make_unique<Questions>(configuration);
  return std::make_unique<Images>(configuration);
}

}  // namespace taper
