// taper: the command line.

#include <CLI/CLI.hpp>
#include <cstdio>

#include "kernels/backend.h"
#include "recipes/commands.h"
#include "recipes/plan_model.h"
#include "runtime/error.h"

namespace {

constexpr const char* kAbout =
    "Taper trains deep thin networks by going wide first, then narrowing (Zhou et al., ICML 2020):\n"
    "a wide network is trained, the thin one imitates it layer by layer, then learns the labels.\n\n"
    "  taper describe recipes/configurations/fashion-resnet.toml     what it would cost\n"
    "  taper train    recipes/configurations/fashion-resnet.toml     train it: runs/fashion-resnet\n"
    "  taper evaluate runs/fashion-resnet                            accuracy and speed of its networks\n"
    "  taper export   runs/fashion-resnet thin.safetensors           the thin network, for PyTorch\n\n"
    "Exit codes: 0 done, or stopped cleanly by SIGTERM or SIGINT after saving; 2 a mistake in what was "
    "given;\n"
    "1 a failure.";

int run(int argc, char** argv) {
  CLI::App app(kAbout, "taper");
  app.require_subcommand(1);
  app.set_version_flag("--version", TAPER_VERSION);

  taper::TrainArguments train;
  std::string device;
  CLI::App* train_app = app.add_subcommand(
      "train",
      "Train the stages of a configuration into a run directory: config.toml as resolved, metrics.jsonl, "
      "TensorBoard\n"
      "events, checkpoints/, report.html. SIGTERM or SIGINT (Ctrl-C) finishes the step, saves and exits 0.\n"
      "Started by mpirun or srun, several processes train one network, to the same bits:\n\n"
      "  mpirun -n 2 taper train recipes/configurations/fashion-resnet.toml");
  train_app
      ->add_option("configuration", train.configuration, "a TOML file; docs/configuration.md lists every key")
      ->required();
  train_app->add_option("--set", train.overrides, "override a key, e.g. --set wide.epochs=2 (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  train_app->add_option("--output", train.output,
                        "the run directory (default: runs/ and the configuration's file name)");
  train_app->add_flag("--resume", train.resume,
                      "go on from the newest whole checkpoint in the run directory");
  const std::string on_device =
      fmt::format("what computes (this build has {})", fmt::join(taper::devices(), ", "));
  train_app->add_option("--device", device, on_device + "; the same as --set device=...");
  std::string matmul, convolution;
  train_app->add_option(
      "--matmul", matmul,
      "whose matrix products, on the device cuda: own, vendor (cuBLASLt) or auto, which times both; the same "
      "as --set matmul=...");
  train_app->add_option("--convolution", convolution,
                        "whose convolutions: own, vendor (cuDNN) or auto; the same as --set convolution=...");
  train_app->add_option("--providers-from", train.providers_from,
                        "take over what auto chose in this run (its providers.json) instead of timing");

  bool shard_optimizer = false;
  train_app->add_flag(
      "--shard-optimizer", shard_optimizer,
      "of several ranks, each keeps its own part of the optimizer's state (ZeRO stage 1): less "
      "memory, the same bits; the same as --set shard_optimizer=true");

  std::string reduction;
  train_app
      ->add_option("--reduction", reduction,
                   "of several ranks: exact sums gradients to the same bits on any number of them (the "
                   "default), fast by MPI's or NCCL's all-reduce; the same as --set reduction=...")
      ->check(CLI::IsMember({"exact", "fast"}));

  std::filesystem::path path, output;
  bool json = false, best = false;
  CLI::App* evaluate_app = app.add_subcommand(
      "evaluate",
      "Print metrics, loss, parameters, FLOPs and speed of every network in a run, on its test split.\n"
      "Started by mpirun or srun, several processes divide the split and print once, to the same numbers; "
      "each "
      "must see the run directory.");
  evaluate_app->add_option("run", path, "a run directory")->required();
  evaluate_app->add_flag("--json", json, "print JSON");
  std::string task;
  evaluate_app->add_option("--task", task,
                           "of the networks that learnt this task in the stage task, on its test texts");
  const std::string other_device = on_device + "; default: the one that it was trained on";
  evaluate_app->add_option("--device", device, other_device);

  std::vector<std::string> overrides;
  CLI::App* describe_app =
      app.add_subcommand("describe",
                         "Say what a configuration would cost, without training: parameters, FLOPs, memory, "
                         "steps and time of every stage. The time is\n"
                         "estimated from one training step of the thin network, timed here.");
  describe_app->add_option("configuration", path, "a TOML file")->required();
  describe_app->add_option("--set", overrides, "override a key, e.g. --set network.depth=101 (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  describe_app->add_flag("--json", json, "print JSON");

  taper::PlanArguments plan;
  CLI::App* plan_app = app.add_subcommand(
      "plan",
      "Predict a configuration on many ranks, without training and without them: time of a step, share of "
      "communication, memory, time and cost of an epoch.\n"
      "One rank's times are taken here, so plan on the machine, or one of the machines, that will train:\n\n"
      "  taper plan recipes/configurations/imagenet-resnet50.toml --ranks 1,4,8 --link nvlink,ib400\n\n"
      "Links, with the latency and bandwidth in each direction that vendors state; measured ones can be "
      "given "
      "as 30us:1.2GB/s:\n\n" +
          taper::known_links());
  plan_app->add_option("configuration", plan.configuration, "a TOML file")->required();
  plan_app->add_option("--ranks", plan.ranks, "numbers of ranks, powers of two, separated by commas")
      ->required()
      ->delimiter(',');
  plan_app
      ->add_option("--link", plan.links,
                   "what joins ranks of a node, and after a comma what joins nodes (each node has one)")
      ->required()
      ->delimiter(',');
  plan_app->add_option("--per-node", plan.per_node, "ranks of a node (default: 8)");
  plan_app->add_option("--price", plan.price, "what a rank costs an hour, in any currency")
      ->check(CLI::NonNegativeNumber);
  plan_app->add_option("--set", plan.overrides, "override a key, e.g. --set shards=64 (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  plan_app->add_flag("--json", plan.json, "print JSON");

  std::string network = "thin";
  CLI::App* export_app = app.add_subcommand(
      "export",
      "Write a network of a run as safetensors with torchvision's tensor names (filters [K, C, R, S]); the "
      "thin one with its bridges merged.\n"
      "In PyTorch: model.load_state_dict(safetensors.torch.load_file(FILE), strict=True).\n"
      "A BERT is written as transformers keeps it: give a folder, for "
      "AutoModelForMaskedLM.from_pretrained(FOLDER), "
      "or a\n"
      "*.safetensors file, beside which config.json, vocab.txt and tokenizer_config.json go.");
  export_app->add_option("run", path, "a run directory")->required();
  export_app->add_option("output", output, "the file to write; of a BERT a folder or a file")->required();
  export_app->add_option("--task", task, "as it learnt this task in the stage task");
  export_app->add_option("--network", network, "which network (default: thin)")
      ->check(CLI::IsMember({"thin", "wide", "baseline"}));
  export_app->add_option("--device", device, other_device);
  export_app->add_flag("--best", best, "from its best evaluation rather than its last state");

  std::vector<std::filesystem::path> runs;
  CLI::App* report_app =
      app.add_subcommand("report",
                         "Write one report.html for several runs that differ in their seed: means and "
                         "standard deviations. (train writes each run's own.)");
  report_app->add_option("output", output, "the HTML file to write")->required();
  report_app->add_option("runs", runs, "run directories")->required();

  taper::EncodeArguments encode;
  CLI::App* tokenizer_app = app.add_subcommand("tokenizer", "Text into BERT's tokens.");
  tokenizer_app->require_subcommand(1);
  std::vector<std::filesystem::path> texts;
  int64_t vocabulary_size = 30522;
  CLI::App* learn_app = tokenizer_app->add_subcommand(
      "train",
      "Learn a WordPiece vocabulary from UTF-8 text files and write it as vocab.txt, the last name:\n\n"
      "  taper tokenizer train --vocab-size 8000 corpus/*.txt vocab.txt\n\n"
      "[PAD], [UNK], [CLS], [SEP] and [MASK] come first, then the 1,000 most frequent characters, then what "
      "merging "
      "the most frequent pairs gives, down to pairs\nthat occur twice. The same text gives the same file. "
      "Words count "
      "only within a file's lines; a line may have 16 MiB.");
  learn_app->add_option("files", texts, "text files, and last the vocab.txt to write")
      ->required()
      ->expected(2, -1);
  learn_app->add_option("--vocab-size", vocabulary_size, "tokens in all (default: 30522, as BERT has)")
      ->check(CLI::Range(int64_t{6}, int64_t{10'000'000}));
  learn_app->add_flag("--cased,!--uncased", encode.cased, "keep upper case and accents (default: --uncased)");
  CLI::App* encode_app = tokenizer_app->add_subcommand(
      "encode",
      "Read text from standard input and print the token ids of each line, [CLS] first and [SEP] last, as "
      "Hugging "
      "Face's tokenizers give them:\n\n"
      "  taper tokenizer encode vocab.txt < text                    101 7592 102\n"
      "  taper tokenizer encode vocab.txt --offsets < text          101:0-0 7592:0-5 102:0-0\n"
      "  taper tokenizer encode vocab.txt --json < text             "
      "{\"ids\":[101,...],\"tokens\":[\"[CLS]\",...]}\n\n"
      "A word that the vocabulary cannot spell, or of more than 100 characters, is [UNK]; \"[MASK]\" in the "
      "text is "
      "the token.");
  encode_app->add_option("vocabulary", path, "a vocab.txt: one token a line, its id the line's number from 0")
      ->required();
  encode_app->add_flag("--cased,!--uncased", encode.cased,
                       "keep upper case and accents, for a cased vocabulary (default: --uncased)");
  encode_app->add_flag("--offsets", encode.offsets, "the characters BEGIN-END of the line behind each token");
  encode_app->add_flag("--json", encode.json,
                       "print one JSON object a line: ids, tokens, and offsets where asked");
  encode_app->add_flag(
      "--replace", encode.replace,
      "let U+FFFD, which has no token, stand for bytes that are not UTF-8 (default: stop there)");

  taper::PredictArguments predict;
  CLI::App* predict_app = app.add_subcommand(
      "predict",
      "Read texts from standard input and print the label of each and its probability (a tab between; of a "
      "regression the "
      "number):\n\n"
      "  taper predict runs/bert-mini --task sentiment < sentences.txt        positive 0.9731\n\n"
      "Where the task is about pairs, a line is two texts with a tab between. What is longer than the task's "
      "sequences loses "
      "its end.\n\n"
      "Where the task is questions (squad, squad_v2), a line is a question and its context with a tab "
      "between. The answer, a part of\nthe context, is printed with its probability; of squad_v2 it is "
      "empty where the context holds none:\n\n"
      "  printf 'Who carries it?\\tThe old ferryman carries it.\\n' | taper predict runs/bert-mini --task "
      "squad");
  predict_app
      ->add_option("run", predict.run,
                   "a run directory with the stage task, or one whose data are labelled texts or questions")
      ->required();
  predict_app->add_option("--task", predict.task, "which of the run's tasks");
  predict_app
      ->add_option("--network", predict.network,
                   "from whose encoder it was learnt (default: the first of task.networks)")
      ->check(CLI::IsMember({"thin", "wide", "baseline"}));
  predict_app->add_option("--device", predict.device, other_device);
  predict_app->add_flag(
      "--json", predict.json,
      "print one JSON object a line: line, label, probabilities; of questions line, answer, probability");

  taper::ReadArguments read;
  const auto reads = [&](CLI::App* reader) {
    reader
        ->add_option("model", read.model,
                     "a folder with config.json, model.safetensors and vocab.txt as transformers saves them, "
                     "or a run directory")
        ->required();
    reader->add_option("--network", read.network, "which network of a run (default: thin, else baseline)")
        ->check(CLI::IsMember({"thin", "wide", "baseline"}));
    reader->add_option("--device", read.device, on_device + "; default: the run's own, or the CPU");
    reader->add_flag("--truncate", read.truncate,
                     "leave out the last tokens of a line that has more than the network's positions "
                     "(default: stop there)");
  };
  CLI::App* embed_app = app.add_subcommand(
      "embed",
      "Read sentences from standard input and print the vector of each: the mean over its tokens, [CLS] and "
      "[SEP] "
      "too, of the last\nlayer's output. The cosine of two vectors says how alike the sentences are.\n\n"
      "  scripts/fetch-weights.sh; taper embed .cache/minilm < sentences.txt > vectors.txt");
  reads(embed_app);
  embed_app->add_flag("--json", read.json, "print a JSON list a line (default: numbers with spaces between)");
  int64_t top = 5;
  CLI::App* fill_app = app.add_subcommand("fill-mask",
                                          "Read lines with [MASK] in them from standard input and print the "
                                          "most probable words for each [MASK], on a line "
                                          "with\ntheir probabilities:\n\n  echo 'The capital of France is "
                                          "[MASK].' | taper fill-mask runs/bert-mini");
  reads(fill_app);
  fill_app->add_option("--top", top, "how many words (default: 5)")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}));
  fill_app->add_flag("--json", read.json, "print one JSON object for each [MASK]: line, mask, words");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty())
      throw taper::UserError(
          "there is no command \"{}\"; there are train, evaluate, describe, plan, export, report, predict, "
          "embed, fill-mask and tokenizer",
          argv[1]);
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!*train_app && !*evaluate_app) taper::require_one_rank(app.get_subcommands().front()->get_name());
  if (*train_app) {
    for (const auto& [key, value] : {std::pair{"device", device},
                                     {"matmul", matmul},
                                     {"convolution", convolution},
                                     {"reduction", reduction}})
      if (!value.empty()) train.overrides.push_back(key + ("=" + value));
    if (shard_optimizer) train.overrides.emplace_back("shard_optimizer=true");
    for (int i = 0; i < argc; ++i) train.command += (i > 0 ? " " : "") + std::string(argv[i]);
    taper::train_command(train);
  } else if (*evaluate_app) {
    taper::evaluate_command({path, task, device, json});
  } else if (*describe_app) {
    taper::describe_command(path, overrides, json);
  } else if (*plan_app) {
    taper::plan_command(plan);
  } else if (*export_app) {
    taper::export_command({path, output, network, task, device, best});
  } else if (*report_app) {
    taper::report_command(output, runs);
  } else if (*predict_app) {
    taper::predict_command(predict);
  } else if (*embed_app) {
    taper::embed_command(read);
  } else if (*fill_app) {
    taper::fill_mask_command(read, top);
  } else if (*learn_app) {
    path = texts.back();
    texts.pop_back();
    taper::tokenizer_train_command(texts, path, vocabulary_size, encode.cased);
  } else if (*encode_app) {
    taper::tokenizer_encode_command(path, encode);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const taper::Error& error) {
    std::fprintf(stderr, "taper: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "taper: %s\n", error.what());
    return 1;
  }
}
