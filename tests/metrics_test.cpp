// Metrics against scikit-learn's, SciPy's and those of SQuAD's scripts (tests/golden/make_metrics_golden.py).

#include "recipes/text/metrics.h"

#include <gmock/gmock.h>

#include <cmath>

#include "recipes/text/squad_windows.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using Json = nlohmann::json;

Json golden_metrics(const char* part) {
  std::ifstream file(TAPER_SOURCE_DIR "/tests/golden/metrics.json");
  return Json::parse(file).at(part);
}

// Sums of some hundreds of terms of order 1, in another order.
constexpr double kRounding = 1e-12;

TEST(Metrics, OfClassesAreScikitLearns) {
  for (const Json& c : golden_metrics("classification")) {
    const auto predicted = c["predicted"].get<std::vector<int32_t>>(),
               labels = c["labels"].get<std::vector<int32_t>>();
    EXPECT_NEAR(accuracy(predicted, labels), c["accuracy"].get<double>(), kRounding) << c;
    EXPECT_NEAR(f1_macro(predicted, labels), c["f1_macro"].get<double>(), kRounding) << c;
    EXPECT_NEAR(matthews(predicted, labels), c["matthews"].get<double>(), kRounding) << c;
    if (c.contains("f1")) {
      EXPECT_NEAR(f1_binary(predicted, labels), c["f1"].get<double>(), kRounding) << c;
    }
  }
}

TEST(Metrics, OfNumbersAreScipys) {
  for (const Json& c : golden_metrics("regression")) {
    const auto predicted = c["predicted"].get<std::vector<double>>(),
               scores = c["scores"].get<std::vector<double>>();
    for (const auto& [key, value] : {std::pair("pearson", pearson(predicted, scores)),
                                     std::pair("spearman", spearman(predicted, scores))}) {
      if (c[key].is_null())
        EXPECT_TRUE(std::isnan(value)) << key << c;
      else  // predictions of 1e6 + x keep 10 digits of x
        EXPECT_NEAR(value, c[key].get<double>(), 1e-9) << key << c;
    }
  }
  const std::vector<double> broken = {0, std::nan(""), 2}, scores = {1, 2, 3};
  EXPECT_TRUE(std::isnan(pearson(broken, scores)));
  EXPECT_TRUE(std::isnan(spearman(broken, scores)));
}

TEST(Metrics, NeedALabelForEachPrediction) {
  const std::vector<int32_t> one = {0}, two = {0, 1}, none, negative = {-1};
  EXPECT_THROW(accuracy(one, two), Failure);
  EXPECT_THROW(accuracy(none, none), Failure);
  EXPECT_THROW(matthews(negative, one), Failure);
}

SquadQuestion asked(const std::vector<std::string>& answers) {
  SquadQuestion question;
  for (const std::string& text : answers) question.answers.push_back({text, 0, 0});
  return question;
}

TEST(SquadMetrics, AreTheScripts) {
  for (const Json& c : golden_metrics("squad")) {
    const auto prediction = c["prediction"].get<std::string>();
    if (c.contains("normalized")) {
      EXPECT_EQ(normalize_answer(prediction), c["normalized"].get<std::string>()) << c;
    }
    for (const bool version2 : {false, true}) {
      const char* key = version2 ? "version2" : "version1";
      if (!c.contains(key)) continue;
      const SquadScore score = squad_score(prediction, asked(c["answers"]), version2);
      EXPECT_EQ(score.exact, c[key][0].get<double>()) << key << c;
      EXPECT_NEAR(score.f1, c[key][1].get<double>(), kRounding) << key << c;
    }
  }
}

// The windows that transformers makes, and the answers that it finds in their random logits.
TEST(SquadWindows, AreThoseOfRunSquad) {
  const Json golden = golden_metrics("windows");
  Tokenizer tokenizer(
      std::make_shared<const Vocabulary>(golden["vocabulary"].get<std::vector<std::string>>(), "golden"),
      true);
  for (const Json& c : golden["cases"]) {
    SCOPED_TRACE(c["context"].get<std::string>());
    SquadQuestion question{"id", c["question"], std::make_shared<const std::string>(c["context"]), {}};
    if (!c["answer"].is_null()) {
      const auto text = c["answer"].get<std::string>();
      const auto begin = c["answer_start"].get<int64_t>();  // the contexts are ASCII
      question.answers.push_back({text, begin, begin + std::ssize(text)});
    }
    SquadOptions options{.max_length = c["max_length"],
                         .stride = c["stride"],
                         .max_question = golden["max_question"],
                         .max_answer = golden["max_answer"],
                         .best = golden["best"]};
    const std::vector<SquadWindow> windows = make_windows(question, tokenizer, options);
    ASSERT_EQ(windows.size(), c["windows"].size());
    std::vector<std::vector<float>> logits;
    for (size_t i = 0; i < windows.size(); ++i) {
      const Json& expected = c["windows"][i];
      EXPECT_EQ(windows[i].ids, expected["ids"].get<std::vector<int32_t>>()) << i;
      EXPECT_EQ(windows[i].widest, expected["widest"].get<std::vector<bool>>()) << i;
      EXPECT_EQ(windows[i].start, expected["start"].get<int32_t>()) << i;
      EXPECT_EQ(windows[i].end, expected["end"].get<int32_t>()) << i;
      logits.push_back(expected["logits"].get<std::vector<float>>());
    }
    const bool version2 = c["version2"];
    for (const auto& [threshold, text] : c["predictions"].items()) {
      options.null_threshold = std::stod(threshold);
      const SquadPrediction found = best_answer(question, windows, logits, options, version2);
      EXPECT_EQ(found.text, text.get<std::string>()) << threshold;
      EXPECT_GT(found.probability, 0);
      EXPECT_LE(found.probability, 1);
    }
  }
}

}  // namespace
}  // namespace taper
