#pragma once
// What the `taper` binary does, one function a command. Tables go to standard output, as JSON where asked;
// messages to standard error.

#include <filesystem>
#include <string>
#include <vector>

namespace taper {

struct TrainArguments {
  std::filesystem::path configuration, output;  ///< output empty: runs/<name of the configuration file>
  std::vector<std::string> overrides;
  bool resume = false;
  std::string command;  ///< as typed, for the log
};
/// Trains. Returns normally also after a clean stop on SIGTERM or SIGINT.
void train_command(const TrainArguments& arguments);

/// Accuracy, loss, parameters, FLOPs and images/s of every network in a run's last checkpoint, on the test
/// images. `device`: another than the one that it was trained on, or "".
void evaluate_command(const std::filesystem::path& run, const std::string& device, bool json);

/// What a configuration would cost, without training and without its data.
void describe_command(const std::filesystem::path& configuration, const std::vector<std::string>& overrides,
                      bool json);

struct PlanArguments {
  std::filesystem::path configuration;
  std::vector<std::string> overrides;
  std::vector<int64_t> ranks;      ///< powers of two
  std::vector<std::string> links;  ///< inside a node and between nodes; one: both
  int64_t per_node = 8;            ///< a power of two
  double price = 0;                ///< of a rank's hour
  bool json = false;
};
/// What a configuration's steps and epochs would take on many ranks, from steps timed here and the links'
/// figures; without training.
void plan_command(const PlanArguments& arguments);

/// Writes a network of a run as safetensors with torchvision's names, or a BERT as write_pretrained does; the
/// thin one merged. `best`: of its
/// best evaluation instead of the last state. `device` as for evaluate.
void export_command(const std::filesystem::path& run, const std::filesystem::path& output,
                    const std::string& network, const std::string& device, bool best);

/// One page for several runs that differ in their seed.
void report_command(const std::filesystem::path& output, const std::vector<std::filesystem::path>& runs);

/// Learns a WordPiece vocabulary of `size` tokens from text files and writes it as vocab.txt.
void tokenizer_train_command(const std::vector<std::filesystem::path>& files,
                             const std::filesystem::path& output, int64_t size, bool cased);

struct EncodeArguments {
  bool cased = false;    ///< the vocabulary keeps upper case and accents
  bool offsets = false;  ///< also the characters of the line that each token came from
  bool json = false;     ///< one JSON object a line, with the tokens' text
  bool replace = false;  ///< drop bytes that are not UTF-8 instead of stopping
};
/// The ids of each line of standard input, with [CLS] and [SEP], on a line of standard output.
void tokenizer_encode_command(const std::filesystem::path& vocabulary, const EncodeArguments& arguments);

}  // namespace taper
