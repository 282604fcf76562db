// The taper binary with and without CUDA graphs, on the device sim.

#include <gmock/gmock.h>

#include "tests/taper_process.h"

namespace {

class GraphRuns : public ProcessTest {
 protected:
  // Every stage on a few small images, in shards of one and of two.
  std::vector<std::string> configuration() const override {
    std::vector<std::string> result{std::string(TAPER_SOURCE_DIR) +
                                    "/recipes/configurations/tiny-resnet.toml"};
    for (const std::string setting :
         {"device=sim", "shards=4", "network.width=4", "widen.kind=full", "data.image_size=8",
          "data.train_limit=12", "data.test_limit=4", "imitate.bridge_samples=8",
          "imitate.statistics_batches=1", "baseline.label_smoothing=0.1", "finetune.ema_decay=0.9"})
      result.insert(result.end(), {"--set", setting});
    for (const std::string stage : {"baseline", "wide", "imitate", "match", "finetune"})
      for (const std::string key : {".steps=3", ".batch_size=6", ".evaluate_every=2", ".checkpoint_every=2"})
        result.insert(result.end(), {"--set", stage + key});
    return result;
  }
  // The weights of the last checkpoint, and the log but for its first line, which holds the configuration.
  static std::vector<std::string> results(const fs::path& run) {
    std::vector<std::string> lines = events(run);
    lines.erase(lines.begin());
    lines.push_back(weights(run));
    return lines;
  }
};

TEST_F(GraphRuns, GiveTheSameBytesWithGraphsAndWithoutAlsoWhenResumed) {
  ASSERT_EQ(run(train(folder_ / "without")).code, 0);
  const fs::path with = folder_ / "with";
  const std::vector<std::string> graphs{"--set", "cuda_graphs=true"};
  // In the middle of a unit of imitation.
  const int64_t all = std::ssize(events(folder_ / "without"));
  const Result stopped = interrupt(with, all / 2, SIGTERM, false, graphs);
  ASSERT_EQ(stopped.code, 0) << stopped.text;
  EXPECT_THAT(stopped.text, testing::HasSubstr("--resume goes on from here"));
  std::vector<std::string> on = graphs;
  on.emplace_back("--resume");
  const Result resumed = run(train(with, on), 2);
  ASSERT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_EQ(results(with), results(folder_ / "without"));
}

}  // namespace
