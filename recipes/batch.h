#pragma once
// The samples of one step: on the host, and by shards on a device.

#include <cstdint>
#include <memory>

#include "autograd/sequences.h"
#include "autograd/tape.h"

namespace taper {

/// A shard of a batch on the device. Of text, the tape points to its sequences, so it must outlive the tape's
/// passes.
struct ShardInput {
  Var input;  ///< what Network::stem reads: images [count, h, w, channels] of the activations' type; null for
              ///< 0
  /// i32, one for each row of the network's logits; or, of spans, two for each sequence.
  Tensor labels;
  int64_t count;                                         ///< samples
  std::unique_ptr<const Sequences> sequences = nullptr;  ///< of text only
  Tensor scores = {};  ///< of a regression instead of labels: [count, 1] of accumulator type
  bool spans = false;  ///< the labels are the first and the last token of an answer
};

/// What a rank needs of each batch: samples [part count / parts, (part + 1) count / parts), its shards'.
struct Share {
  int64_t part = 0, parts = 1;
};

class Batch {
 public:
  virtual ~Batch() = default;
  /// Samples [begin, end) on the tape's device, and how they form sequences on the tape: the same values
  /// however the batch is cut. They lie within the share that was asked for; those left out are missing, so
  /// there may be none.
  virtual ShardInput upload(Tape& tape, int64_t begin, int64_t end) const = 0;

  /// What speed is counted in: images, or tokens.
  virtual int64_t items() const { return count; }

  int64_t count = 0;    ///< samples, whatever the share, with those left out
  int64_t skipped = 0;  ///< samples of the share left out because they could not be read
};

/// Batches one after the other, for one caller at a time.
class Batches {
 public:
  virtual ~Batches() = default;
  /// The batch of the next step. UserError, naming the sample, if one cannot be read.
  virtual std::unique_ptr<Batch> next() = 0;
};

}  // namespace taper
