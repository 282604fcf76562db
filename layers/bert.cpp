#include "layers/bert.h"

#include <cmath>

#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {

namespace {

struct EncoderLayer {
  Dense qkv, attention_output, intermediate, output;
  LayerNorm attention_norm, output_norm;
};

class Bert final : public Network {
 public:
  explicit Bert(const BertSpec& spec);

  Var stem(Tape& tape, const Var& ids, bool activated) const override;
  // What follows the norm of the embeddings, where imitation compares, is their dropout.
  Var stem_activation(Tape& tape, const Var& x) const override {
    return drop(tape, x, "bert.embeddings.dropout", sequences(tape).token_ids);
  }
  int64_t stem_width() const override { return spec_.hidden; }
  Var block(Tape& tape, int64_t i, const Var& x, bool activated) const override;
  // A layer ends in its norm.
  Var activation(Tape&, const Var& x) const override { return x; }
  Var head(Tape& tape, const Var& x) const override;
  std::vector<Parameter*> head_readers() const override {
    if (spec_.head == BertSpec::Head::question_answering) return {output_};
    return head_dense_.weights;
  }
  std::vector<Cost> costs(Extent extent) const override;
  int64_t positions(Extent extent, int64_t, bool) const override { return extent.height * extent.width; }
  std::vector<std::string> head_parts() const override;

 private:
  int64_t widened(const std::string& what, int64_t width) const;
  Dense dense_layer(const std::vector<std::string>& names, int64_t in, int64_t out);
  LayerNorm layer_norm_of(const std::string& name);
  static const Sequences& sequences(const Tape& tape) {
    TAPER_CHECK(tape.sequences != nullptr, "BERT reads sequences, and the tape has none");
    return *tape.sequences;
  }
  Var drop(Tape& tape, const Var& x, const std::string& name, const Tensor& ids) const {
    return dropout(tape, x, spec_.dropout, fold(sequences(tape).key, hash(name)), ids);
  }

  BertSpec spec_;
  int64_t heads_, attention_, intermediate_;  // widened; `attention_` is all heads' width together
  Parameter *words_, *positions_, *types_;
  LayerNorm embedding_norm_;
  std::vector<EncoderLayer> layers_;                    // one for each of blocks_
  Dense head_dense_;                                    // the transform or the pooler
  LayerNorm head_norm_;                                 // masked LM only
  Parameter *output_ = nullptr, *head_bias_ = nullptr;  // the last linear layer; the masked LM's is the words
};

// width * inner, which has to be whole.
int64_t Bert::widened(const std::string& what, int64_t width) const {
  constexpr double kMost = 1 << 20;
  double exact = static_cast<double>(width) * spec_.inner, rounded = std::round(exact);
  if (!(rounded >= 1 && rounded <= kMost && std::abs(exact - rounded) <= 1e-9 * rounded))
    throw UserError(
        "{} would be {} x {:g} = {:g}; choose a width and a widening factor whose product is whole, from 1 "
        "to {}",
        what, width, spec_.inner, exact, kMost);
  return static_cast<int64_t>(rounded);
}

Dense Bert::dense_layer(const std::vector<std::string>& names, int64_t in, int64_t out) {
  Dense result;
  for (const std::string& name : names) {
    result.weights.push_back(&store_.add(name + ".weight", {out, in}, Role::matrix));
    result.biases.push_back(&store_.add(name + ".bias", {out}, Role::bias));
  }
  return result;
}

LayerNorm Bert::layer_norm_of(const std::string& name) {
  Parameter& weight = store_.add(name + ".weight", {spec_.hidden}, Role::norm_weight);
  return {&weight, &store_.add(name + ".bias", {spec_.hidden}, Role::norm_bias), spec_.eps};
}

Bert::Bert(const BertSpec& spec) : spec_(spec) {
  TAPER_CHECK(spec.vocabulary > 0 && spec.positions > 0 && spec.types > 0 && spec.hidden > 0 &&
                  spec.layers > 0 && spec.heads > 0 && spec.intermediate > 0 && spec.classes > 0,
              "a BERT of {} words, {} positions, {} types, {} layers of {}, {} heads, {} between, {} classes",
              spec.vocabulary, spec.positions, spec.types, spec.layers, spec.hidden, spec.heads,
              spec.intermediate, spec.classes);
  if (spec.hidden % spec.heads != 0)
    throw UserError("a hidden width of {} cannot be shared by {} heads; choose one that they divide",
                    spec.hidden, spec.heads);
  int64_t hidden = spec.hidden;
  heads_ = widened("the number of heads", spec.heads);
  attention_ = heads_ * (hidden / spec.heads);
  intermediate_ = widened("the intermediate width", spec.intermediate);
  // In transformers' order, which is that of the tensors in the file.
  const std::string embeddings = "bert.embeddings.";
  words_ = &store_.add(embeddings + "word_embeddings.weight", {spec.vocabulary, hidden}, Role::matrix);
  positions_ = &store_.add(embeddings + "position_embeddings.weight", {spec.positions, hidden}, Role::matrix);
  types_ = &store_.add(embeddings + "token_type_embeddings.weight", {spec.types, hidden}, Role::matrix);
  embedding_norm_ = layer_norm_of(embeddings + "LayerNorm");
  for (int64_t i = 0; i < spec.layers; ++i) {
    std::string name = fmt::format("bert.encoder.layer.{}", i), self = name + ".attention.self.";
    EncoderLayer& layer = layers_.emplace_back();
    layer.qkv = dense_layer({self + "query", self + "key", self + "value"}, hidden, attention_);
    layer.attention_output = dense_layer({name + ".attention.output.dense"}, attention_, hidden);
    layer.attention_norm = layer_norm_of(name + ".attention.output.LayerNorm");
    layer.intermediate = dense_layer({name + ".intermediate.dense"}, hidden, intermediate_);
    layer.output = dense_layer({name + ".output.dense"}, intermediate_, hidden);
    layer.output_norm = layer_norm_of(name + ".output.LayerNorm");
    // The shortcut carries the basis of the stem's output through all the layers' norms.
    blocks_.push_back(
        {.name = name, .stage = 0, .width = hidden, .identity = true, .readers = layer.qkv.weights});
  }
  const auto output = [&](const std::string& name, int64_t width) {
    output_ = &store_.add(name + ".weight", {width, hidden}, Role::matrix);
    head_bias_ = &store_.add(name + ".bias", {width}, Role::bias);
  };
  const std::string predictions = "cls.predictions.";
  switch (spec.head) {
    case BertSpec::Head::masked_lm:
      head_bias_ = &store_.add(predictions + "bias", {spec.vocabulary}, Role::bias);
      head_dense_ = dense_layer({predictions + "transform.dense"}, hidden, hidden);
      head_norm_ = layer_norm_of(predictions + "transform.LayerNorm");
      break;
    case BertSpec::Head::classification:
      head_dense_ = dense_layer({"bert.pooler.dense"}, hidden, hidden);
      output("classifier", spec.classes);
      break;
    case BertSpec::Head::question_answering:
      output("qa_outputs", 2);
      break;
    case BertSpec::Head::encoder:
      break;
  }
}

Var Bert::stem(Tape& tape, const Var& ids, bool activated) const {
  const Tensor& in = ids->value;
  int64_t tokens = sequences(tape).tokens();
  TAPER_CHECK(in.shape() == Shape({3, tokens}), "{} for words, positions and types of {} tokens",
              to_string(in.shape()), tokens);
  Var x = add(tape, embedding(tape, in.slice(0, tokens), *words_),
              embedding(tape, in.slice(2 * tokens, tokens), *types_));
  x = layer_norm(tape, x, embedding(tape, in.slice(tokens, tokens), *positions_), embedding_norm_);
  return activated ? stem_activation(tape, x) : x;
}

Var Bert::block(Tape& tape, int64_t i, const Var& x, bool) const {
  const EncoderLayer& layer = layers_.at(static_cast<size_t>(i));
  const std::string& name = blocks_.at(static_cast<size_t>(i)).name;
  const Sequences& packed = sequences(tape);
  Var y = attention(tape, dense(tape, x, layer.qkv, Activation::none), packed, heads_,
                    spec_.attention_dropout, fold(packed.key, hash(name + ".attention.self.dropout")));
  y = dense(tape, y, layer.attention_output, Activation::none);
  y = drop(tape, y, name + ".attention.output.dropout", packed.token_ids);
  Var z = layer_norm(tape, y, x, layer.attention_norm);
  y = dense(tape, z, layer.intermediate, spec_.activation);
  y = dense(tape, y, layer.output, Activation::none);
  y = drop(tape, y, name + ".output.dropout", packed.token_ids);
  return layer_norm(tape, y, z, layer.output_norm);
}

Var Bert::head(Tape& tape, const Var& x) const {
  const Sequences& packed = sequences(tape);
  switch (spec_.head) {
    case BertSpec::Head::masked_lm: {
      TAPER_CHECK(packed.masked.defined() && packed.masked.size() > 0, "no token is masked");
      Var y = dense(tape, gather(tape, x, packed.masked), head_dense_, spec_.activation);
      return linear(tape, layer_norm(tape, y, nullptr, head_norm_), *words_, head_bias_);
    }
    case BertSpec::Head::classification: {
      Var first = gather(tape, x, packed.offsets.slice(0, packed.count()));
      Var pooled = activate(tape, Activation::tanh, dense(tape, first, head_dense_, Activation::none));
      return linear(tape, drop(tape, pooled, "dropout", packed.sample_ids), *output_, head_bias_);
    }
    case BertSpec::Head::question_answering:
      return linear(tape, x, *output_, head_bias_);
    case BertSpec::Head::encoder:
      break;
  }
  return x;
}

std::vector<std::string> Bert::head_parts() const {
  switch (spec_.head) {
    case BertSpec::Head::masked_lm:
      return {"cls"};
    case BertSpec::Head::classification:
      return {"bert.pooler", "classifier"};
    case BertSpec::Head::question_answering:
      return {"qa_outputs"};
    case BertSpec::Head::encoder:
      break;
  }
  return {};
}

std::vector<Cost> Bert::costs(Extent extent) const {
  auto [count, tokens] = extent;
  int64_t hidden = spec_.hidden, rows = count * tokens;
  auto size = [](const Dense& layer) {
    int64_t sum = 0;
    for (size_t i = 0; i < layer.weights.size(); ++i) sum += layer.weights[i]->size + layer.biases[i]->size;
    return sum;
  };
  // Kept of the stem: two tables' rows, their sum, the third's, the norm's input and output, what dropout
  // left.
  std::vector<Cost> parts = {{.parameters = words_->size + positions_->size + types_->size + 2 * hidden,
                              .flops = 0,
                              .activation_elements = 7 * rows * hidden}};
  for (const EncoderLayer& layer : layers_) {
    Cost cost;
    cost.parameters = size(layer.qkv) + size(layer.attention_output) + size(layer.intermediate) +
                      size(layer.output) + 4 * hidden;
    cost.flops = 2 * rows * (4 * hidden * attention_ + 2 * hidden * intermediate_ + 2 * tokens * attention_);
    // q, k, v, o and the rows' logarithms; before and after gelu; and of each half the product's output, what
    // dropout left, the norm's input and output.
    cost.activation_elements = rows * (4 * attention_ + heads_ + 2 * intermediate_ + 8 * hidden);
    parts.push_back(cost);
  }
  Cost cost{.parameters = size(head_dense_) + (output_ != nullptr ? output_->size : 0) +
                          (head_bias_ != nullptr ? head_bias_->size : 0)};
  switch (spec_.head) {
    case BertSpec::Head::masked_lm: {
      int64_t masked = (rows * 15 + 99) / 100;
      cost.parameters += 2 * hidden;
      cost.flops = 2 * masked * (hidden * hidden + hidden * spec_.vocabulary);
      cost.activation_elements = masked * (4 * hidden + spec_.vocabulary);
      break;
    }
    case BertSpec::Head::classification:
      cost.flops = 2 * count * (hidden * hidden + hidden * spec_.classes);
      cost.activation_elements = count * (4 * hidden + spec_.classes);
      break;
    case BertSpec::Head::question_answering:
      cost.flops = 2 * rows * hidden * 2;
      cost.activation_elements = 2 * rows;
      break;
    case BertSpec::Head::encoder:
      break;
  }
  parts.push_back(cost);
  return parts;
}

}  // namespace

std::unique_ptr<Network> make_bert(const BertSpec& spec) { return std::make_unique<Bert>(spec); }

void initialize_bert(Network& network, Stream& stream, uint64_t seed, double deviation) {
  for (Parameter& p : network.store().all()) {
    std::vector<double> values(static_cast<size_t>(p.size), p.role == Role::norm_weight ? 1.0 : 0.0);
    if (p.role == Role::matrix) {
      uint64_t key = fold(fold(seed, hash("initialize")), hash(p.name));
      for (int64_t row = 0; row < p.shape[0]; ++row) {
        Draws draws(key, 0, static_cast<uint64_t>(row));
        for (int64_t i = 0; i < p.shape[1]; ++i)
          values[static_cast<size_t>(row * p.shape[1] + i)] = deviation * draws.normal();
      }
    }
    set_values(stream, p, values);
  }
}

}  // namespace taper
