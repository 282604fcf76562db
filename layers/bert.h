#pragma once
// BERT (Devlin et al., arXiv 1810.04805) as Hugging Face's transformers builds it: post-layer-norm encoder
// layers, learnt positions. Tensor names are transformers'.

#include <memory>
#include <string>

#include "layers/network.h"

namespace taper {

/// Everything that defines a BERT. The defaults are BERT base.
struct BertSpec {
  enum class Head : uint8_t {
    masked_lm,  ///< transform, layer norm and the words' table as decoder, at masked tokens only
    /// The pooler on each sequence's first token, then a linear layer. Of a regression that has one output,
    /// whose loss is squared_error.
    classification,
    question_answering,  ///< a linear layer from each token to the logits of an answer's first and last one
    encoder              ///< nothing: what the last layer gives
  };
  Head head = Head::masked_lm;
  int64_t vocabulary = 30522, positions = 512, types = 2;
  int64_t hidden = 768, layers = 12, heads = 12, intermediate = 3072;
  int64_t classes = 2;                       ///< of the classification
  Activation activation = Activation::gelu;  ///< gelu or gelu_tanh
  double eps = 1e-12;                        ///< of the layer norms
  double dropout = 0.1;                      ///< of embeddings, layers' outputs and the pooled token
  double attention_dropout = 0.1;            ///< of attention probabilities
  double inner = 1;  ///< multiplies heads (of unchanged size) and `intermediate`; `hidden` stays
};

/// Shapes and names only, no memory: call store().allocate() and initialize_bert() or load weights. Passes
/// need tape.sequences (Failure without): stem and forward read words, positions and types, i32 [3, tokens]
/// on the device, each within its table (checked by who reads data); blocks give [tokens, hidden]; the head
/// gives [sequences.masked, vocabulary], [sequences, classes], [tokens, 2] or [tokens, hidden]. Dropout falls
/// where tape.training. costs({n, t}) are those of n sequences of t tokens, 15 % of them masked. An
/// impossible width is a UserError that names it.
std::unique_ptr<Network> make_bert(const BertSpec& spec);

/// transformers' initialisation: matrices and tables normal with this standard deviation, biases 0, norms 1
/// and 0. Draws by Philox from (seed, the parameter's name): independent of order and device.
void initialize_bert(Network& network, Stream& stream, uint64_t seed, double deviation = 0.02);

}  // namespace taper
