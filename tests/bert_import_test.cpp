// BERTs as transformers keeps them: names of all ages, config.json, and real weights where they are at hand.

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "layers/weights.h"
#include "recipes/hugging_face.h"
#include "tests/data_files.h"
#include "tests/golden_values.h"
#include "tests/network_values.h"

namespace taper {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Head = BertSpec::Head;

const BertSpec kTiny{.head = Head::encoder,
                     .vocabulary = 9,
                     .positions = 4,
                     .hidden = 8,
                     .layers = 1,
                     .heads = 2,
                     .intermediate = 12};

BertSpec with_head(Head head) {
  BertSpec spec = kTiny;
  spec.head = head;
  return spec;
}

class BertImports : public testing::Test {
 protected:
  std::unique_ptr<Network> make(const BertSpec& spec) {
    std::unique_ptr<Network> network = make_bert(spec);
    network->store().allocate(*stream_, DType::f64);
    return network;
  }
  /// The tensors of a network with random values, each renamed; an empty name leaves it out.
  SafetensorsFile file(const BertSpec& spec, const std::function<std::string(std::string)>& rename,
                       const std::vector<TensorBytes>& more = {}) {
    std::unique_ptr<Network> network = make(spec);
    randomize(*stream_, network->store());
    HostTensors host;
    copy_weights(*stream_, network->store(), "", host);
    std::vector<TensorBytes> tensors = more;
    for (TensorBytes tensor : host.tensors)
      if (!(tensor.name = rename(tensor.name)).empty()) tensors.push_back(tensor);
    const std::string path = folder_.write("model.safetensors", {});
    write_safetensors(path, tensors);
    return SafetensorsFile::read(path);
  }
  BertImport read(const SafetensorsFile& file, const BertSpec& spec) {
    network_ = make(spec);
    return read_bert_weights(file, "file", spec, *stream_, *network_);
  }
  /// The network read has the values that randomize() gives to its names.
  void expect_read() {
    for (const Parameter& p : network_->store().all()) {
      std::vector<double> expected = normals(p.size, p.name);
      for (double& v : expected) v = 0.5 * v + (p.role == Role::norm_weight ? 1 : 0);
      EXPECT_EQ(host_values(*stream_, p), expected) << p.name;
    }
  }
  std::string complaint(const SafetensorsFile& file, const BertSpec& spec) {
    return user_error([&] { read(file, spec); });
  }

  std::unique_ptr<Backend> backend_ = make_reference_backend();
  std::unique_ptr<Stream> stream_ = backend_->make_stream(1);
  std::unique_ptr<Network> network_;
  TemporaryFolder folder_;
};

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  if (const size_t at = text.find(what); at != std::string::npos) text.replace(at, what.size(), by);
  return text;
}

std::string same(std::string name) { return name; }
std::string early(std::string name) {
  return replaced(
      replaced(replaced(name, "LayerNorm.weight", "LayerNorm.gamma"), "LayerNorm.bias", "LayerNorm.beta"),
      "bert.", "");
}

TEST_F(BertImports, ReadNamesOfAllAges) {
  const std::vector<int64_t> ids = {0, 1, 2, 3};
  const std::vector<TensorBytes> positions = {
      {"embeddings.position_ids", DType::i64, {1, 4}, std::as_bytes(std::span(ids))}};
  EXPECT_THAT(read(file(kTiny, same), kTiny).ignored, IsEmpty());
  expect_read();
  EXPECT_THAT(read(file(kTiny, early, positions), kTiny).ignored, IsEmpty());
  expect_read();
}

TEST_F(BertImports, LeaveOtherHeadsAside) {
  const BertImport encoder = read(file(with_head(Head::classification), early), kTiny);
  EXPECT_THAT(encoder.ignored,
              testing::UnorderedElementsAre("bert.pooler.dense.weight", "bert.pooler.dense.bias",
                                            "classifier.weight", "classifier.bias"));
  EXPECT_THAT(encoder.kept, IsEmpty());
  expect_read();

  const BertSpec answers = with_head(Head::question_answering);
  network_ = make(answers);
  initialize_bert(*network_, *stream_, 3);
  const std::vector<double> before = host_values(*stream_, *network_->store().find("qa_outputs.weight"));
  const BertImport kept = read_bert_weights(file(kTiny, same), "file", answers, *stream_, *network_);
  EXPECT_THAT(kept.kept, ElementsAre("qa_outputs.weight", "qa_outputs.bias"));
  EXPECT_EQ(host_values(*stream_, *network_->store().find("qa_outputs.weight")), before);
}

TEST_F(BertImports, TieTheDecoder) {
  const BertSpec spec = with_head(Head::masked_lm);
  const std::string words = "bert.embeddings.word_embeddings.weight",
                    decoder = "cls.predictions.decoder.weight";
  const std::vector<double> table = [&] {
    std::vector<double> values = normals(9 * 8, words);
    for (double& v : values) v *= 0.5;
    return values;
  }();
  std::vector<double> other = table;
  other[5] += 1;
  const auto tensor = [&](const std::vector<double>& values) {
    return TensorBytes{decoder, DType::f64, {9, 8}, std::as_bytes(std::span(values))};
  };
  EXPECT_THAT(read(file(spec, same, {tensor(table)}), spec).ignored, IsEmpty());
  expect_read();
  const auto decoders = [](std::string name) {
    return replaced(name, "cls.predictions.bias", "cls.predictions.decoder.bias");
  };
  EXPECT_THAT(read(file(spec, decoders, {tensor(table)}), spec).kept, IsEmpty());
  expect_read();
  EXPECT_THAT(
      complaint(file(spec, same, {tensor(other)}), spec),
      HasSubstr(
          "file has a cls.predictions.decoder.weight that is not bert.embeddings.word_embeddings.weight"));
}

TEST_F(BertImports, SayWhatDoesNotFit) {
  BertSpec larger = kTiny;
  larger.vocabulary = 10;
  EXPECT_THAT(complaint(file(kTiny, same), larger),
              HasSubstr("file has a vocabulary of 9 tokens, and the network one of 10; use the vocab.txt "
                        "that belongs to it"));
  BertSpec deeper = kTiny;
  deeper.layers = 2;
  EXPECT_THAT(complaint(file(kTiny, same), deeper), HasSubstr("missing: bert.encoder.layer.1."));
  EXPECT_THAT(complaint(file(deeper, same), kTiny), HasSubstr("unexpected: bert.encoder.layer.1."));
  const std::vector<double> zeros(8);
  EXPECT_THAT(
      complaint(file(kTiny, same,
                     {{"embeddings.LayerNorm.gamma", DType::f64, {8}, std::as_bytes(std::span(zeros))}}),
                kTiny),
      HasSubstr("has the tensor bert.embeddings.LayerNorm.weight under two names"));
}

TEST(BertConfig, IsWrittenAndReadBack) {
  BertSpec spec{.head = Head::classification,
                .vocabulary = 8000,
                .positions = 128,
                .hidden = 256,
                .layers = 4,
                .heads = 4,
                .intermediate = 1024,
                .classes = 8,
                .activation = Activation::gelu_tanh,
                .eps = 1e-7,
                .dropout = 0.2};
  const BertSpec again = parse_bert_config(write_bert_config(spec), "config.json");
  EXPECT_EQ(again.vocabulary, 8000);
  EXPECT_EQ(again.positions, 128);
  EXPECT_EQ(again.hidden, 256);
  EXPECT_EQ(again.layers, 4);
  EXPECT_EQ(again.heads, 4);
  EXPECT_EQ(again.intermediate, 1024);
  EXPECT_EQ(again.classes, 8);
  EXPECT_EQ(again.activation, Activation::gelu_tanh);
  EXPECT_EQ(again.eps, 1e-7);
  EXPECT_EQ(again.dropout, 0.2);
  EXPECT_EQ(parse_bert_config("{}", "config.json").hidden, 768) << "transformers' defaults";
  spec.inner = 2;
  EXPECT_THAT(user_error([&] { write_bert_config(spec); }), HasSubstr("2 times the heads"));
}

TEST(BertConfig, ComplainsOfWhatItCannotBe) {
  const auto complaint = [](const std::string& json) {
    return user_error([&] { parse_bert_config(json, "config.json"); });
  };
  EXPECT_THAT(complaint(R"({"model_type": "roberta"})"),
              HasSubstr("config.json: model_type is \"roberta\"; Taper reads \"bert\""));
  EXPECT_THAT(complaint(R"({"hidden_act": "relu"})"), HasSubstr("hidden_act is \"relu\""));
  EXPECT_THAT(complaint(R"({"hidden_size": 0})"), HasSubstr("hidden_size is 0; it is a whole number from 1"));
  EXPECT_THAT(complaint(R"({"hidden_size": 7.5})"), HasSubstr("hidden_size is 7.5"));
  EXPECT_THAT(complaint(R"({"layer_norm_eps": "x"})"), HasSubstr("layer_norm_eps is \"x\""));
  EXPECT_THAT(complaint(R"({"position_embedding_type": "relative_key"})"), HasSubstr("relative_key"));
  EXPECT_THAT(complaint(R"({"is_decoder": true})"), HasSubstr("is_decoder is true"));
  EXPECT_THAT(complaint("[]"), HasSubstr("config.json is not a JSON object"));
  EXPECT_THAT(complaint("{"), HasSubstr("config.json is not JSON at byte 2"));
}

struct Read {
  std::vector<double> first, mean;  // the first token's vector, and all tokens' mean
};

Read encode(Backend& backend, Stream& stream, DType type, const Network& network,
            const std::vector<int32_t>& ids) {
  const int64_t tokens = std::ssize(ids), width = network.stem_width();
  std::vector<int32_t> input = ids;
  for (int64_t t = 0; t < tokens; ++t) input.push_back(static_cast<int32_t>(t));
  input.resize(static_cast<size_t>(3 * tokens));
  const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens)};
  const Sequences sequences{.offsets = Tensor::from<int32_t>(stream, {2}, offsets),
                            .sample_ids = Tensor::zeros(stream, DType::i64, {1}),
                            .token_ids = Tensor::zeros(stream, DType::i64, {tokens}),
                            .masked = {}};
  Tape tape(backend, stream, type);
  tape.sequences = &sequences;
  const std::vector<double> output = host(
      stream, network.forward(tape, tape.constant(Tensor::from<int32_t>(stream, {3, tokens}, input)))->value);
  Read read{{output.begin(), output.begin() + width}, std::vector<double>(static_cast<size_t>(width))};
  for (size_t i = 0; i < output.size(); ++i)
    read.mean[i % static_cast<size_t>(width)] += output[i] / static_cast<double>(tokens);
  return read;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double product = 0;
  for (size_t i = 0; i < a.size(); ++i) product += a[i] * b[i];
  return product / (norm(a) * norm(b));
}

// The last layer's output of real weights is transformers' (tests/golden/make_pretrained_golden.py): in
// double to rounding, in f32 to twice the error of PyTorch's own run.
TEST(Pretrained, GivesWhatTransformersGives) {
  const std::filesystem::path folder = TAPER_SOURCE_DIR "/.cache/minilm";
  if (!std::filesystem::exists(folder))
    GTEST_SKIP() << "NOT TESTED: the weights are not here; scripts/fetch-weights.sh gets them (84 MB)";
  std::ifstream stored(TAPER_SOURCE_DIR "/tests/golden/bert/pretrained.json");
  const auto golden = nlohmann::json::parse(stored);
  const PretrainedBert pretrained(folder);
  const SafetensorsFile weights = SafetensorsFile::read(pretrained.weights);
  Tokenizer tokenizer(pretrained.vocabulary, pretrained.lowercase);
  const auto run = [&](Backend& backend, DType type, double scale) {
    std::unique_ptr<Stream> stream = backend.make_stream(1);
    std::unique_ptr<Network> network = make_bert(pretrained.spec);
    network->store().allocate(*stream, type);
    EXPECT_THAT(read_bert_weights(weights, "minilm", pretrained.spec, *stream, *network).ignored,
                testing::UnorderedElementsAre("bert.pooler.dense.weight", "bert.pooler.dense.bias"));
    std::vector<Read> reads;
    for (const auto& sentence : golden["sentences"]) {
      std::vector<int32_t> ids = {pretrained.vocabulary->cls};
      std::vector<Token> tokens;
      tokenizer.encode(sentence["text"].get<std::string>(), tokens);
      for (const Token& token : tokens) ids.push_back(token.id);
      ids.push_back(pretrained.vocabulary->sep);
      EXPECT_EQ(ids, sentence["ids"].get<std::vector<int32_t>>());
      reads.push_back(encode(backend, *stream, type, *network, ids));
      const double bound = scale == 0 ? kExact : scale * sentence["f32_error"].get<double>() + 0x1p-22;
      EXPECT_LE(relative(reads.back().first, sentence["first"].get<std::vector<double>>()), bound);
      EXPECT_LE(relative(reads.back().mean, sentence["mean"].get<std::vector<double>>()), bound);
    }
    for (size_t i = 0; i < reads.size(); ++i)
      for (size_t j = 0; j < reads.size(); ++j)
        EXPECT_NEAR(cosine(reads[i].mean, reads[j].mean), golden["cosines"][i][j].get<double>(), 1e-5);
  };
  run(*make_reference_backend(), DType::f64, 0);
  run(*make_backend("cpu"), DType::f32, 2);
}

}  // namespace
}  // namespace taper
