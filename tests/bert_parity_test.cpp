// The same weights and words as transformers' give the same logits, losses and gradients, though Taper packs
// what transformers pads.
//
// tests/golden/make_bert_golden.py says what the golden files hold. The reference backend, in double, must
// reproduce PyTorch's float64 run: every tensor, through its norm, projections and elements. That makes it
// the truth against which the error of the backends in f32 is measured over whole tensors: it must not exceed
// twice PyTorch's own and a few ulp, where PyTorch's may be exact by luck.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <sstream>

#include "layers/bert.h"
#include "layers/weights.h"
#include "runtime/safetensors.h"
#include "tests/golden_values.h"

namespace taper {
namespace {

const std::vector<int32_t> kLengths = {7, 12, 1, 5};
const std::vector<int32_t> kMasked = {0, 3, 6, 7, 11, 18, 19, 22};

BertSpec spec_of(const std::string& name) {
  BertSpec spec{.vocabulary = 61,
                .positions = 12,
                .types = 2,
                .hidden = 32,
                .layers = 2,
                .heads = 4,
                .intermediate = 48,
                .classes = 3};
  if (name == "classification") {
    spec.head = BertSpec::Head::classification;
    spec.activation = Activation::gelu_tanh;
  }
  if (name == "question-answering") spec.head = BertSpec::Head::question_answering;
  if (name == "wide") spec.inner = 2;
  return spec;
}

// As draw_weights() of the script.
void draw_weights(Network& network, Stream& stream) {
  for (Parameter& p : network.store().all()) {
    std::vector<double> values(static_cast<size_t>(p.size));
    std::vector<uint32_t> drawn = words(p.name, p.size, kValues);
    for (size_t i = 0; i < values.size(); ++i) {
      double u = 2.0 * uniform(drawn[i]) - 1;
      if (p.role == Role::norm_weight) {
        u = 0.75 + 0.25 * u;
      } else if (p.role != Role::matrix) {
        u *= 0.25;
      } else if (p.name.find("embeddings") == std::string::npos) {
        u *= std::sqrt(3.0 / static_cast<double>(p.shape[1]));
      }
      values[i] = static_cast<float>(u);
    }
    set_values(stream, p, values);
  }
}

Tensor drawn(Stream& stream, const std::string& name, int64_t count, int64_t below) {
  std::vector<int32_t> values;
  for (uint32_t word : words(name, count, kValues)) values.push_back(static_cast<int32_t>(word % below));
  values.resize(static_cast<size_t>(count));
  return Tensor::from<int32_t>(stream, {count}, values);
}

struct Outcome {
  std::vector<double> logits, inference;  // with a recording tape and without one
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;
};

Outcome run(Backend& backend, DType type, const std::string& name) {
  std::unique_ptr<Stream> stream = backend.make_stream(1);
  BertSpec spec = spec_of(name);
  std::unique_ptr<Network> network = make_bert(spec);
  ParameterStore& store = network->store();
  store.allocate(*stream, type);
  draw_weights(*network, *stream);

  std::vector<int32_t> offsets = {0}, positions;
  std::vector<int64_t> samples;
  for (int32_t length : kLengths) {
    for (int32_t t = 0; t < length; ++t) positions.push_back(t);
    samples.push_back(std::ssize(samples));
    offsets.push_back(offsets.back() + length);
  }
  int64_t tokens = std::ssize(positions);
  Sequences sequences{.offsets = Tensor::from<int32_t>(*stream, {std::ssize(offsets)}, offsets),
                      .sample_ids = Tensor::from<int64_t>(*stream, {std::ssize(samples)}, samples),
                      .token_ids = Tensor::zeros(*stream, DType::i64, {tokens}),
                      .masked = Tensor::from<int32_t>(*stream, {std::ssize(kMasked)}, kMasked)};
  std::vector<int32_t> ids = drawn(*stream, "words", tokens, spec.vocabulary).host<int32_t>(*stream);
  std::vector<int32_t> types = drawn(*stream, "types", tokens, spec.types).host<int32_t>(*stream);
  ids.insert(ids.end(), positions.begin(), positions.end());
  ids.insert(ids.end(), types.begin(), types.end());
  Tensor input = Tensor::from<int32_t>(*stream, {3, tokens}, ids);
  const bool answers = spec.head == BertSpec::Head::question_answering;
  Tensor labels = spec.head == BertSpec::Head::masked_lm
                      ? drawn(*stream, "labels", std::ssize(kMasked), spec.vocabulary)
                      : drawn(*stream, "labels", std::ssize(samples), spec.classes);
  std::vector<int32_t> spans;  // first and last token of each sequence's answer
  for (size_t i = 0; i < kLengths.size(); ++i)
    for (const char* side : {"starts", "ends"})
      spans.push_back(drawn(*stream, side, std::ssize(kLengths), 1 << 20).host<int32_t>(*stream)[i] %
                      kLengths[i]);

  Outcome outcome;
  ShardSums sums{Tensor::zeros(*stream, accumulator(type), {store.value_size()}), {}};
  Tape tape(backend, *stream, type, &sums);
  tape.sequences = &sequences;
  Var logits = network->forward(tape, tape.constant(input));
  outcome.logits = host(*stream, logits->value);
  Tensor loss = answers ? span_cross_entropy(tape, logits, sequences,
                                             Tensor::from<int32_t>(*stream, {std::ssize(spans)}, spans))
                        : cross_entropy(tape, logits, labels, 0);
  outcome.loss = host(*stream, loss).front();
  tape.backward();
  for (const Parameter& p : store.all())
    outcome.gradients[p.name] = host(*stream, sums.gradients.slice(p.offset, p.size));
  Tape inference(backend, *stream, type);
  inference.sequences = &sequences;
  outcome.inference = host(*stream, network->forward(inference, inference.constant(input))->value);
  return outcome;
}

class Golden {
 public:
  explicit Golden(const std::string& name)
      : file_(SafetensorsFile::read(std::string(TAPER_SOURCE_DIR "/tests/golden/bert/") + name +
                                    ".safetensors")) {
    std::istringstream lines(file_.metadata().at("names"));
    for (std::string line; std::getline(lines, line);) names.push_back(line);
  }
  std::vector<double> values(const std::string& what) const {
    const TensorBytes& found = file_.tensor(what);
    std::vector<double> result(found.bytes.size() / sizeof(double));
    std::memcpy(result.data(), found.bytes.data(), found.bytes.size());
    return result;
  }
  std::vector<std::string> names;

 private:
  SafetensorsFile file_;
};

// A key's bias moves all scores of a row alike: its gradient is 0 but for rounding, which its weight's
// measures. Where answers compete over tokens, so it is with the biases behind the last layer.
double scale(const Outcome& truth, const std::string& name) {
  const bool answers = truth.gradients.contains("qa_outputs.bias");
  const bool zero =
      name.ends_with("key.bias") ||
      (answers && (name == "qa_outputs.bias" || name.ends_with("layer.1.output.LayerNorm.bias")));
  return norm(truth.gradients.at(zero ? name.substr(0, name.rfind('.')) + ".weight" : name));
}

void expect_as_accurate(const Outcome& ours, const Outcome& truth, const Golden& golden) {
  constexpr double kOwn = 0x1p-22;
  std::vector<double> errors = golden.values("f32.errors");
  double logits = 2 * errors[0] + kOwn;
  EXPECT_LE(relative(ours.logits, truth.logits), logits);
  EXPECT_LE(relative(ours.inference, truth.logits), logits);
  // A row's loss changes by at most sqrt(2) |change of its logits|, and its own arithmetic is f32.
  double bound = std::sqrt(2.0 * static_cast<double>(kMasked.size())) * logits * norm(truth.logits);
  EXPECT_NEAR(ours.loss, truth.loss, bound + 0x1p-20 * truth.loss);
  for (size_t i = 0; i < golden.names.size(); ++i) {
    const std::string& name = golden.names[i];
    EXPECT_LE(distance(ours.gradients.at(name), truth.gradients.at(name)),
              (2 * errors[i + 1] + kOwn) * scale(truth, name))
        << name;
  }
}

class BertParity : public testing::TestWithParam<std::string> {};

TEST_P(BertParity, WithTransformers) {
  Golden golden(GetParam());
  std::unique_ptr<Backend> reference = make_reference_backend();
  Outcome truth = run(*reference, DType::f64, GetParam());
  EXPECT_LE(relative(truth.logits, golden.values("logits")), kExact);
  EXPECT_LE(relative(truth.inference, truth.logits), kExact);
  double loss = golden.values("loss").front();
  EXPECT_NEAR(truth.loss, loss, kExact * loss);
  ASSERT_EQ(truth.gradients.size(), golden.names.size());
  std::vector<double> digests = golden.values("digests");
  for (size_t i = 0; i < golden.names.size(); ++i) {
    const std::string& name = golden.names[i];
    ASSERT_TRUE(truth.gradients.contains(name)) << name;
    std::array<double, 13> ours = digest(name, truth.gradients.at(name));
    for (size_t j = 0; j < ours.size(); ++j)
      EXPECT_NEAR(ours[j], digests[i * 13 + j], kExact * scale(truth, name)) << name << ", digest " << j;
  }
  for (const std::string& device : devices()) {
    SCOPED_TRACE(device);
    expect_as_accurate(run(*make_backend(device), DType::f32, GetParam()), truth, golden);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, BertParity,
                         testing::Values("masked-lm", "classification", "wide", "question-answering"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace taper
