// Settings that are fine one by one and wrong together.

#include <algorithm>
#include <cmath>
#include <optional>

#include "layers/resnet.h"
#include "recipes/config_fields.h"
#include "runtime/error.h"

namespace taper {
namespace {

using Place = std::function<std::string(std::string_view)>;

bool is_power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

/// The stages of the method have one order; `baseline` is independent of them.
std::optional<int> rank(std::string_view stage) {
  static constexpr std::string_view kOrder[] = {"wide", "imitate", "match", "finetune", "merge", "task"};
  for (int i = 0; i < std::ssize(kOrder); ++i)
    if (stage == kOrder[i]) return i;
  return std::nullopt;
}

void check_stages(const Configuration& c, const Place& place) {
  const std::string where = place("stages");
  if (c.stages.empty()) {
    throw UserError(
        "{}: stages is empty, so there is nothing to run; for the whole method: "
        "stages = [\"wide\", \"imitate\", \"finetune\", \"merge\"]",
        where);
  }
  bool wide = !c.wide.weights.empty(), thin = false;
  std::string last;
  for (size_t i = 0; i < c.stages.size(); ++i) {
    const std::string& stage = c.stages[i];
    if (std::count(c.stages.begin(), c.stages.end(), stage) > 1)
      throw UserError("{}: stages names {} more than once", where, stage);
    if (stage == "task" && i + 1 != c.stages.size())
      throw UserError("{}: stages has task before {}; task must come last", where, c.stages[i + 1]);
    if (stage == "merge" && i + 1 != c.stages.size() && c.stages[i + 1] != "task")
      throw UserError("{}: stages has merge before {}; merge must come last, or before task", where,
                      c.stages[i + 1]);
    if (rank(stage)) {
      if (!last.empty() && rank(last) > rank(stage)) {
        throw UserError(
            "{}: stages has {} before {}; the order is wide, imitate, match, finetune, merge, task", where,
            last, stage);
      }
      last = stage;
    }
    if ((stage == "imitate" || stage == "match") && !wide) {
      throw UserError(
          "{}: the stage {} needs a wide network, and none was trained; put \"wide\" before it in stages "
          "or set wide.weights",
          where, stage);
    }
    if ((stage == "finetune" || stage == "merge") && !thin) {
      throw UserError(
          "{}: the stage {} needs a thin network that learnt from the wide one; put \"imitate\" or \"match\" "
          "before it in stages{}",
          where, stage,
          stage == "finetune" ? " (to train the thin network from scratch, use \"baseline\")" : "");
    }
    if (stage == "wide") wide = true;
    if (stage == "imitate" || stage == "match") thin = true;
  }
}

void check_stage(const Configuration& c, const std::string& name, const Place& place) {
  const StageOptions& stage = c.stage(name);
  auto where = [&](std::string_view key) { return place(name + "." + std::string(key)); };
  if (stage.epochs > 0 && stage.steps > 0) {
    throw UserError("{}: {}.epochs and {}.steps are both set; exactly one must be (set the other to 0)",
                    where("steps"), name, name);
  }
  if (stage.epochs == 0 && stage.steps == 0) {
    throw UserError("{}: the stage {} has no length; set {}.epochs or {}.steps", where("epochs"), name, name,
                    name);
  }
  if (stage.warmup_epochs > 0 && stage.warmup_steps > 0) {
    throw UserError("{}: {}.warmup_epochs and {}.warmup_steps are both set; at most one may be",
                    where("warmup_steps"), name, name);
  }
  if (stage.epochs > 0 && stage.warmup_epochs >= stage.epochs && stage.warmup_epochs > 0) {
    throw UserError("{}: {}.warmup_epochs is {}, but the stage has only {} epochs", where("warmup_epochs"),
                    name, stage.warmup_epochs, stage.epochs);
  }
  if (stage.steps > 0 && stage.warmup_steps >= stage.steps && stage.warmup_steps > 0) {
    throw UserError("{}: {}.warmup_steps is {}, but the stage has only {} steps", where("warmup_steps"), name,
                    stage.warmup_steps, stage.steps);
  }
  if (stage.batch_size < c.shards) {
    throw UserError(
        "{}: {}.batch_size is {}, fewer than the {} shards it is cut into; raise it or lower shards",
        where("batch_size"), name, stage.batch_size, c.shards);
  }
  if (stage.schedule == "step" && stage.milestones.empty()) {
    throw UserError(
        "{}: {}.schedule is \"step\" without milestones; set {}.milestones to epochs, or use \"constant\"",
        where("schedule"), name, name);
  }
  for (size_t i = 1; i < stage.milestones.size(); ++i) {
    if (stage.milestones[i] <= stage.milestones[i - 1]) {
      throw UserError("{}: {}.milestones must increase; {} follows {}", where("milestones"), name,
                      stage.milestones[i], stage.milestones[i - 1]);
    }
  }
  if (c.network.kind == "bert" && stage.augmentation != AugmentationOptions{}) {
    throw UserError("{}: {}.augmentation is for images; text has none", where("augmentation"), name);
  }
  if (stage.nesterov && stage.momentum == 0)
    throw UserError("{}: {}.nesterov needs momentum above 0", where("nesterov"), name);
}

void check_length(const std::string& section, const ExampleOptions& options, const Place& place) {
  constexpr int64_t kLeast = 8;  // special tokens, and something between them
  if (options.sequence_length < kLeast)
    throw UserError("{}: {}.sequence_length is {}; it must be at least {}, or 0 for the usual length",
                    place(section + ".sequence_length"), section, options.sequence_length, kLeast);
}

void check_data(const DataOptions& data, const Place& place) {
  if (data.path.empty())
    throw UserError("{}: data.path is not set; name the folder with the images or the text",
                    place("data.path"));
  const bool text = data.of_text();
  if (data.on_error == (text ? "skip" : "replace")) {
    throw UserError("{}: data.on_error is \"{}\", which is for {}; use \"stop\" or \"{}\"",
                    place("data.on_error"), data.on_error, text ? "images" : "text",
                    text ? "replace" : "skip");
  }
  if (text && data.vocabulary.empty()) {
    throw UserError("{}: data.vocabulary is not set; name a vocab.txt ('taper tokenizer train' makes one)",
                    place("data.vocabulary"));
  }
  if (data.format == "text" && data.cache.empty())
    throw UserError("{}: data.cache is empty; name a folder", place("data.cache"));
  if (data.channels != 0 && data.channels != 1 && data.channels != 3) {
    throw UserError("{}: data.channels is {}, expected 0 (as stored), 1 (grey) or 3 (RGB)",
                    place("data.channels"), data.channels);
  }
  if (data.mean.size() != data.std.size()) {
    throw UserError("{}: data.mean has {} values and data.std has {}; both need one per channel, or none",
                    place(data.mean.size() < data.std.size() ? "data.mean" : "data.std"), data.mean.size(),
                    data.std.size());
  }
  if (data.channels != 0 && !data.mean.empty() && static_cast<int64_t>(data.mean.size()) != data.channels) {
    throw UserError("{}: data.mean has {} values for {} channels", place("data.mean"), data.mean.size(),
                    data.channels);
  }
  check_length("data", data, place);
  if (data.format == "folder" && data.image_size == 0) {
    throw UserError(
        "{}: data.image_size must be set for format \"folder\", whose images differ in size (224 is "
        "usual)",
        place("data.image_size"));
  }
}

/// The loss of questions has no classes to spread the target over.
void check_smoothing(const StageOptions& stage, const std::string& name, const Place& place) {
  if (stage.label_smoothing > 0)
    throw UserError("{}: {}.label_smoothing is {}; an answer's first and last token have none",
                    place(name + ".label_smoothing"), name, stage.label_smoothing);
}

void check_task(const Configuration& c, const Place& place) {
  const TaskOptions& task = c.task;
  if (task.format.starts_with("squad")) check_smoothing(task, "task", place);
  if (c.data.format != "text")
    throw UserError("{}: the stage task comes after pre-training, for which data.format is \"text\"",
                    place("stages"));
  if (task.names.empty() || task.path.empty())
    throw UserError("{}: task.{} is not set; name the tasks' folders, and the folder that holds them",
                    place("task"), task.names.empty() ? "names" : "path");
  for (const std::string& name : task.names)
    if (name.empty() || name.starts_with('.') || name.find('/') != std::string::npos)
      throw UserError("{}: task.names has \"{}\", which is no folder of task.path", place("task.names"),
                      name);
  if (task.networks.empty())
    throw UserError("{}: task.networks is empty; name those whose encoders learn the tasks",
                    place("task.networks"));
  for (const std::string& network : task.networks) {
    const bool there = network == "thin" ? c.runs("imitate") || c.runs("match") : c.runs(network);
    if (!there)
      throw UserError("{}: task.networks has {}, which no stage makes", place("task.networks"), network);
  }
  check_length("task", task, place);
  if (task.sequence_length > c.network.max_position_embeddings)
    throw UserError("{}: task.sequence_length is {}, but network.max_position_embeddings only {}",
                    place("task.sequence_length"), task.sequence_length, c.network.max_position_embeddings);
  if (c.runs("imitate") && c.widen.kind == "full" && !c.runs("merge"))
    throw UserError("{}: the stage task needs the thin network without bridges; put \"merge\" before it",
                    place("stages"));
}

void check_questions(const Configuration& c, const Place& place) {
  if (c.runs("match"))
    throw UserError("{}: the stage match compares probabilities of classes, and questions have none",
                    place("stages"));
  for (const char* stage : {"baseline", "wide", "finetune"})
    if (c.trains(stage)) check_smoothing(c.stage(stage), stage, place);
}

void check_bert(const Configuration& c, const Place& place) {
  const NetworkOptions& network = c.network;
  if (c.data.questions()) check_questions(c, place);
  for (const char* key : {"depth", "depths", "width"}) {
    if (key == std::string("depth")    ? network.depth == 0
        : key == std::string("depths") ? network.depths.empty()
                                       : network.width == 0)
      continue;
    const std::string full = fmt::format("network.{}", key);
    throw UserError("{}: {} is a ResNet's; a BERT has num_hidden_layers and hidden_size", place(full), full);
  }
  if (network.hidden_size % network.num_attention_heads != 0) {
    throw UserError("{}: network.hidden_size is {}, which {} heads cannot share evenly",
                    place("network.hidden_size"), network.hidden_size, network.num_attention_heads);
  }
  if (c.data.sequence_length > network.max_position_embeddings) {
    throw UserError(
        "{}: data.sequence_length is {}, but network.max_position_embeddings only {}; lower the "
        "one or raise the other",
        place("data.sequence_length"), c.data.sequence_length, network.max_position_embeddings);
  }
  if (c.widen.kind == "full" && c.imitate.bridges == "free" && c.runs("imitate")) {
    throw UserError(
        "{}: imitate.bridges = \"free\" cannot be merged exactly into a BERT, whose shortcuts carry "
        "a layer's input past every matrix that could take the bridge in; use \"tied\"",
        place("imitate.bridges"));
  }
  if (!(c.runs("wide") || c.runs("imitate") || c.runs("match"))) return;
  for (const auto& [key, width] :
       {std::pair<const char*, int64_t>{"hidden_size", c.widen.kind == "full" ? network.hidden_size : 0},
        {"num_attention_heads", network.num_attention_heads},
        {"intermediate_size", network.intermediate_size}}) {
    const double wide = static_cast<double>(width) * c.widen.factor;
    if (wide == std::floor(wide)) continue;
    throw UserError(
        "{}: network.{} is {}, and widen.factor {} makes {} of it: not a whole number; choose a "
        "factor that divides evenly",
        place("widen.factor"), key, width, c.widen.factor, wide);
  }
}

// Units that are trained side by side must not need each other.
void check_parallel_units(const Configuration& c, const Place& place) {
  const std::string where = place("imitate.parallel");
  auto refuse = [&](const std::string& setting, const std::string& reason, const std::string& remedy) {
    throw UserError("{}: imitate.parallel = \"units\" and {}: {}; {}, or imitate.parallel = \"data\"", where,
                    setting, reason, remedy);
  };
  if (c.imitate.input != "teacher")
    refuse("imitate.input = \"sequential\"", "each unit reads what the trained ones below it give",
           "set imitate.input = \"teacher\"");
  if (c.imitate.order != "bottom_up")
    refuse("imitate.order = \"together\"", "every step trains all units at once",
           "set imitate.order = \"bottom_up\"");
  if (c.widen.kind == "full" && c.imitate.bridges == "free")
    refuse("imitate.bridges = \"free\"", "a unit reads through the bridge that the one below it trains",
           "set imitate.bridges = \"tied\"");
  if (c.imitate.ema_decay != 0)
    refuse("imitate.ema_decay",
           "the average is one of the whole network, over the units' steps one after the other",
           "set imitate.ema_decay = 0");
}

void check_network(const Configuration& c, const Place& place) {
  const NetworkOptions& network = c.network;
  const bool bert = network.kind == "bert", text = c.data.of_text();
  if (bert != text) {
    throw UserError("{}: network.kind is \"{}\", which does not read data.format = \"{}\"; {}",
                    place(bert ? "network.kind" : "data.format"), network.kind, c.data.format,
                    bert ? "a BERT reads \"text\", \"tsv\", \"csv\", \"glue\", \"squad\" and \"squad_v2\""
                         : "text is for network.kind = \"bert\"");
  }
  if (bert) return check_bert(c, place);
  if (c.imitate.attention > 0) {
    throw UserError("{}: imitate.attention is {}, and a network of kind \"{}\" has no attention; set it to 0",
                    place("imitate.attention"), c.imitate.attention, network.kind);
  }
  if ((network.depth == 0) == network.depths.empty()) {
    throw UserError("{}: {}; set exactly one of them", place("network.depth"),
                    network.depth == 0 ? "neither network.depth nor network.depths is set"
                                       : "network.depth and network.depths are both set");
  }
  try {
    blocks_per_stage(network);
  } catch (const UserError& error) {
    throw UserError("{}: {}", place("network.depth"), error.what());
  }
  if (network.depths.size() > 8) {
    throw UserError("{}: network.depths has {} ResNet stages; at most 8, as each halves the image",
                    place("network.depths"), network.depths.size());
  }
  if (network.classes == 1) {
    throw UserError("{}: network.classes is 1; a classifier needs at least 2 (0: as the data has)",
                    place("network.classes"));
  }
  if (c.runs("wide") || c.runs("imitate") || c.runs("match")) {
    const double wide = static_cast<double>(network.width) * c.widen.factor;
    const char* layer = c.widen.kind == "full"          ? "conv1"
                        : network.block == "bottleneck" ? "layer1.0.conv2"
                                                        : "layer1.0.conv1";
    if (wide != std::floor(wide)) {
      throw UserError(
          "{}: {} has {} channels, and widen.factor {} makes {} of them: not a whole number; choose a factor "
          "that divides evenly",
          place("widen.factor"), layer, network.width, c.widen.factor, wide);
    }
  }
}

void check_graphs(const Configuration& c, const Place& place) {
  auto refuse = [&](const std::string& setting, const std::string& reason) {
    throw UserError("{}: cuda_graphs = true and {}: {}; set cuda_graphs = false", place("cuda_graphs"),
                    setting, reason);
  };
  if (c.device == "cpu") refuse("device = \"cpu\"", "there is nothing to record, graphs are the GPU's");
  if (c.network.kind == "bert")
    refuse("network.kind = \"bert\"",
           "a graph has one shape, but batches of text differ in their tokens, and draw dropout anew");
  if (c.matmul != "own" || c.convolution != "own")
    refuse(fmt::format("{} = \"{}\"", c.matmul != "own" ? "matmul" : "convolution",
                       c.matmul != "own" ? c.matmul : c.convolution),
           "NVIDIA's libraries are not recorded, only Taper's own kernels");
}

}  // namespace

std::vector<int64_t> blocks_per_stage(const NetworkOptions& network) {
  if (!network.depths.empty()) return network.depths;
  return resnet_depths(
      network.style == "cifar" ? ResNetSpec::Style::cifar : ResNetSpec::Style::imagenet,
      network.block == "basic" ? ResNetSpec::BlockKind::basic : ResNetSpec::BlockKind::bottleneck,
      network.depth);
}

void check_configuration(const Configuration& c, const Place& place) {
  if (!is_power_of_two(c.shards))
    throw UserError("{}: shards is {}, expected a power of two", place("shards"), c.shards);
  if (c.precision == "tf32" && c.device == "cpu") {
    throw UserError(
        "{}: precision \"tf32\" is a format of GPUs' tensor cores; the devices \"cuda\" and \"sim\" have it, "
        "and \"cpu\" has \"f32\" and \"bf16\"",
        place("precision"));
  }
  for (const auto& [key, provider] : {std::pair{"matmul", c.matmul}, {"convolution", c.convolution}})
    if (provider != "own" && c.device != "cuda")
      throw UserError(
          "{}: {} is \"{}\" and device \"{}\": NVIDIA's libraries are on \"cuda\", others have their \"own\" "
          "kernels only",
          place(key), key, provider, c.device);
  check_stages(c, place);
  for (const std::string& stage : c.stages)
    if (c.trains(stage) || stage == "task") check_stage(c, stage, place);
  check_data(c.data, place);
  check_network(c, place);
  if (c.runs("imitate") && c.imitate.parallel == "units") check_parallel_units(c, place);
  if (c.runs("task")) check_task(c, place);
  if (c.cuda_graphs) check_graphs(c, place);
}

}  // namespace taper
