// BERTs as declared: names, shapes, counts, costs, initialisation, errors. What they compute is
// bert_parity_test.cpp's matter.

#include "layers/bert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

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
  std::vector<Cost> parts = network->costs({2, 128});
  ASSERT_EQ(parts.size(), 14);
  EXPECT_EQ(total(parts).parameters, network->store().parameter_count());
  // 12 768^2 weights see each of 256 tokens; each of 256 queries meets 128 keys and 128 values of 768.
  EXPECT_EQ(parts[1].flops, int64_t{2} * 256 * (12 * 768 * 768 + 2 * 128 * 768));
  // 39 of 256 tokens are masked.
  EXPECT_EQ(parts[13].flops, int64_t{2} * 39 * (768 * 768 + 768 * 30522));
  EXPECT_EQ(network->positions({2, 128}, 3, true), 256);
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

// Each place of a layer where dropout falls, with the other ones silenced by weights of 0 or by the spec.
TEST(Bert, DropsInEveryPlaceWhileTraining) {
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  auto i64 = [&](std::vector<int64_t> v) { return Tensor::from<int64_t>(*stream, {std::ssize(v)}, v); };
  Sequences sequences{.offsets = Tensor::from<int32_t>(*stream, {2}, std::vector<int32_t>{0, 4}),
                      .sample_ids = i64({3}),
                      .token_ids = i64({5, 6, 7, 8}),
                      .masked = {},
                      .key = 1};
  std::vector<double> values;
  for (int i = 0; i < 4 * 32; ++i) values.push_back(std::sin(i));
  // Whether training changes what the part gives, with these dropouts and the layers called `zero` at 0.
  auto drops = [&](double dropout, double attention_dropout, const std::string& zero, auto part) {
    BertSpec spec{.head = Head::classification,
                  .vocabulary = 9,
                  .positions = 4,
                  .hidden = 32,
                  .layers = 1,
                  .heads = 2,
                  .intermediate = 48,
                  .dropout = dropout,
                  .attention_dropout = attention_dropout};
    std::unique_ptr<Network> network = make_bert(spec);
    network->store().allocate(*stream, DType::f64);
    initialize_bert(*network, *stream, 7, 0.2);
    for (Parameter& p : network->store().all())
      if (!zero.empty() && p.name.ends_with(zero))
        set_values(*stream, p, std::vector<double>(static_cast<size_t>(p.size)));
    std::vector<double> results[2];
    for (bool training : {false, true}) {
      Tape tape(*backend, *stream, DType::f64);
      tape.training = training;
      tape.sequences = &sequences;
      Var x = tape.constant(Tensor::from<double>(*stream, {4, 32}, values));
      results[training] = part(*network, tape, x)->value.template host<double>(*stream);
    }
    return results[0] != results[1];
  };
  auto stem = [](const Network& n, Tape& tape, const Var& x) { return n.stem_activation(tape, x); };
  auto block = [](const Network& n, Tape& tape, const Var& x) { return n.block(tape, 0, x); };
  auto head = [](const Network& n, Tape& tape, const Var& x) { return n.head(tape, x); };
  const std::string attention = "attention.output.dense.weight", output = "layer.0.output.dense.weight";
  EXPECT_TRUE(drops(0.5, 0, "", stem));
  EXPECT_TRUE(drops(0, 0.5, "", block));
  EXPECT_FALSE(drops(0, 0.5, attention, block));
  EXPECT_TRUE(drops(0.5, 0, attention, block));
  EXPECT_TRUE(drops(0.5, 0, output, block));
  EXPECT_TRUE(drops(0.5, 0, "", head));
  for (const auto& part :
       std::vector<std::function<Var(const Network&, Tape&, const Var&)>>{stem, block, head})
    EXPECT_FALSE(drops(0, 0, "", part));
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
