#include "recipes/config_fields.h"

#include <cmath>

#include "runtime/error.h"

namespace taper {
namespace {

const Limits kNotNegative = {.least = 0};
const Limits kPositive = {.least = 0, .least_excluded = true};
const Limits kFromOne = {.least = 1};
const Limits kFraction = {.least = 0, .most = 1, .most_excluded = true};

Section augmentation(AugmentationOptions& options) {
  return {"augmentation",
          "What is done to a training image; evaluation never crops at random or flips. Text has none.",
          {{"crop",
            &options.crop,
            "`pad`: pad, then crop back at random; `random_resized`: torchvision's RandomResizedCrop.",
            {},
            {"none", "pad", "random_resized"}},
           {"padding", &options.padding, "Pixels added on each side by `crop = \"pad\"`.", {0, 1024}},
           {"flip", &options.flip, "Mirror half of the images left to right."}}};
}

std::vector<Field> stage_fields(StageOptions& options) {
  return {
      {"epochs", &options.epochs, "Length in passes over the training data; 0: `steps` says it.",
       kNotNegative},
      {"steps", &options.steps, "Length in steps; 0: `epochs` says it.", kNotNegative},
      {"batch_size",
       &options.batch_size,
       "Images, or sequences, in one step, over all shards.",
       {1, 1 << 20}},
      {"optimizer",
       &options.optimizer,
       "`adamw` and `lamb` use betas and eps; `sgd` momentum and nesterov.",
       {},
       {"sgd", "adamw", "lamb"}},
      {"lr", &options.lr, "Peak learning rate.", kPositive},
      {"momentum", &options.momentum, "SGD's momentum, PyTorch's convention.", kFraction},
      {"nesterov", &options.nesterov, "Nesterov's form of momentum."},
      {"betas", &options.betas, "AdamW's and LAMB's two decay rates.", kFraction, {}, 2},
      {"eps", &options.eps, "AdamW's and LAMB's epsilon.", kPositive},
      {"weight_decay", &options.weight_decay, "L2 for `sgd`, decoupled for `adamw` and `lamb`.",
       kNotNegative},
      {"decay_norms_and_biases", &options.decay_norms_and_biases,
       "Whether weight decay reaches normalisation parameters and biases, as PyTorch's default does."},
      {"schedule",
       &options.schedule,
       "Of the learning rate, after the warm-up.",
       {},
       {"step", "cosine", "linear", "constant"}},
      {"warmup_epochs", &options.warmup_epochs, "Linear warm-up from 0, in epochs.", kNotNegative},
      {"warmup_steps", &options.warmup_steps, "Linear warm-up from 0, in steps.", kNotNegative},
      {"milestones", &options.milestones, "Epochs at which the `step` schedule multiplies by `gamma`.",
       kFromOne},
      {"gamma",
       &options.gamma,
       "Factor of the `step` schedule.",
       {.least = 0, .most = 1, .least_excluded = true}},
      {"clip_norm", &options.clip_norm, "Largest global norm of the gradient; 0: not clipped.", kNotNegative},
      {"ema_decay", &options.ema_decay,
       "Decay of the moving average of weights, which is then evaluated and kept; 0: none.", kFraction},
      {"evaluate_every", &options.evaluate_every, "Steps between evaluations; 0: after each epoch.",
       kNotNegative},
      {"checkpoint_every", &options.checkpoint_every, "Steps between checkpoints; 0: after each epoch.",
       kNotNegative},
  };
}

Field label_smoothing(StageOptions& options) {
  return {"label_smoothing", &options.label_smoothing, "Share of the target spread over all classes.",
          kFraction};
}

Field layer_decay(StageOptions& options) {
  return {
      "layer_decay",
      &options.layer_decay,
      "Factor of the learning rate from each block to the one below it; the head has the full rate (timm's).",
      {.least = 0, .most = 1, .least_excluded = true}};
}

Section stage(std::string key, std::string meaning, StageOptions& options, std::vector<Field> own) {
  Section section{
      std::move(key), std::move(meaning), stage_fields(options), {augmentation(options.augmentation)}};
  section.fields.insert(section.fields.end(), own.begin(), own.end());
  return section;
}

std::vector<Field> example_fields(ExampleOptions& options) {
  return {
      {"sequence_length",
       &options.sequence_length,
       "Of text: tokens of a sequence, with [CLS] and [SEP] (`max_seq_length`); 0: 384 for `squad`, else "
       "128.",
       {0, 4096}},
      {"text", &options.text, "Of `tsv` and `csv`: the column with the text."},
      {"pair", &options.pair, "Of `tsv` and `csv`: the column with a second text; empty: there is none."},
      {"label", &options.label, "Of `tsv` and `csv`: the column with the label."},
      {"regression", &options.regression, "Of `tsv` and `csv`: labels are numbers to predict, not classes."},
      {"doc_stride", &options.doc_stride,
       "Of `squad`: tokens from the start of one window of a long context to that of the next.", kFromOne},
      {"n_best_size",
       &options.n_best_size,
       "Of `squad`: the most probable starts and ends that are combined into answers.",
       {1, 4096}},
      {"max_answer_length", &options.max_answer_length, "Of `squad`: tokens of the longest answer.",
       kFromOne},
      {"null_score_diff_threshold", &options.null_score_diff_threshold,
       "Of `squad_v2`: no answer is given where that scores higher than the best answer by more than this."},
  };
}

Section with_fields(Section section, std::vector<Field> more) {
  section.fields.insert(section.fields.end(), more.begin(), more.end());
  return section;
}

Section data(DataOptions& options) {
  return {
      "data",
      "The images, or the text to pre-train on. Paths are relative to the working directory.",
      {{"format",
        &options.format,
        "Images: `idx` as MNIST's, CIFAR's binary files, or a folder per class. `text`: masked words to "
        "guess. Labelled text: tables with a header (`tsv`, `csv`), or GLUE's files (`glue`). Questions: "
        "SQuAD 1.1 (`squad`), or 2.0, where a context may hold no answer (`squad_v2`).",
        {},
        {"idx", "cifar10", "cifar100", "folder", "text", "tsv", "csv", "glue", "squad", "squad_v2"}},
       {"path", &options.path,
        "The folder that holds the files (for `folder`: `train/` and `val/`); for `text` a file, or a folder "
        "with `.txt` files at any depth; for `tsv` and `csv` a folder with `train.tsv` and `test.tsv` (or "
        "`.csv`); for "
        "`glue` a task's folder, named as GLUE names it (`MRPC`), with `train.tsv` and `dev.tsv`; for "
        "`squad` a folder with `train-v1.1.json` and `dev-v1.1.json`, for `squad_v2` with `train-v2.0.json` "
        "and "
        "`dev-v2.0.json`."},
       {"train_limit", &options.train_limit, "Use only so many training images or sequences; 0: all.",
        kNotNegative},
       {"test_limit", &options.test_limit, "Use only so many test images or sequences; 0: all.",
        kNotNegative},
       {"channels", &options.channels, "1 (grey) or 3 (RGB); 0: as stored.", {0, 3}},
       {"image_size", &options.image_size, "Height and width fed to the network; 0: as stored.", {0, 4096}},
       {"mean", &options.mean, "Subtracted per channel, for pixels in 0..1; empty: nothing."},
       {"std", &options.std, "Divides per channel, for pixels in 0..1; empty: nothing.", kPositive},
       {"threads",
        &options.threads,
        "Background threads that decode and augment; no effect on the numbers.",
        {1, 1024}},
       {"on_error",
        &options.on_error,
        "What an image that cannot be decoded does (`stop`, `skip`: skipped ones are counted), or text that "
        "is "
        "not UTF-8 (`stop`, `replace`: by U+FFFD).",
        {},
        {"stop", "skip", "replace"}},
       {"vocabulary", &options.vocabulary, "Of text: the WordPiece vocabulary, a `vocab.txt`."},
       {"cased", &options.cased, "Keep upper case and accents of text: the vocabulary has them."},
       {"test_share",
        &options.test_share,
        "Share of the text's sequences that is held out as the test split.",
        {.least = 0, .most = 0.5, .least_excluded = true}},
       {"mask_probability",
        &options.mask_probability,
        "Share of a sequence's tokens to be guessed; 80 % of them become [MASK], 10 % any token.",
        {.least = 0, .most = 0.9, .least_excluded = true}},
       {"whole_word_masking", &options.whole_word_masking, "Mask all tokens of a word, or none."},
       {"cache", &options.cache, "The folder in which tokenised text is kept."},
       {"test_file", &options.test_file,
        "Of labelled text and questions: another file of the folder to test on (`dev_mismatched.tsv`)."}}};
}

Section network(NetworkOptions& options) {
  return {
      "network",
      "The thin network: what comes out in the end.",
      {{"kind", &options.kind, "`plain` is a ResNet without shortcuts.", {}, {"resnet", "plain", "bert"}},
       {"style",
        &options.style,
        "`imagenet`: 7x7 stem and pooling, 4 stages; `cifar`: 3x3 stem, 3 stages.",
        {},
        {"imagenet", "cifar"}},
       {"block", &options.block, "Kind of block.", {}, {"basic", "bottleneck"}},
       {"depth",
        &options.depth,
        "The literature's layer count: 18, 34, 50, 101, 152; CIFAR 6n+2 (basic), 9n+2 (bottleneck). 0: "
        "`depths` "
        "says it.",
        {0, 10000}},
       {"depths", &options.depths, "Blocks in each ResNet stage; empty: `depth` says it.", {1, 10000}},
       {"width",
        &options.width,
        "Channels of the first ResNet stage; 0: the style's own, 64 or 16.",
        {0, 1 << 16}},
       {"activation", &options.activation, "Activation function.", {}, {"relu", "tanh"}},
       {"classes", &options.classes, "Number of classes; 0: as the data has.", {0, 1 << 20}},
       {"zero_init_residual", &options.zero_init_residual,
        "Start each block's last normalisation scale at 0 (Goyal et al. 2017)."},
       {"hidden_size", &options.hidden_size, "BERT: features of a token.", {1, 1 << 16}},
       {"num_hidden_layers", &options.num_hidden_layers, "BERT: encoder layers.", {1, 10000}},
       {"num_attention_heads",
        &options.num_attention_heads,
        "BERT: heads, which share `hidden_size`.",
        {1, 4096}},
       {"intermediate_size",
        &options.intermediate_size,
        "BERT: width of the feed-forward layers.",
        {1, 1 << 20}},
       {"max_position_embeddings", &options.max_position_embeddings, "BERT: longest sequence.", {1, 1 << 20}},
       {"type_vocab_size", &options.type_vocab_size, "BERT: kinds of segments.", {1, 1024}},
       {"vocab_size", &options.vocab_size, "BERT: tokens; 0: as the vocabulary has.", {0, 1 << 24}},
       {"hidden_act", &options.hidden_act, "BERT: `gelu_new` is GELU by its tanh.", {}, {"gelu", "gelu_new"}},
       {"hidden_dropout_prob", &options.hidden_dropout_prob,
        "BERT: dropout of embeddings and layers' outputs.", kFraction},
       {"attention_probs_dropout_prob", &options.attention_probs_dropout_prob,
        "BERT: dropout of attention probabilities.", kFraction},
       {"layer_norm_eps", &options.layer_norm_eps, "BERT: added to variances.", kPositive},
       {"initializer_range", &options.initializer_range, "BERT: standard deviation of initial weights.",
        kPositive},
       {"encoder", &options.encoder,
        "BERT: a safetensors file with transformers' names, from which the stages `baseline` and `wide` "
        "start; what it "
        "lacks of a head starts at random. Empty: all does."}}};
}

}  // namespace

bool Limits::hold(double value) const {
  return std::isfinite(value) && (least_excluded ? value > least : value >= least) &&
         (most_excluded ? value < most : value <= most);
}

std::string Limits::text() const {
  std::string text;
  if (std::isfinite(least)) text = fmt::format("{} {}", least_excluded ? "above" : "at least", least);
  if (std::isfinite(most))
    text += fmt::format("{}{} {}", text.empty() ? "" : " and ", most_excluded ? "below" : "at most", most);
  return text;
}

Section describe(Configuration& c) {
  Section top{
      "",
      "",
      {{"name", &c.name, "Title of the run; empty: the file's name."},
       {"seed", &c.seed, "Of every random number.", kNotNegative},
       {"device",
        &c.device,
        "What computes: the CPU by its own kernels, a GPU (`cuda`), or the CPU by the GPU's kernels (`sim`: "
        "slow, for tests). A build has `cpu` and at most one of the others.",
        {},
        {"cpu", "sim", "cuda"}},
       {"precision",
        &c.precision,
        "Of activations and their gradients; master weights are always f32. `tf32`: all is f32, and tensor "
        "cores multiply matrices and convolutions, rounded to tf32; on `cuda` and `sim`.",
        {},
        {"f32", "bf16", "tf32"}},
       {"matmul",
        &c.matmul,
        "Whose matrix products, on `cuda`: Taper's `own`, the `vendor`'s (cuBLASLt), or `auto`, both timed "
        "once for each shape and the faster taken; of several ranks the first does so, at the beginning of a "
        "stage or unit. The choices are in the run's `providers.json`.",
        {},
        {"own", "vendor", "auto"}},
       {"convolution",
        &c.convolution,
        "Whose convolutions: the same, with cuDNN. Of bf16, cuDNN rounds filter gradients to bf16.",
        {},
        {"own", "vendor", "auto"}},
       {"shards",
        &c.shards,
        "Parts of each batch, a power of two. It is part of the result; how many run at once is not.",
        {1, 1 << 16}},
       {"threads_per_shard",
        &c.threads_per_shard,
        "Threads of one shard; part of the result too.",
        {1, 1024}},
       {"rank_timeout",
        &c.rank_timeout,
        "Seconds that one of several ranks may keep the others waiting; then all end with an error. May "
        "differ when a run "
        "is resumed.",
        {1, 1 << 20}},
       {"shard_optimizer", &c.shard_optimizer,
        "Of several ranks: each keeps its own part of the optimizer's state (ZeRO stage 1), which needs less "
        "memory and changes no bit. May differ when a run is resumed."},
       {"reduction",
        &c.reduction,
        "How gradients and statistics are summed over several ranks: `exact`, in a fixed tree, to the same "
        "bits on any number of them; or `fast`, by MPI's or NCCL's own all-reduce, in an order of its "
        "choice.",
        {},
        {"exact", "fast"}},
       {"cuda_graphs", &c.cuda_graphs,
        "On `cuda`, of ResNets: the passes of a shard are recorded once and then started as one (CUDA "
        "graphs), which spares the host's time and changes no bit. May differ when a run is resumed."},
       {"stages",
        &c.stages,
        "The stages to run, in order.",
        {},
        {"baseline", "wide", "imitate", "match", "finetune", "merge", "task"}}}};
  top.sections.push_back(with_fields(data(c.data), example_fields(c.data)));
  top.sections.push_back(network(c.network));
  top.sections.push_back(
      {"widen",
       "How the thin network is widened.",
       {{"kind",
         &c.widen.kind,
         "`inner`: only inside each block (of BERT: heads, of unchanged size, and `intermediate_size`); "
         "`full`: every width.",
         {},
         {"inner", "full"}},
        {"factor", &c.widen.factor, "Wide over thin channels; must give whole numbers.", {1, 1024}}}});
  top.sections.push_back(stage("baseline", "The thin network trained from scratch.", c.baseline,
                               {label_smoothing(c.baseline), layer_decay(c.baseline)}));
  top.sections.push_back(stage(
      "wide", "Stage 1: the wide network trained as usual.", c.wide,
      {label_smoothing(c.wide),
       layer_decay(c.wide),
       {"weights", &c.wide.weights, "A safetensors file with the wide network, instead of training it."}}));
  top.sections.push_back(stage(
      "imitate",
      "Stage 2: unit by unit, the thin network learns the wide one's outputs. Lengths are per unit, but in "
      "the "
      "order `together` of the whole stage.",
      c.imitate,
      {{"input",
        &c.imitate.input,
        "A unit reads the thin prefix's output, or the wide network's, projected.",
        {},
        {"sequential", "teacher"}},
       {"unit",
        &c.imitate.unit,
        "What is imitated at a time: a block (of BERT: an encoder layer), or a whole ResNet stage (all of "
        "them).",
        {},
        {"block", "stage"}},
       {"order",
        &c.imitate.order,
        "Unit after unit, each with the whole length; or all units in every step, each still on its own "
        "loss.",
        {},
        {"bottom_up", "together"}},
       {"parallel",
        &c.imitate.parallel,
        "What several ranks divide: each batch (`data`); or the units, which with `teacher` input do not "
        "wait for "
        "each other (`units`), and batches where there are more ranks than units. No bit depends on it.",
        {},
        {"data", "units"}},
       {"bridges",
        &c.imitate.bridges,
        "Linear maps between widths under `widen.kind = \"full\"`.",
        {},
        {"tied", "free"}},
       {"bridge_samples", &c.imitate.bridge_samples,
        "Images or sequences from which tied bridges are computed, and on which imitation errors are "
        "measured.",
        kFromOne},
       {"statistics_batches", &c.imitate.statistics_batches,
        "Batches from which batch-norm statistics are estimated anew afterwards; 0: not.", kNotNegative},
       {"attention", &c.imitate.attention,
        "Of a BERT: weight of the divergence (KL) of the thin network's attention from the wide one's, "
        "beside "
        "that of outputs; 0: not compared.",
        kNotNegative}}));
  top.sections.push_back(stage(
      "match",
      "The thin network learns the wide one's class probabilities (KL), of text at the masked tokens.",
      c.match,
      {{"temperature", &c.match.temperature, "Softens both softmaxes.", kPositive}, layer_decay(c.match)}));
  top.sections.push_back(stage("finetune", "Stage 3: the thin network learns the labels.", c.finetune,
                               {label_smoothing(c.finetune), layer_decay(c.finetune)}));
  top.sections.push_back(with_fields(
      stage("task",
            "After pre-training on text: tasks, each learnt from each network's encoder, in a run of its own "
            "in `tasks/NAME/NETWORK` of "
            "the run's folder.",
            c.task,
            {label_smoothing(c.task),
             {"names", &c.task.names, "The tasks: folders in `path`."},
             {"networks", &c.task.networks, "Whose encoders learn them.", {}, {"baseline", "wide", "thin"}},
             {"format", &c.task.format, "As `data.format`.", {}, {"tsv", "csv", "glue", "squad", "squad_v2"}},
             {"path", &c.task.path, "The folder that holds the tasks' folders."}}),
      example_fields(c.task)));
  top.sections.push_back(
      {"checkpoint",
       "What is kept; the best one always is.",
       {{"keep_last", &c.checkpoint.keep_last, "Most recent checkpoints kept.", {1, 1000}}}});
  return top;
}

std::string type_name(const FieldValue& value) {
  static constexpr const char* kNames[] = {"boolean",          "integer",         "number",         "string",
                                           "list of integers", "list of numbers", "list of strings"};
  return kNames[value.index()];
}

}  // namespace taper
