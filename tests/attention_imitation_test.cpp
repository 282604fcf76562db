// Imitation that compares attention, too, on the tiny BERT with random weights.

#include "kernels/backend.h"
#include "tests/imitation_setting.h"
#include "tests/small_text.h"

namespace taper {
namespace {

class AttentionImitation : public testing::Test {
 protected:
  // With weights so large that attention is far from uniform.
  Configuration configuration(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> all = text_.settings();
    all.insert(all.end(), {"network.initializer_range=0.3", "data.train_limit=64", "data.test_limit=8"});
    all.insert(all.end(), overrides.begin(), overrides.end());
    return read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-bert.toml", all);
  }
  static std::vector<std::string> compared(const std::string& weight, const std::string& more = "seed=1") {
    return {"imitate.attention=" + weight, more};
  }

  // Of each layer, for each token of the first batch, each network behind its own prefix, without dropout.
  static std::vector<double> divergences(ImitationSetting& s) {
    std::unique_ptr<Batch> batch = s.batches(1)->next();
    std::vector<double> result;
    s.engine.team->run_one([&](Stream& stream) {
      Tape tape(*s.engine.backend, stream, s.engine.type);
      ShardInput shard = batch->upload(tape, 0, batch->count);
      std::vector<Attended> taught, learnt;
      for (auto [network, attended] :
           {std::pair{s.wide.network.get(), &taught}, std::pair{s.thin.network.get(), &learnt}}) {
        tape.attended = attended;
        Var x = network->stem(tape, shard.input);
        for (int64_t i = 0; i < std::ssize(network->blocks()); ++i) x = network->block(tape, i, x);
      }
      ASSERT_EQ(taught.size(), 2u);
      ASSERT_EQ(taught[0].heads, 2 * learnt[0].heads);
      for (size_t i = 0; i < taught.size(); ++i)
        result.push_back(
            attention_divergence(tape, taught[i], learnt[i], *tape.sequences, 1).host<float>(stream)[0] /
            static_cast<double>(tape.sequences->tokens()));
    });
    return result;
  }

  // Steps of AdamW on each round in turn.
  static void train(ImitationSetting& s, int64_t steps) {
    for (Targets targets : s.imitation.rounds()) {
      s.imitation.select(targets);
      Optimizer optimizer(*s.engine.team, s.thin.network->store(), {.rule = OptimizerOptions::Rule::adamw});
      std::unique_ptr<Batches> loader = s.batches(steps);
      Objective objective = s.imitation.objective(targets, s.imitation.input());
      for (int64_t i = 0; i < steps; ++i)
        ASSERT_EQ(train_step(s.context(), *loader->next(), objective, optimizer, 0.01).non_finite, "");
    }
  }

  SmallText text_{"attention-imitation"};
};

// Beside the outputs' difference it is the weight times each token's divergence, of the layer that learns and
// of no other; a stem has none.
TEST_F(AttentionImitation, AddsTheDivergenceToTheLoss) {
  for (const std::string kind : {"inner", "full"}) {
    ImitationSetting without(configuration(compared("0", "widen.kind=" + kind))),
        with(configuration(compared("0.5", "widen.kind=" + kind)));
    const std::vector<double> expected = divergences(with);
    const double tokens = [&] {
      std::unique_ptr<Batch> batch = with.batches(1)->next();
      return static_cast<double>(batch->items()) / static_cast<double>(batch->count);
    }();
    const size_t stems = kind == "full" ? 1 : 0;
    ASSERT_EQ(with.imitation.rounds().size(), stems + 2);
    for (size_t i = 0; i < stems + 2; ++i) {
      const Targets targets = with.imitation.rounds()[i];
      const double plain = without.loss(without.imitation.rounds()[i], Imitation::Input::sequential),
                   more = with.loss(targets, Imitation::Input::sequential);
      const double own = i < stems ? 0 : expected[i - stems], added = 0.5 * tokens * own;
      EXPECT_TRUE(i < stems || own > 1e-3) << own;
      // Sums of some thousand terms in f32.
      EXPECT_NEAR(more - plain, added, 1e-4 * more) << kind << " " << i;
    }
    EXPECT_EQ(with.imitation.errors(with.imitation.targets()),
              without.imitation.errors(without.imitation.targets()));
  }
}

// On another device the loss of a layer and its step are the same to the rounding of f32.
TEST_F(AttentionImitation, SimulatedGpusLearnTheSame) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  ImitationSetting cpu(configuration(compared("0.5"))), sim(configuration(compared("0.5", "device=sim")));
  auto expect_same = [&] {
    const std::vector<double> expected = divergences(cpu), found = divergences(sim);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4 * expected[i]) << i;
  };
  expect_same();
  train(cpu, 2);
  train(sim, 2);
  expect_same();
}

TEST_F(AttentionImitation, BringsAttentionTogether) {
  for (const char* more : {"imitate.input=sequential", "imitate.input=teacher", "imitate.order=together"}) {
    ImitationSetting without(configuration(compared("0", more))), with(configuration(compared("10", more)));
    const std::vector<double> before = divergences(with);
    train(without, 100);
    train(with, 100);
    const std::vector<double> alone = divergences(without), after = divergences(with);
    // All of it cannot go: four random heads look where two cannot.
    for (size_t i = 0; i < before.size(); ++i) EXPECT_LT(after[i], before[i] * 2 / 3) << more << " " << i;
    // The upper layer reads something else in each network, the lower one the same.
    EXPECT_LT(after[0], alone[0] / 2) << more;
  }
}

// Products of 32 tokens with 32, at the widths of all heads together: 16 and 32.
TEST_F(AttentionImitation, CountsItsProducts) {
  ImitationSetting without(configuration(compared("0"))), with(configuration(compared("1")));
  for (size_t i = 0; i < 2; ++i) {
    const ImitationCost plain = without.imitation.cost(without.imitation.rounds()[i]),
                        more = with.imitation.cost(with.imitation.rounds()[i]);
    EXPECT_EQ(more.student - plain.student, 3.0 * 2 * 32 * 32 * 16);
    EXPECT_EQ(more.teacher - plain.teacher, 2.0 * 32 * 32 * 32);
  }
}

TEST_F(AttentionImitation, IsRefusedWhereThereIsNone) {
  auto says = [](auto f) {
    try {
      f();
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(says([] {
              ImitationSetting::read({"imitate.attention=1"});
            }).find("imitate.attention is 1, and a network of kind \"resnet\" has no attention; set it to 0"),
            std::string::npos);
  EXPECT_NE(says([&] { configuration({"imitate.attention=-1"}); }).find("imitate.attention"),
            std::string::npos);
}

}  // namespace
}  // namespace taper
