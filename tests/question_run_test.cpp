// Tasks of questions, as a user runs them: SQuAD's files, learnt, scored and answered.

#include <gmock/gmock.h>

#include <cmath>

#include "recipes/questions.h"
#include "runtime/error.h"
#include "tests/small_squad.h"
#include "tests/small_text.h"
#include "tests/taper_process.h"

namespace {

using testing::HasSubstr;

class QuestionRunTest : public ProcessTest {
 protected:
  std::vector<std::string> settings(const std::string& format) const {
    std::vector<std::string> settings = text_.settings();
    settings.insert(settings.end(), {R"(stages=["baseline","task"])", R"(task.networks=["baseline"])",
                                     R"(task.names=["questions"])", "task.path=" + folder_.string(),
                                     "task.format=" + format, "task.sequence_length=32", "task.doc_stride=12",
                                     "task.epochs=8", "task.batch_size=16", "task.optimizer=adamw",
                                     "task.lr=1e-2", "task.schedule=linear", "task.evaluate_every=60"});
    return settings;
  }
  std::vector<std::string> configuration() const override {
    return {std::string(TAPER_SOURCE_DIR) + "/recipes/configurations/tiny-bert.toml"};
  }
  std::vector<std::string> with(const std::vector<std::string>& settings) const {
    std::vector<std::string> arguments;
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  }
  // Every answer that `taper predict` gives, and what they score: not by the run's windows and batches.
  taper::SquadScore predicted(const fs::path& run, const taper::SmallSquad& squad, bool version2) {
    std::ofstream(folder_ / "input") << squad.lines();
    const fs::path output = folder_ / "answers";
    EXPECT_EQ(std::system((taper_binary() + " predict " + run.string() + " --task questions --json <" +
                           (folder_ / "input").string() + " >" + output.string())
                              .c_str()),
              0);
    std::ifstream answers(output);
    taper::SquadScore sum;
    size_t count = 0;
    for (std::string line; std::getline(answers, line); ++count) {
      const std::string& right = squad.answers().at(count);
      taper::SquadQuestion question;
      if (!right.empty()) question.answers.push_back({right, 0, 0});
      const auto score =
          taper::squad_score(nlohmann::json::parse(line)["answer"].get<std::string>(), question, version2);
      sum = {sum.exact + score.exact, sum.f1 + score.f1};
    }
    EXPECT_EQ(count, squad.answers().size());
    return {sum.exact / static_cast<double>(count), sum.f1 / static_cast<double>(count)};
  }

  taper::SmallText text_{"question-run"};
};

TEST_F(QuestionRunTest, LearnsToAnswerAndScoresEveryQuestionOnce) {
  for (const bool version2 : {false, true}) {
    const std::string format = version2 ? "squad_v2" : "squad";
    SCOPED_TRACE(format);
    taper::SmallSquad squad(version2);
    squad.write(folder_ / "questions");
    const fs::path output = folder_ / format;
    Result trained = run(train(output, with(settings(format))));
    ASSERT_EQ(trained.code, 0) << trained.text;
    const auto row =
        nlohmann::json::parse(run({"evaluate", output.string(), "--task", "questions", "--json"}).text).at(0);
    // Four standard deviations of what as many questions say of the best constant answer.
    const double constant = squad.best_constant();
    const double bar = constant + 4 * std::sqrt(constant * (1 - constant) / 67);
    EXPECT_GT(row["exact_match"], bar);
    EXPECT_GE(row["f1"], row["exact_match"]);
    EXPECT_GT(row["samples"], 100) << "windows, of which the last batch is not full";
    const taper::SquadScore score = predicted(output, squad, version2);
    EXPECT_NEAR(row["exact_match"], score.exact, 1e-12);
    EXPECT_NEAR(row["f1"], score.f1, 1e-12);
    EXPECT_THAT(run({"evaluate", output.string(), "--task", "questions"}).text,
                HasSubstr("f1 %  exact match %"));
    // What was learnt is used without what it was learnt from.
    fs::remove_all(folder_ / "questions");
    const fs::path exported = folder_ / (format + "-exported");
    ASSERT_EQ(
        run({"export", output.string(), exported.string(), "--task", "questions", "--network", "baseline"})
            .code,
        0);
    EXPECT_EQ(nlohmann::json::parse(read(exported / "config.json"))["architectures"][0],
              "BertForQuestionAnswering");
    EXPECT_EQ(predicted(output, squad, version2).exact, score.exact);
    for (const auto& [input, says] :
         {std::pair("a question\n", "line 1 has no tab; this task reads a question"),
          std::pair("a\tb\tc\n", "line 1 has several tabs"),
          std::pair("a\t\n", "line 1 has nothing after its tab")}) {
      std::ofstream(folder_ / "input") << input;
      const Result refused = wait(launch({"sh", "-c",
                                          taper_binary() + " predict " + output.string() +
                                              " --task questions <" + (folder_ / "input").string()}));
      EXPECT_EQ(refused.code, 2);
      EXPECT_THAT(refused.text, HasSubstr(says));
    }
  }
}

TEST_F(QuestionRunTest, RefusesWhatIsNotRight) {
  taper::SmallSquad squad(false);
  squad.write(folder_ / "questions");
  const auto refused = [&](const std::string& says, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = settings("squad");
    all.insert(all.end(), {"task.steps=1", "task.epochs=0"});
    all.insert(all.end(), more.begin(), more.end());
    fs::remove_all(folder_ / "run");
    const Result result = run(train(folder_ / "run", with(all)));
    EXPECT_EQ(result.code, 2) << says << ": " << result.text;
    EXPECT_THAT(result.text, HasSubstr(says));
    EXPECT_FALSE(fs::exists(folder_ / "run")) << "half a run was left behind";
  };
  refused("task.label_smoothing is 0.1; an answer's first and last token have none",
          {"task.label_smoothing=0.1"});
  refused("task.sequence_length is 7; it must be at least 8", {"task.sequence_length=7"});
  refused("the question \"train0\": a question of 9 tokens leaves no room", {"task.sequence_length=8"});
  refused("train-v2.0.json", {"task.format=squad_v2"});

  const fs::path file = folder_ / "questions" / "dev-v1.1.json";
  auto json = nlohmann::json::parse(read(file));
  json["data"][0]["paragraphs"][2]["qas"][0]["answers"][0]["text"] = "nobody";
  std::ofstream(file) << json;
  refused(
      "dev-v1.1.json, data[0], paragraphs[2], qas[0], answers[0]: the answer \"nobody\" to the question "
      "\"dev2\" is not at character ");
  json["data"][0]["paragraphs"][2]["qas"][0] = {
      {"id", "dev2"}, {"question", "?"}, {"answers", nlohmann::json::array()}, {"is_impossible", true}};
  std::ofstream(file) << json;
  refused(
      "dev-v1.1.json: the question \"dev2\" has no answer (is_impossible), as SQuAD 2.0's may; use the "
      "format "
      "\"squad_v2\"");
}

}  // namespace
