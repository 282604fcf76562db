#include "recipes/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "runtime/error.h"

namespace taper {
namespace {

using testing::HasSubstr;

const std::string kSource = TAPER_SOURCE_DIR;

/// Lines 1 to 14; cases append from line 15 on.
constexpr const char* kValid =
    "shards = 2\n"
    "stages = ['wide', 'imitate']\n"
    "[data]\n"
    "path = '/images'\n"
    "[network]\n"
    "style = 'cifar'\n"
    "block = 'basic'\n"
    "depth = 20\n"
    "[wide]\n"
    "epochs = 4\n"
    "lr = 0.05\n"
    "[imitate]\n"
    "steps = 10\n"
    "unit = 'stage'\n";

Configuration valid(const std::vector<std::string>& overrides = {}) {
  return parse_configuration(kValid, "x.toml", overrides);
}

std::string message_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_configuration(text, "x.toml", overrides);
  } catch (const UserError& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "(no error)";
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST(Config, ReadsValuesAndKeepsDefaults) {
  Configuration c = valid();
  EXPECT_EQ(c.name, "x");
  EXPECT_EQ(c.stages, (std::vector<std::string>{"wide", "imitate"}));
  EXPECT_EQ(c.network.depth, 20);
  EXPECT_EQ(c.network.width, 16) << "the CIFAR style's own width";
  EXPECT_EQ(c.wide.epochs, 4);
  EXPECT_EQ(c.wide.lr, 0.05);
  EXPECT_EQ(c.wide.momentum, 0.9);
  EXPECT_EQ(c.imitate.steps, 10);
  EXPECT_EQ(c.imitate.unit, "stage");
  EXPECT_EQ(c.imitate.input, "sequential");
  EXPECT_EQ(&c.stage("wide"), &c.wide);
  EXPECT_EQ(&c.stage("imitate"), &c.imitate);
  EXPECT_TRUE(c.runs("wide"));
  EXPECT_FALSE(c.runs("merge"));
  EXPECT_THROW(c.stage("merge"), Failure);
}

TEST(Config, EveryShippedFileReads) {
  for (const char* name : {"fashion-resnet", "imagenet-resnet50", "tiny-resnet"}) {
    SCOPED_TRACE(name);
    Configuration c = read_configuration(kSource + "/recipes/configurations/" + name + ".toml");
    EXPECT_FALSE(c.stages.empty());
  }
}

// What a published description of the paper's ImageNet protocol states.
TEST(Config, ImageNetFileIsThePapersProtocol) {
  Configuration c = read_configuration(kSource + "/recipes/configurations/imagenet-resnet50.toml");
  EXPECT_EQ(blocks_per_stage(c.network), (std::vector<int64_t>{3, 4, 6, 3}));
  EXPECT_EQ(c.network.width, 64);
  EXPECT_EQ(c.widen.kind, "inner");
  EXPECT_EQ(c.widen.factor, 4);
  EXPECT_EQ(c.wide.epochs, 90);
  EXPECT_EQ(c.wide.batch_size, 256);
  EXPECT_EQ(c.wide.lr, 0.1);
  EXPECT_EQ(c.wide.weight_decay, 1e-4);
  EXPECT_EQ(c.wide.warmup_epochs, 5);
  EXPECT_EQ(c.wide.milestones, (std::vector<int64_t>{30, 60, 80}));
  EXPECT_EQ(c.imitate.epochs, 10);
  EXPECT_EQ(c.imitate.unit, "stage");
  EXPECT_EQ(c.imitate.weight_decay, 0);
  EXPECT_EQ(c.imitate.schedule, "cosine");
  EXPECT_EQ(c.match.epochs, 50);
  EXPECT_EQ(c.match.schedule, "cosine");
  EXPECT_EQ(c.match.temperature, 1);
  EXPECT_EQ(c.finetune.epochs, 30);
  for (const char* stage : {"wide", "imitate", "match"}) EXPECT_EQ(c.stage(stage).lr, 0.1) << stage;
}

TEST(Config, TheErrorNamesPlaceKeyAndRemedy) {
  struct Case {
    const char* added;  // after kValid's 14 lines
    std::vector<const char*> parts;
  };
  const std::vector<Case> cases = {
      // misspelt keys, at each level
      {"[wide.augmentation]\nflipp = true\n",
       {"x.toml:16:", "wide.augmentation.flipp", "is wide.augmentation.flip"}},
      {"inputt = 'teacher'\n", {"x.toml:15:", "imitate.inputt", "is imitate.input"}},
      {"weightdecay = 0.1\n", {"x.toml:15:", "imitate.weightdecay", "is imitate.weight_decay"}},
      {"label_smoothing = 0.1\n", {"x.toml:15:", "imitate.label_smoothing", "is baseline.label_smoothing"}},
      {"[widdn]\n", {"x.toml:15:", "widdn", "is wide"}},
      {"[checkpoints]\nkeep_last = 1\n", {"x.toml:15:", "checkpoints", "is checkpoint"}},
      {"[checkpoint]\nkeeplast = 1\n", {"x.toml:16:", "checkpoint.keeplast", "is checkpoint.keep_last"}},
      // wrong types
      {"epochs = '4'\n", {"x.toml:15:", "imitate.epochs", "the string \"4\"", "expected an integer"}},
      {"epochs = 1.5\n", {"x.toml:15:", "imitate.epochs", "the number 1.5", "expected an integer"}},
      {"nesterov = 1\n", {"x.toml:15:", "imitate.nesterov", "the integer 1", "expected a boolean"}},
      {"lr = true\n", {"x.toml:15:", "imitate.lr", "the boolean true", "expected a number"}},
      {"milestones = 3\n", {"x.toml:15:", "imitate.milestones", "the integer 3", "list of integers"}},
      {"milestones = [\n1,\n'x']\n",
       {"x.toml:15:", "imitate.milestones[1]", "the string \"x\"", "an integer"}},
      {"augmentation = 1\n", {"x.toml:15:", "imitate.augmentation", "the integer 1", "expected a table"}},
      {"schedule = 2024-01-01\n", {"x.toml:15:", "imitate.schedule", "date or time", "expected a string"}},
      {"[[checkpoint]]\n", {"x.toml:15:", "checkpoint", "a list", "expected a table"}},
      {"epochs = {}\n", {"x.toml:15:", "imitate.epochs", "a table", "expected an integer"}},
      // out of range
      {"lr = 0.0\n", {"x.toml:15:", "imitate.lr", "above 0"}},
      {"lr = -1\n", {"x.toml:15:", "imitate.lr", "the integer -1", "above 0"}},
      {"lr = inf\n", {"x.toml:15:", "imitate.lr", "out of range"}},
      {"weight_decay = nan\n", {"x.toml:15:", "imitate.weight_decay", "out of range"}},
      {"momentum = 1.0\n", {"x.toml:15:", "imitate.momentum", "below 1"}},
      {"batch_size = 0\n", {"x.toml:15:", "imitate.batch_size", "at least 1"}},
      {"epochs = -1\n", {"x.toml:15:", "imitate.epochs", "at least 0"}},
      {"milestones = [0]\n", {"x.toml:15:", "imitate.milestones[0]", "at least 1"}},
      {"betas = [0.9]\n", {"x.toml:15:", "imitate.betas", "1 elements", "expected 2"}},
      {"schedule = 'cosin'\n", {"x.toml:15:", "imitate.schedule", "cosin", "step, cosine, linear, constant"}},
      {"[checkpoint]\nkeep_last = 0\n", {"x.toml:16:", "checkpoint.keep_last", "at least 1"}},
      // settings that contradict each other
      {"epochs = 1\n", {"x.toml:13:", "imitate.epochs and imitate.steps are both set"}},
      {"warmup_steps = 1\nwarmup_epochs = 1\n",
       {"x.toml:15:", "imitate.warmup_epochs and imitate.warmup_steps"}},
      {"warmup_steps = 10\n", {"x.toml:15:", "imitate.warmup_steps is 10", "only 10 steps"}},
      {"batch_size = 1\n", {"x.toml:15:", "imitate.batch_size is 1", "2 shards"}},
      {"schedule = 'step'\n", {"x.toml:15:", "without milestones"}},
      {"schedule = 'step'\nmilestones = [2, 2]\n", {"x.toml:16:", "must increase"}},
      {"nesterov = true\nmomentum = 0.0\n", {"x.toml:15:", "nesterov needs momentum"}},
      {"[widen]\nfactor = 1.3\n", {"x.toml:16:", "layer1.0.conv1", "16 channels", "20.8"}},
      {"[widen]\nkind = 'full'\nfactor = 1.3\n", {"x.toml:17:", "conv1", "20.8"}},
      // not TOML
      {"lr = \n", {"x.toml:15:", "not TOML"}},
      {"lr = 1.0\nlr = 2.0\n", {"x.toml:16:", "not TOML"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.added);
    std::string message = message_of(std::string(kValid) + test.added);
    for (const char* part : test.parts) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Config, TheErrorNamesTheNetworksAndTheDatasMistakes) {
  struct Case {
    const char* setting;
    const char* part;
  };
  const std::vector<Case> cases = {
      {"shards=3", "power of two"},
      {"precision=tf32", "the devices \"cuda\" and \"sim\" have it"},
      {"matmul=vendor", "matmul is \"vendor\" and device \"cpu\""},
      {"convolution=auto", "others have their \"own\" kernels only"},
      {"matmul=nvidia", "expected one of: own, vendor, auto"},
      {"device=gpu", "expected one of: cpu, sim, cuda"},
      {"network.depth=21", "6n + 2"},
      {"network.depth=0", "neither network.depth nor network.depths"},
      {"network.depths=[1,2,3]", "both set"},
      {"network.classes=1", "at least 2"},
      {"data.path=", "data.path is not set"},
      {"data.channels=2", "data.channels is 2"},
      {"data.mean=[0.5]", "data.mean has 1 values and data.std has 0"},
      {"data.format=folder", "data.image_size must be set"},
      {"data.std=[0.0]", "above 0"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.setting);
    EXPECT_THAT(message_of(kValid, {test.setting}), HasSubstr(test.part));
  }
  for (const char* device : {"device=sim", "device=cuda"})
    EXPECT_EQ(parse_configuration(kValid, "x.toml", {"precision=tf32", device}).precision, "tf32");
  EXPECT_THAT(message_of(kValid, {"network.style=imagenet", "network.depth=50"}), HasSubstr("18 and 34"));
  EXPECT_THAT(message_of(kValid, {"network.block=bottleneck", "network.depth=32"}), HasSubstr("9n + 2"));
}

TEST(Config, GraphsAreRefusedWhereThereIsNothingToRecordOrTooMuch) {
  const std::string prefix = "cuda_graphs = true and ";
  EXPECT_THAT(message_of(kValid, {"cuda_graphs=true"}),
              HasSubstr(prefix + "device = \"cpu\": there is nothing"));
  EXPECT_TRUE(parse_configuration(kValid, "x.toml", {"device=sim", "cuda_graphs=true"}).cuda_graphs);
  EXPECT_THAT(message_of(kValid, {"device=cuda", "cuda_graphs=true", "convolution=auto"}),
              HasSubstr(prefix + "convolution = \"auto\": NVIDIA's libraries"));
  EXPECT_THAT(message_of(kValid, {"device=cuda", "cuda_graphs=true", "network.kind=bert", "network.depth=0",
                                  "data.format=text", "data.vocabulary=v", "data.path=p"}),
              HasSubstr(prefix + "network.kind = \"bert\": a graph has one shape"));
}

TEST(Config, WhatChangesNoBitMayDifferWhenARunIsResumed) {
  const Configuration plain = parse_configuration(kValid, "x.toml", {"device=sim"});
  for (const char* setting : {"cuda_graphs=true", "shard_optimizer=true", "rank_timeout=9"})
    EXPECT_TRUE(same_run(plain, parse_configuration(kValid, "x.toml", {"device=sim", setting}))) << setting;
  EXPECT_FALSE(same_run(plain, parse_configuration(kValid, "x.toml", {"device=sim", "seed=9"})));
}

TEST(Config, StagesThatNeedANetworkNeverTrainedAreRefused) {
  struct Case {
    const char* stages;
    const char* part;  // of the message; empty: valid
  };
  const std::string rest =
      "[data]\npath='p'\n[network]\ndepth=50\n[baseline]\nsteps=1\n[wide]\nsteps=1\n[imitate]\nsteps=1\n"
      "[match]\nsteps=1\n[finetune]\nsteps=1\n";
  const std::vector<Case> cases = {
      {"'baseline'", ""},
      {"'wide'", ""},
      {"'wide', 'match'", ""},
      {"'wide', 'baseline', 'imitate', 'match', 'finetune', 'merge'", ""},
      {"", "stages is empty"},
      {"'imitate'", "imitate needs a wide network"},
      {"'baseline', 'match'", "match needs a wide network"},
      {"'finetune'", "finetune needs a thin network"},
      {"'wide', 'finetune'", "finetune needs a thin network"},
      {"'wide', 'merge'", "merge needs a thin network"},
      {"'wide', 'imitate', 'merge', 'baseline'", "merge must come last"},
      {"'wide', 'imitate', 'wide'", "more than once"},
      {"'wide', 'match', 'imitate'", "match before imitate"},
      {"'wide', 'imitate', 'finetune', 'match'", "finetune before match"},
      {"'wyde'", "expected one of"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.stages);
    std::string message = message_of(fmt::format("stages = [{}]\n{}", test.stages, rest));
    EXPECT_THAT(message, HasSubstr(*test.part ? test.part : "(no error)"));
    if (*test.part) {
      EXPECT_THAT(message, HasSubstr("x.toml:1:"));
    }
  }
  EXPECT_EQ(message_of("stages = ['imitate']\n" + rest, {"wide.weights=w.safetensors"}), "(no error)");
  EXPECT_EQ(
      message_of("stages = ['wide', 'imitate']\n" + rest, {"wide.weights=w.safetensors", "wide.steps=0"}),
      "(no error)")
      << "a wide network from a file needs no length";
  EXPECT_THAT(message_of("stages = ['wide']\n" + rest, {"wide.steps=0"}), HasSubstr("wide has no length"));
}

TEST(Config, UnitsThatNeedEachOtherAreNotTrainedSideBySide) {
  const std::vector<std::string> fine = {"imitate.input=teacher", "imitate.parallel=units"};
  EXPECT_EQ(valid(fine).imitate.parallel, "units");
  EXPECT_THAT(message_of(kValid, {"imitate.parallel=units"}),
              HasSubstr("imitate.input = \"sequential\": each"));
  for (auto [setting, part] :
       {std::pair{"imitate.order=together", "imitate.order = \"together\": every step"},
        {"imitate.ema_decay=0.9", "imitate.ema_decay: the average"},
        {"imitate.parallel=batches", "expected one of: data, units"}}) {
    std::vector<std::string> settings = fine;
    settings.emplace_back(setting);
    EXPECT_THAT(message_of(kValid, settings), HasSubstr(part));
  }
  std::vector<std::string> bridges = fine;
  bridges.emplace_back("imitate.bridges=free");
  EXPECT_EQ(valid(bridges).imitate.bridges, "free") << "there are none";
  bridges.emplace_back("widen.kind=full");
  EXPECT_THAT(message_of(kValid, bridges), HasSubstr("imitate.bridges = \"free\": a unit reads"));
}

TEST(Config, OverridesAreCheckedLikeTheFile) {
  EXPECT_EQ(valid({"wide.epochs=2"}).wide.epochs, 2);
  EXPECT_EQ(valid({"wide.epochs=2", "wide.epochs=3"}).wide.epochs, 3);
  EXPECT_EQ(valid({"data.path=a b=c"}).data.path, "a b=c");
  EXPECT_EQ(valid({"data.path=\"a b\""}).data.path, "a b");
  EXPECT_EQ(valid({"imitate.augmentation.flip=true"}).imitate.augmentation.flip, true);
  EXPECT_EQ(valid({"stages=[\"wide\"]"}).stages, std::vector<std::string>{"wide"});

  EXPECT_THAT(message_of(kValid, {"wide.epoch=2"}),
              testing::AllOf(HasSubstr("--set wide.epoch=2 (command line)"), HasSubstr("is wide.epochs")));
  EXPECT_THAT(message_of(kValid, {"wide.epochs=two"}), HasSubstr("not TOML"));
  EXPECT_THAT(message_of(kValid, {"wide.epochs='2'"}), HasSubstr("expected an integer"));
  EXPECT_THAT(message_of(kValid, {"wide.epochs=-2"}), HasSubstr("--set wide.epochs=-2 (command line)"));
  EXPECT_THAT(message_of(kValid, {"wide.steps=2"}), HasSubstr("--set wide.steps=2 (command line)"));
  EXPECT_THAT(message_of(kValid, {"wide.epochs"}), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(message_of(kValid, {"=2"}), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(message_of(kValid, {"wide.epochs=2\nseed=4"}), HasSubstr("expected one value"));
  EXPECT_THAT(message_of(kValid, {"data.path=\xff"}), HasSubstr("not TOML")) << "not UTF-8";
  EXPECT_THAT(message_of(kValid, {"wide=2"}), HasSubstr("expected a table"));
}

TEST(Config, ResolvedTextReadsBackEqual) {
  Configuration c = read_configuration(
      kSource + "/recipes/configurations/imagenet-resnet50.toml",
      {"name=a \"quoted\" \\ name\twith\x01 control, and h\u00e9", "wide.lr=0.30000000000000004",
       "wide.eps=1e-30", "seed=9223372036854775807", "imitate.betas=[0.5, 0.25]", "wide.clip_norm=1e300"});
  std::string text = write_configuration(c);
  Configuration again = parse_configuration(text, "other.toml");
  EXPECT_EQ(again, c);
  EXPECT_EQ(write_configuration(again), text);
  EXPECT_THAT(text, HasSubstr("\n[wide.augmentation]\ncrop = \"random_resized\"\n"));
  EXPECT_THAT(text, HasSubstr("width = 64\n")) << "defaults are resolved and explicit";
  c.match.augmentation.flip = !c.match.augmentation.flip;
  EXPECT_NE(again, c);
}

TEST(Config, DepthsOfTheLiterature) {
  auto blocks = [](const char* style, const char* block, int64_t depth) {
    NetworkOptions network;
    network.style = style;
    network.block = block;
    network.depth = depth;
    return blocks_per_stage(network);
  };
  using Blocks = std::vector<int64_t>;
  EXPECT_EQ(blocks("imagenet", "basic", 34), (Blocks{3, 4, 6, 3}));
  EXPECT_EQ(blocks("imagenet", "bottleneck", 101), (Blocks{3, 4, 23, 3}));
  EXPECT_EQ(blocks("imagenet", "bottleneck", 152), (Blocks{3, 8, 36, 3}));
  EXPECT_EQ(blocks("cifar", "basic", 110), (Blocks{18, 18, 18}));
  EXPECT_EQ(blocks("cifar", "bottleneck", 164), (Blocks{18, 18, 18}));
  EXPECT_THROW(blocks("imagenet", "basic", 50), UserError);
  EXPECT_THROW(blocks("cifar", "basic", 2), UserError);
}

TEST(Config, FilesThatCannotBeRead) {
  EXPECT_THROW(
      {
        try {
          read_configuration("/nowhere/x.toml");
        } catch (const UserError& error) {
          EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("/nowhere/x.toml"), HasSubstr("No such file")));
          throw;
        }
      },
      UserError);
  EXPECT_THROW(read_configuration(kSource), UserError);
}

// docs/configuration.md is generated: TAPER_WRITE_REFERENCE=1 build/tests/config_test writes it.
TEST(Config, TheReferencePageIsCurrent) {
  const std::string path = kSource + "/docs/configuration.md";
  if (std::getenv("TAPER_WRITE_REFERENCE"))
    std::ofstream(path, std::ios::binary) << configuration_reference();
  EXPECT_EQ(read_file(path), configuration_reference())
      << "run TAPER_WRITE_REFERENCE=1 build/tests/config_test to write it anew";
}

}  // namespace
}  // namespace taper
