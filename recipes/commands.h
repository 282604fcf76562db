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
  std::filesystem::path providers_from;  ///< a run whose choices of providers to take over; empty: none
  std::string command;                   ///< as typed, for the log
};
/// Trains. Returns normally also after a clean stop on SIGTERM or SIGINT.
void train_command(const TrainArguments& arguments);

struct EvaluateArguments {
  std::filesystem::path run;
  std::string task;    ///< what the stage `task` learnt; "": what the run itself learns
  std::string device;  ///< another than the one that it was trained on, or ""
  bool json = false;
};
/// Metrics, loss, parameters, FLOPs and speed of every network in a run's last checkpoint, on its test split,
/// which several ranks divide.
void evaluate_command(const EvaluateArguments& arguments);

/// UserError, printed once, where several ranks were started: for the commands that do not divide their work.
void require_one_rank(const std::string& command);

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

struct ExportArguments {
  std::filesystem::path run, output;
  std::string network = "thin", task;  ///< as it learnt this task in the stage `task`; "": the run's own
  std::string device;                  ///< as for evaluate
  bool best = false;                   ///< of its best evaluation instead of the last state
};
/// Writes a network of a run, the thin one merged: as safetensors with torchvision's names; a BERT as
/// write_pretrained does.
void export_command(const ExportArguments& arguments);

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

struct ReadArguments {
  std::filesystem::path model;  ///< a folder of transformers', or a run
  std::string network, device;  ///< of a run: "thin" by default; "": the run's own, or the CPU
  bool truncate = false;        ///< leave out what is past the network's positions
  bool json = false;
};
/// For each line of standard input the mean over its tokens of the last layer's output, on a line.
void embed_command(const ReadArguments& arguments);
/// For each [MASK] of standard input its `top` most probable tokens, on a line.
void fill_mask_command(const ReadArguments& arguments, int64_t top);

struct PredictArguments {
  std::filesystem::path run;
  std::string task,
      network;  ///< what the stage `task` learnt, from which encoder ("": the first); "": the run itself
  std::string device;  ///< another than the one that it was trained on, or ""
  bool json = false;
};
/// The label of each line of standard input and its probability, on a line.
void predict_command(const PredictArguments& arguments);

}  // namespace taper
