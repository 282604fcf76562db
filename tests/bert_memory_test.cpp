// A BERT's training step needs memory in proportion to the tokens: nothing of it is as large as a sequence
// times itself. Prints what was measured.

#include <gtest/gtest.h>

#include <algorithm>

#include "layers/bert.h"
#include "recipes/step.h"
#include "recipes/text/text_batch.h"

namespace taper {
namespace {

constexpr int64_t kSequences = 2, kLongest = 2048;
constexpr int64_t kHidden = 64, kLayers = 2, kHeads = 8, kIntermediate = 256, kVocabulary = 1000;

BertSpec spec() {
  return {.vocabulary = kVocabulary,
          .positions = kLongest,
          .hidden = kHidden,
          .layers = kLayers,
          .heads = kHeads,
          .intermediate = kIntermediate,
          .dropout = 0.1,
          .attention_dropout = 0.1};
}

int64_t masked(int64_t length) { return length / 8; }

TextBatch batch(int64_t length) {
  TextBatch result;
  const auto size = static_cast<size_t>(length);
  const std::vector<int32_t> words(size, 7), types(size, 0);
  std::vector<int32_t> places(static_cast<size_t>(masked(length)));
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < kSequences; ++i) result.add(i, words, types, places, places);
  return result;
}

/// The most bytes handed out at once during the second step of AdamW on masked words, all in one shard.
int64_t measured(DType type, int64_t length) {
  std::unique_ptr<Backend> backend = make_cpu_backend();
  Team team(*backend, 1, 1);
  std::unique_ptr<Network> network = make_bert(spec());
  team.run_one([&](Stream& stream) {
    network->store().allocate(stream, accumulator(type));
    initialize_bert(*network, stream, 1);
  });
  Optimizer optimizer(team, network->store(), {.rule = OptimizerOptions::Rule::adamw});
  const TextBatch words = batch(length);
  const Objective objective = [&](Tape& tape, const ShardInput& input) {
    return label_loss(tape, network->forward(tape, input.input), input, 0);
  };
  for (int step = 0; step < 2; ++step) {
    team.reset_peak();
    EXPECT_EQ(train_step({team, *network, type, 1}, words, objective, optimizer, 1e-3).non_finite, "");
  }
  return team.memory().peak;
}

/// What the step may need at most, from the shapes alone.
int64_t bound(DType type, int64_t length) {
  const int64_t element = size_of(type), tokens = kSequences * length;
  const std::vector<Cost> parts = make_bert(spec())->costs({kSequences, length});
  const Cost all = total(parts), &layer = parts[1], &head = parts.back();
  // Master weights, their gradient and two moments in f32; rounded or stacked copies, twice where a parameter
  // is read in both ways; the gradient of one stack before it is added.
  const int64_t fixed = all.parameters * (4 * 4 + 2 * element) + 4 * layer.parameters;
  // What the forward pass keeps for the backward, but for the head.
  const int64_t kept = (all.activation_elements - head.activation_elements) * element;
  // Behind the head: what it keeps, f32 logits, their gradient and its copy in the type.
  const int64_t logits = kSequences * masked(length) * kVocabulary * (4 + 4 + element);
  const int64_t at_head = head.activation_elements * element + logits;
  // In a layer's backward: the gradients of all that it keeps; and of attention, one sequence's q, k, v and
  // gradient of o, packed by heads, f32 sums of three gradients and the rows' two numbers; a block's scores
  // and their gradients, both also rounded.
  constexpr int64_t kBlock = 64 * 128;
  const int64_t attention =
      length * (kHidden * (4 * element + 3 * 4) + kHeads * 2 * 4) + kHeads * kBlock * (2 * 4 + 2 * element);
  const int64_t in_layer = layer.activation_elements * element + attention;
  // A library's product may copy its operands and hold its result in f32.
  const int64_t product = 4 * (tokens + kHidden) * (kHidden + kIntermediate);
  // Words, positions, types and dropout's names.
  const int64_t input = tokens * (3 * 4 + 8);
  // A block is up to an eighth larger than asked for, and exactly twice as large for twice the bytes.
  return (fixed + kept + std::max(at_head, in_layer) + product + input) * 9 / 8;
}

class BertMemory : public ::testing::TestWithParam<DType> {};

TEST_P(BertMemory, GrowsWithTheTokensAndNotWithTheirSquare) {
  constexpr double kMebi = 1 << 20;
  const DType type = GetParam();
  int64_t last_peak = 0, last_most = 0;
  fmt::print("{} sequences of   MiB in {}   at most\n", kSequences, name(type));
  for (int64_t length = 128; length <= kLongest; length *= 2) {
    const int64_t most = bound(type, length);
    const int64_t peak = measured(type, length);
    fmt::print("{:14}{:14.1f}{:10.1f}\n", length, static_cast<double>(peak) / kMebi,
               static_cast<double>(most) / kMebi);
    EXPECT_LE(peak, most) << length;
    if (last_peak > 0) {
      EXPECT_LE(peak - last_peak, most - last_most) << length;
    }
    last_peak = peak;
    last_most = most;
  }
  // The bound grows less than the probabilities of one sequence would: it would notice them.
  EXPECT_LT(last_most - bound(type, kLongest / 2),
            kHeads * (kLongest * kLongest - kLongest * kLongest / 4) * size_of(type));
}

INSTANTIATE_TEST_SUITE_P(All, BertMemory, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return name(info.param); });

}  // namespace
}  // namespace taper
