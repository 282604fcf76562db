#pragma once
// BERT's tensors in files of others.

#include <string>
#include <vector>

#include "layers/bert.h"
#include "runtime/safetensors.h"

namespace taper {

/// What a checkpoint had more or less than a network.
struct BertImport {
  std::vector<std::string> kept;     ///< the network's head, that the file lacks: as it was before
  std::vector<std::string> ignored;  ///< of other heads
};

/// Sets an allocated BERT from a checkpoint of transformers, or of TensorFlow's BERT as it was converted
/// early: tensors with and without "bert." before them, norms of weight and bias or of gamma and beta, with
/// position_ids or not, the masked LM's decoder written out or tied. The encoder must be there whole.
/// UserError as set_weights, before any value is changed; one of its own where the vocabulary has another
/// size than `spec` says, where the decoder is not the words' table, or two tensors have one name.
BertImport read_bert_weights(const SafetensorsFile& file, const std::string& shown, const BertSpec& spec,
                             Stream& stream, Network& network);

}  // namespace taper
