// BERTs as declared: names, shapes, counts, costs, initialisation, errors. What they compute is
// bert_parity_test.cpp's matter.

#include "layers/bert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "layers/weights.h"

namespace taper {
namespace {

using Head = BertSpec::Head;
using testing::HasSubstr;

BertSpec large() { return {.hidden = 1024, .layers = 24, .heads = 16, .intermediate = 4096}; }

int64_t parameters(BertSpec spec, Head head) {
  spec.head = head;
  return make_bert(spec)->store().parameter_count();
}

// The encoder with its pooler, as transformers' BertModel: without the classifier's two rows and biases. The
// masked LM has no pooler, but a transform as large, a norm and a bias for each word.
TEST(Bert, HasThePublishedParameterCounts) {
  constexpr int64_t kBase = 109'482'240, kLarge = 335'141'888;
  EXPECT_EQ(parameters({}, Head::classification) - 2 * 769, kBase);
  EXPECT_EQ(parameters(large(), Head::classification) - 2 * 1025, kLarge);
  EXPECT_EQ(parameters({}, Head::masked_lm), kBase + 2 * 768 + 30522);
  EXPECT_EQ(parameters(large(), Head::masked_lm), kLarge + 2 * 1024 + 30522);
}

TEST(Bert, InnerWidensWhatIsInsideTheLayersOnly) {
  BertSpec spec{
      .vocabulary = 100, .positions = 16, .hidden = 32, .layers = 2, .heads = 4, .intermediate = 48};
  spec.inner = 1.5;
  std::unique_ptr<Network> network = make_bert(spec);
  auto shape = [&](const std::string& name) {
    const Parameter* found = network->store().find("bert.encoder.layer.1." + name);
    return found != nullptr ? found->shape : Shape{};
  };
  EXPECT_EQ(shape("attention.self.key.weight"), (Shape{48, 32}));
  EXPECT_EQ(shape("attention.self.value.bias"), (Shape{48}));
  EXPECT_EQ(shape("attention.output.dense.weight"), (Shape{32, 48}));
  EXPECT_EQ(shape("attention.output.LayerNorm.bias"), (Shape{32}));
  EXPECT_EQ(shape("intermediate.dense.weight"), (Shape{72, 32}));
  EXPECT_EQ(shape("output.dense.weight"), (Shape{32, 72}));
  EXPECT_EQ(network->stem_width(), 32);
  ASSERT_EQ(network->blocks().size(), 2);
  EXPECT_EQ(network->blocks()[1].width, 32);
  EXPECT_EQ(network->blocks()[1].name, "bert.encoder.layer.1");
}

TEST(Bert, CostsAddUp) {
  std::unique_ptr<Network> network = make_bert({});
  std::vector<Cost> parts = network->costs(2, 128);
  ASSERT_EQ(parts.size(), 14);
  EXPECT_EQ(total(parts).parameters, network->store().parameter_count());
  // 12 768^2 weights see each of 256 tokens; each of 256 queries meets 128 keys and 128 values of 768.
  EXPECT_EQ(parts[1].flops, int64_t{2} * 256 * (12 * 768 * 768 + 2 * 128 * 768));
  // 39 of 256 tokens are masked.
  EXPECT_EQ(parts[13].flops, int64_t{2} * 39 * (768 * 768 + 768 * 30522));
  EXPECT_EQ(network->positions(2, 128, 3, true), 256);
}

TEST(Bert, StartsAsTransformersDoes) {
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  std::unique_ptr<Network> network = make_bert(
      {.vocabulary = 1000, .positions = 16, .hidden = 32, .layers = 1, .heads = 2, .intermediate = 48});
  network->store().allocate(*stream, DType::f64);
  initialize_bert(*network, *stream, 7);
  for (Parameter& p : network->store().all()) {
    std::vector<double> values = host_values(*stream, p);
    if (p.role != Role::matrix) {
      EXPECT_THAT(values, testing::Each(p.role == Role::norm_weight ? 1 : 0)) << p.name;
      continue;
    }
    double squares = 0;
    for (double v : values) squares += v * v;
    double n = static_cast<double>(p.size);
    // The mean of n squares of normals has the deviation sqrt(2 / n): five of them.
    EXPECT_NEAR(squares / n / (0.02 * 0.02), 1, 5 * std::sqrt(2 / n)) << p.name;
  }
}

template <typename F>
std::string error_of(F f) {
  try {
    f();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Bert, ImpossibleWidthsAreErrors) {
  EXPECT_THAT(error_of([] { make_bert({.hidden = 100, .heads = 12}); }),
              HasSubstr("a hidden width of 100 cannot be shared by 12 heads"));
  EXPECT_THAT(error_of([] { make_bert({.inner = 1.3}); }),
              HasSubstr("the number of heads would be 12 x 1.3 = 15.6"));
  EXPECT_THAT(error_of([] { make_bert({.intermediate = 1001, .inner = 1.5}); }),
              HasSubstr("the intermediate width would be 1001 x 1.5 = 1501.5"));
}

}  // namespace
}  // namespace taper
