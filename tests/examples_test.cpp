// Labelled texts in the formats that GLUE and SQuAD publish, and what is said of files that are not right.

#include "recipes/text/examples.h"

#include <gmock/gmock.h>

#include "recipes/text/squad_windows.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Examples : public testing::Test {
 protected:
  std::string write(const std::string& text) const {
    return folder_.write("table", {text.begin(), text.end()});
  }
  std::vector<std::vector<std::string>> rows(const std::string& text, Separator separator,
                                             bool header = true) const {
    TableReader reader(write(text), separator, header);
    std::vector<std::vector<std::string>> all;
    for (std::vector<std::string> cells; reader.next(cells);) all.push_back(cells);
    return all;
  }
  std::vector<Example> read(const std::string& task, const std::string& text) {
    format_ = glue_format(task).value();
    labels_ = format_.labels;
    return read_examples(write(text), format_, labels_);
  }
  std::string complaint(const std::string& text, ExampleFormat format = {}) {
    std::vector<std::string> labels = format.labels;
    return user_error([&] { read_examples(write(text), format, labels); });
  }

  ExampleFormat format_;
  std::vector<std::string> labels_;

 private:
  TemporaryFolder folder_;
};

TEST_F(Examples, TabsSeparateWhateverElseIsThere) {
  EXPECT_THAT(rows("a\tb\r\n\"x\ty\"\n\n\t\n, ,\té", Separator::tab),
              ElementsAre(ElementsAre("\"x", "y\""), ElementsAre("", ""), ElementsAre(", ,", "é")));
  EXPECT_THAT(rows("\xEF\xBB\xBF"
                   "1\t2\n3\t4",
                   Separator::tab, false),
              ElementsAre(ElementsAre("1", "2"), ElementsAre("3", "4")));
}

TEST_F(Examples, CommasSeparateButNotInQuotes) {
  EXPECT_THAT(
      rows("a,b\n\"x, y\",z\n\"\",\"say \"\"hi\"\"\"\n,\n\"two\r\nlines\",\"\"\"\"\n", Separator::comma),
      ElementsAre(ElementsAre("x, y", "z"), ElementsAre("", "say \"hi\""), ElementsAre("", ""),
                  ElementsAre("two\nlines", "\"")));
}

TEST_F(Examples, OfGlueAreReadAsPublished) {
  std::vector<Example> cola =
      read("cola", "gj04\t1\t\tOur friends won't buy this.\nks08\t0\t*\tThe \"whats the.\n");
  ASSERT_EQ(cola.size(), 2);
  EXPECT_EQ(cola[0].text, "Our friends won't buy this.");
  EXPECT_EQ(cola[0].label, 1);
  EXPECT_EQ(cola[1].text, "The \"whats the.");
  EXPECT_EQ(cola[1].label, 0);

  std::vector<Example> mrpc = read(
      "mrpc",
      "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t70\t71\tHe said \"no\tShe said\r\n");
  EXPECT_EQ(mrpc.at(0).text, "He said \"no");
  EXPECT_EQ(mrpc.at(0).pair, "She said");
  EXPECT_EQ(mrpc.at(0).label, 1);

  std::vector<Example> stsb =
      read("sts-b",
           "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
           "0\tmain\tMSR\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t4.25\n");
  EXPECT_EQ(stsb.at(0).score, 4.25);
  EXPECT_EQ(stsb.at(0).pair, "An air plane.");

  std::vector<Example> mnli = read("mnli",
                                   "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_"
                                   "parse\tsentence1_parse\tsentence2_parse\t"
                                   "sentence1\tsentence2\tlabel1\tgold_label\n0\t1\t1n\tgov\t( a )\t( b "
                                   ")\t(A)\t(B)\tp\th\tneutral\tcontradiction\n");
  EXPECT_EQ(mnli.at(0).label, 2);
  EXPECT_EQ(mnli.at(0).text + "|" + mnli.at(0).pair, "p|h");

  EXPECT_EQ(read("sst-2", "sentence\tlabel\nhide new secretions \t0\n").at(0).text, "hide new secretions ");
  EXPECT_EQ(
      read("qqp", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tHow?\tWhy?\t1\n").at(0).label,
      1);
  EXPECT_EQ(read("qnli", "index\tquestion\tsentence\tlabel\n0\tWhen?\tThen.\tnot_entailment\n").at(0).label,
            1);
  EXPECT_EQ(read("rte", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n").at(0).pair, "B.");
  EXPECT_FALSE(glue_format("glue").has_value());
}

TEST_F(Examples, LearnTheirLabelsFromTheTrainingSplit) {
  const ExampleFormat format{.metrics = {TaskMetric::accuracy, TaskMetric::f1_macro}};
  std::vector<std::string> labels;
  std::vector<Example> train = read_examples(write("label\ttext\nb\tx\na\ty\nb\tz\n"), format, labels);
  EXPECT_THAT(labels, ElementsAre("a", "b"));
  EXPECT_EQ(train[0].label, 1);
  EXPECT_THAT(score(format, train, {1, 1, 1}),
              ElementsAre(testing::DoubleNear(2. / 3, 1e-15), testing::DoubleNear(0.4, 1e-15)));
  EXPECT_THAT(user_error([&] { read_examples(write("label\ttext\nc\tx\n"), format, labels); }),
              HasSubstr("line 2, column \"label\": \"c\" is not one of the labels a, b"));
}

TEST_F(Examples, ComplainWithPlaceAndRemedy) {
  EXPECT_THAT(complaint("label\ttext\na\tx\nb\ty\tz\n"),
              HasSubstr("line 3 has 3 columns, and the first line has 2; a text cannot hold a tab"));
  EXPECT_THAT(complaint("label,text\na,x,y\n", {.separator = Separator::comma}),
              HasSubstr("line 2 has 3 columns, and the first line has 2; a text with commas in it stands in "
                        "double quotes"));
  EXPECT_THAT(complaint("label\tsentence\na\tx\n"),
              HasSubstr("has no column \"text\"; it has label | sentence"));
  EXPECT_THAT(complaint(""), HasSubstr("has no rows"));
  EXPECT_THAT(complaint("label\ttext\n"), HasSubstr("has a header and no rows"));
  EXPECT_THAT(complaint("label\ttext\na\t  \nb\tx\n"),
              HasSubstr("line 2, column \"text\" is empty; remove the row"));
  EXPECT_THAT(complaint("label\ttext\na\tx\na\ty\n"), HasSubstr("every row has the label \"a\""));
  EXPECT_THAT(complaint("text\ttext\nx\ty\n"), HasSubstr("the header has two columns called \"text\""));
  EXPECT_THAT(complaint("label\ttext\na\t\xff\n"), HasSubstr("line 2 is not UTF-8 at byte 13"));
  EXPECT_THAT(complaint("label,text\n\"a,x\nb,y\n", {.separator = Separator::comma}),
              HasSubstr("a quote in the row of line 2 is not closed"));
  EXPECT_THAT(complaint("label,text\n\"a\"b,x\n", {.separator = Separator::comma}),
              HasSubstr("the row of line 2 goes on after a closing quote"));
  EXPECT_THAT(complaint("label,text\na,5\" or 6\"\n", {.separator = Separator::comma}),
              HasSubstr("the row of line 2 has a quote in a text without quotes"));
  EXPECT_THAT(complaint("label\ttext\n4.x\ty\n", {.regression = true}),
              HasSubstr("line 2, column \"label\": \"4.x\" is not a number"));
  EXPECT_THAT(complaint("label\ttext\ninf\ty\n", {.regression = true}), HasSubstr("\"inf\" is not a number"));
}

// Article 0, paragraph 0, with `question` in place of its questions.
std::string squad(const std::string& questions) {
  return R"({"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "In São Paulo it rained.", "qas": [)" +
         questions + "]}]}]}";
}

constexpr const char* kQuestion =
    R"({"id": "1", "question": "Where?", "answers": [{"text": "Paulo", "answer_start": 7}, {"text": "São Paulo", "answer_start": 3}]})";

TEST(Squad, IsReadAsPublished) {
  const Squad read = parse_squad(squad(kQuestion), "file");
  EXPECT_FALSE(read.version2);
  ASSERT_EQ(read.questions.size(), 1);
  const SquadQuestion& question = read.questions[0];
  ASSERT_EQ(question.answers.size(), 2);
  EXPECT_EQ(question.answers[0].begin, 8) << "ã has two bytes";
  EXPECT_EQ(question.answers[1].begin, 3);
  EXPECT_EQ(question.answers[1].end, 13);

  const Squad second = parse_squad(
      squad(
          R"({"id": "1", "question": "Why?", "answers": [], "plausible_answers": [{"text": "it", "answer_start": 13}],
                "is_impossible": true})"),
      "file");
  EXPECT_TRUE(second.version2);
  EXPECT_TRUE(second.questions.at(0).answers.empty());
}

TEST(Squad, ComplainsWithPlaceAndRemedy) {
  const auto complaint = [](const std::string& text) {
    return user_error([&] { parse_squad(text, "file"); });
  };
  EXPECT_THAT(complaint(squad(
                  R"({"id": "1", "question": "Where?", "answers": [{"text": "Paulo", "answer_start": 8}]})")),
              HasSubstr("file, data[0], paragraphs[0], qas[0], answers[0]: the answer \"Paulo\" to the "
                        "question \"1\" is not at "
                        "character 8 of its "
                        "context; correct answer_start"));
  EXPECT_THAT(
      complaint(squad(R"({"id": "1", "question": "?", "answers": [{"text": ".", "answer_start": 99}]})")),
      HasSubstr("not at character 99"));
  EXPECT_THAT(complaint(squad(R"({"id": "1", "question": "?", "answers": []})")), HasSubstr("has no answer"));
  EXPECT_THAT(complaint(squad(std::string(kQuestion) + "," + kQuestion)),
              HasSubstr("the id \"1\" is there twice"));
  EXPECT_THAT(complaint(squad(R"({"question": "?", "answers": []})")), HasSubstr("qas[0] has no \"id\""));
  EXPECT_THAT(complaint(squad(R"({"id": 1, "question": "?", "answers": []})")),
              HasSubstr("qas[0]: \"id\" is not a text"));
  EXPECT_THAT(complaint("{\"data\": 1}"), HasSubstr("file: \"data\" is not a list"));
  EXPECT_THAT(complaint("{\"data\": []}"), HasSubstr("file has no questions"));
  EXPECT_THAT(complaint("{\"data\": [}"), HasSubstr("file is not JSON at byte 11"));
  EXPECT_THAT(complaint("{\"data\": 1e999}"), HasSubstr("a number that is too large"));
  EXPECT_THAT(complaint("\xff"), HasSubstr("not UTF-8 at byte 0"));
}

TEST(Squad, WindowsNeedRoomForTheContext) {
  const Squad read = parse_squad(squad(kQuestion), "file");
  Tokenizer tokenizer(std::make_shared<const Vocabulary>(Vocabulary::special_tokens(), "v"), true);
  EXPECT_THAT(user_error([&] { make_windows(read.questions[0], tokenizer, {.max_length = 5}); }),
              HasSubstr("a question of 2 tokens leaves no room for its context in sequences of 5"));
  EXPECT_EQ(make_windows(read.questions[0], tokenizer, {.max_length = 6, .stride = 1}).size(), 6);
}

}  // namespace
}  // namespace taper
