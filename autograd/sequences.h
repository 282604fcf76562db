#pragma once
// How the rows of a shard's activations form sequences.

#include <cstdint>

#include "runtime/tensor.h"

namespace taper {

/// A shard's token sequences, packed: row t of every activation [tokens, features] is one token, and there
/// are no rows for padding. All tensors lie on the device.
struct Sequences {
  Tensor offsets;     ///< [sequences + 1] of i32: sequence i is rows offsets[i] .. offsets[i + 1] - 1
  Tensor sample_ids;  ///< [sequences] of i64: names a sequence for dropout, wherever it was packed
  Tensor token_ids;   ///< [tokens] of i64: names a token for dropout, by sample and position
  Tensor masked;  ///< [count] of i32, at least one: the rows whose words a masked LM predicts; else undefined
  uint64_t key = 0;  ///< of this step's dropout; ops fold their names into it

  int64_t count() const { return sample_ids.size(); }
  int64_t tokens() const { return token_ids.size(); }
};

}  // namespace taper
