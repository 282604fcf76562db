// A task of questions on several ranks: the same bytes as on one.

#include <gmock/gmock.h>

#include "tests/small_squad.h"
#include "tests/small_text.h"
#include "tests/taper_process.h"

namespace {

class TaskRanksTest : public ProcessTest {
 protected:
  std::vector<std::string> configuration() const override {
    std::vector<std::string> arguments{std::string(TAPER_SOURCE_DIR) +
                                       "/recipes/configurations/tiny-bert.toml"},
        settings = text_.settings();
    settings.insert(settings.end(),
                    {R"(stages=["baseline","task"])", R"(task.networks=["baseline"])",
                     R"(task.names=["questions"])", "task.path=" + folder_.string(), "task.format=squad",
                     "task.sequence_length=32", "task.doc_stride=12", "task.steps=6", "task.batch_size=14",
                     "task.optimizer=adamw", "task.lr=1e-2", "task.evaluate_every=3", "shards=4"});
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  }

  taper::SmallText text_{"task-ranks"};
};

TEST_F(TaskRanksTest, QuestionsGiveTheSameBytesAndScoresOnTwoRanks) {
  // Open MPI keeps what it has allocated until the process ends, which AddressSanitizer would call a leak.
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  taper::SmallSquad(false).write(folder_ / "questions");
  const fs::path one = folder_ / "one", two = folder_ / "two",
                 task = fs::path("tasks") / "questions" / "baseline";
  Result alone = run(train(one));
  ASSERT_EQ(alone.code, 0) << alone.text;
  std::vector<std::string> command{"mpirun", "--allow-run-as-root", "--oversubscribe", "-n",
                                   "2",      taper_binary()};
  for (const std::string& word : train(two)) command.push_back(word);
  Result both = wait(launch(command));
  ASSERT_EQ(both.code, 0) << both.text;
  EXPECT_EQ(weights(two / task), weights(one / task));
  // All but the first, which has the name of each run's folder.
  const auto scores = [&](const fs::path& run) {
    std::vector<std::string> all = events(run / task);
    all.erase(all.begin());
    return all;
  };
  EXPECT_EQ(scores(two), scores(one));
  EXPECT_EQ(weights(two), weights(one));
}

}  // namespace
