#pragma once
// The configuration of a run: plain structs, read strictly from TOML. docs/configuration.md lists every key
// with its meaning, default and limits; it is generated from the same table (config_fields.cpp) that reads
// and writes them.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

/// Labelled texts, or questions whose answers are in their contexts: how their files become sequences, and
/// logits answers. Both the data of a run and the stage `task` have these keys.
struct ExampleOptions {
  int64_t sequence_length = 0;  ///< never 0 once read
  std::string text = "text";
  std::string pair;
  std::string label = "label";
  bool regression = false;
  int64_t doc_stride = 128;
  int64_t n_best_size = 20;
  int64_t max_answer_length = 30;
  double null_score_diff_threshold = 0;
  bool operator==(const ExampleOptions&) const = default;
};

/// Where images come from and how they become numbers, (pixel / 255 - mean) / std, per channel; or where text
/// comes from and how it becomes sequences with masked tokens.
struct DataOptions : ExampleOptions {
  std::string format = "idx";
  std::string path;
  int64_t train_limit = 0;
  int64_t test_limit = 0;
  int64_t channels = 0;
  int64_t image_size = 0;
  std::vector<double> mean;
  std::vector<double> std;
  int64_t threads = 1;
  std::string on_error = "stop";
  std::string vocabulary;
  bool cased = false;
  double test_share = 0.01;
  double mask_probability = 0.15;
  bool whole_word_masking = false;
  std::string cache = ".cache/tokens";
  std::string test_file;
  /// Text with a label for each.
  bool labelled() const { return format == "tsv" || format == "csv" || format == "glue"; }
  /// Questions about contexts.
  bool questions() const { return format == "squad" || format == "squad_v2"; }
  bool of_text() const { return format == "text" || labelled() || questions(); }
  bool operator==(const DataOptions&) const = default;
};

/// The thin network. Of a ResNet, exactly one of `depth` (the literature's layer count) and `depths` (blocks
/// in each ResNet stage) is set, and `width` is never 0 once read. A BERT's keys are those of transformers'
/// BertConfig.
struct NetworkOptions {
  std::string kind = "resnet";
  std::string style = "imagenet";
  std::string block = "bottleneck";
  int64_t depth = 0;
  std::vector<int64_t> depths;
  int64_t width = 0;
  std::string activation = "relu";
  int64_t classes = 0;
  bool zero_init_residual = false;
  int64_t hidden_size = 768;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 12;
  int64_t intermediate_size = 3072;
  int64_t max_position_embeddings = 512;
  int64_t type_vocab_size = 2;
  int64_t vocab_size = 0;
  std::string hidden_act = "gelu";
  double hidden_dropout_prob = 0.1;
  double attention_probs_dropout_prob = 0.1;
  double layer_norm_eps = 1e-12;
  double initializer_range = 0.02;
  std::string encoder;
  bool operator==(const NetworkOptions&) const = default;
};

/// How the thin network becomes the wide one.
struct WidenOptions {
  std::string kind = "inner";
  double factor = 2;
  bool operator==(const WidenOptions&) const = default;
};

struct AugmentationOptions {
  std::string crop = "none";
  int64_t padding = 4;
  bool flip = false;
  bool operator==(const AugmentationOptions&) const = default;
};

/// One training stage. Exactly one of `epochs` and `steps` is set in every stage that trains (the other is
/// 0); at most one of the two warm-ups is. For `imitate` in the order `bottom_up` the length is that of each
/// unit.
struct StageOptions {
  int64_t epochs = 0;
  int64_t steps = 0;
  int64_t batch_size = 128;
  std::string optimizer = "sgd";
  double lr = 0.1;
  double momentum = 0.9;
  bool nesterov = false;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  bool decay_norms_and_biases = true;
  std::string schedule = "cosine";
  int64_t warmup_epochs = 0;
  int64_t warmup_steps = 0;
  std::vector<int64_t> milestones;
  double gamma = 0.1;
  double label_smoothing = 0;
  double layer_decay = 1;
  double clip_norm = 0;
  double ema_decay = 0;
  AugmentationOptions augmentation;
  int64_t evaluate_every = 0;
  int64_t checkpoint_every = 0;
  bool operator==(const StageOptions&) const = default;
};

struct WideOptions : StageOptions {
  std::string weights;
  bool operator==(const WideOptions&) const = default;
};

struct ImitateOptions : StageOptions {
  std::string input = "sequential";
  std::string unit = "block";
  std::string order = "bottom_up";
  std::string parallel = "data";
  std::string bridges = "tied";
  int64_t bridge_samples = 1024;
  int64_t statistics_batches = 32;
  double attention = 0;
  bool operator==(const ImitateOptions&) const = default;
};

struct MatchOptions : StageOptions {
  double temperature = 1;
  bool operator==(const MatchOptions&) const = default;
};

/// Tasks to learn from pre-trained encoders: for each of `names` and `networks` a run of its own, whose data
/// is the folder `path`/name.
struct TaskOptions : StageOptions, ExampleOptions {
  std::vector<std::string> names;
  std::vector<std::string> networks = {"thin"};
  std::string format = "tsv";
  std::string path;
  bool operator==(const TaskOptions&) const = default;
};

struct CheckpointOptions {
  int64_t keep_last = 2;
  bool operator==(const CheckpointOptions&) const = default;
};

struct Configuration {
  std::string name;
  int64_t seed = 0;
  std::string device = "cpu";
  std::string precision = "f32";
  std::string matmul = "own";
  std::string convolution = "own";
  int64_t shards = 2;
  int64_t threads_per_shard = 1;
  int64_t rank_timeout = 60;
  bool shard_optimizer = false;
  std::string reduction = "exact";
  bool cuda_graphs = false;
  std::vector<std::string> stages;
  DataOptions data;
  NetworkOptions network;
  WidenOptions widen;
  StageOptions baseline;
  WideOptions wide;
  ImitateOptions imitate;
  MatchOptions match;
  StageOptions finetune;
  TaskOptions task;
  CheckpointOptions checkpoint;
  bool operator==(const Configuration&) const = default;

  bool runs(std::string_view stage) const;
  /// Whether it runs and trains: not `merge`, nor `wide` from a file.
  bool trains(std::string_view stage) const;
  /// The options of "baseline", "wide", "imitate", "match" "finetune" or "task"; Failure for any other name.
  const StageOptions& stage(std::string_view name) const;
};

/// Reads a configuration file, then applies `overrides` ("wide.epochs=2", as given to --set; a string needs
/// no quotes). Throws UserError, naming file, line and key (or the command line), for a file that cannot be
/// read, an unknown key, a wrong type, a value out of range, or settings that contradict each other.
Configuration read_configuration(const std::filesystem::path& file,
                                 const std::vector<std::string>& overrides = {});

/// The same from memory; `file` appears in messages, and its stem is the run's name where none is set.
Configuration parse_configuration(std::string_view text, std::string_view file,
                                  const std::vector<std::string>& overrides = {});

/// The configuration as TOML with every key explicit. Parsing it gives an equal configuration, and writing
/// that gives the same text.
std::string write_configuration(const Configuration& configuration);

/// Whether they give the same network to the bit: all keys agree but those that only say how long to wait.
bool same_run(const Configuration& a, const Configuration& b);

/// The first key on which two configurations differ, as "wide.epochs is 2 there and 3 here"; empty if none.
std::string first_difference(const Configuration& there, const Configuration& here);

/// docs/configuration.md: every key with its type, default, limits and meaning.
std::string configuration_reference();

/// Blocks in each ResNet stage: `depths`, or what `depth` stands for (resnet_depths, with its UserError).
std::vector<int64_t> blocks_per_stage(const NetworkOptions& network);

}  // namespace taper
