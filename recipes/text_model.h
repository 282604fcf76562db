#pragma once
// A BERT with its tokenizer, to read text with: from a folder of transformers', or from a run.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "recipes/models.h"
#include "recipes/text/text_batch.h"
#include "recipes/text/tokenizer.h"

namespace taper {

class TextModel {
 public:
  /// `path`: a folder with config.json, model.safetensors and vocab.txt, or a run of masked language
  /// modelling, of which `network` ("thin", "wide", "baseline") is taken; "": thin, or else baseline. `head`:
  /// encoder or masked_lm. `device`: "": the run's own, or the CPU. UserError: it is neither, lacks the
  /// network or the head, or as the readers of its parts.
  TextModel(const std::filesystem::path& path, const std::string& network, BertSpec::Head head,
            const std::string& device);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  int64_t width() const { return spec_.hidden; }

  /// Tokens of a line, [CLS] first and [SEP] last. UserError names line `number` where there are more than
  /// the network has positions, unless `truncate`: then the last ones are left out.
  std::vector<Token> encode(std::string_view line, int64_t number, bool truncate);

  Engine& engine() { return *engine_; }
  const Network& network() const { return *network_; }

 private:
  void open_folder(const std::filesystem::path& folder, const std::string& device);
  void open_run(const std::filesystem::path& directory, const std::string& network,
                const std::string& device);
  std::unique_ptr<Network> allocate();

  BertSpec spec_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Network> network_;
};

/// What the network gives for each batch, as f32, in their order.
std::vector<std::vector<float>> run_batches(Engine& engine, const Network& network,
                                            const std::vector<TextBatch>& batches);

/// Reads standard input in portions: `encode` turns line `number` (from 1) into a sequence of the batch,
/// `write` gets each batch's lines and what the network gave. Lines come out in their order; memory is
/// bounded.
void read_lines(Engine& engine, const Network& network,
                const std::function<void(TextBatch&, std::string_view line, int64_t number)>& encode,
                const std::function<void(const TextBatch&, const std::vector<float>&)>& write);

}  // namespace taper
