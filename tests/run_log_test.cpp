#include "recipes/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "recipes/progress.h"
#include "recipes/tensorboard.h"
#include "runtime/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class RunLogTest : public testing::Test {
 protected:
  RunLogTest() {
    std::string pattern = (fs::temp_directory_path() / "taper-run-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~RunLogTest() override { fs::remove_all(folder_); }

  std::string read(const std::string& name) const {
    std::ifstream stream(folder_ / name, std::ios::binary);
    std::stringstream text;
    text << stream.rdbuf();
    return text.str();
  }

  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> all;
    std::istringstream text(read("metrics.jsonl"));
    for (std::string line; std::getline(text, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }

  fs::path folder_;
};

constexpr const char* kEvents = "events.out.tfevents.0.taper";

Configuration configuration(const std::vector<std::string>& overrides = {}) {
  return read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-resnet.toml", overrides);
}

template <typename Action>
std::string user_error_of(Action action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(no error)";
}

uint32_t word_at(const std::string& bytes, size_t at) {
  uint32_t word = 0;
  for (size_t i = 0; i < 4; ++i) word |= uint32_t{static_cast<unsigned char>(bytes.at(at + i))} << (8 * i);
  return word;
}

TrainEvent step(int64_t number) {
  return {.stage = "wide", .step = number, .epoch = 0.5, .loss = 1.0 / 3, .lr = 0.1, .grad_norm = 2};
}

TEST(TensorBoard, ChecksumIsCrc32c) {
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

// The bytes that the tensorboard package's EventProto makes for the same event, taken apart.
TEST(TensorBoard, RecordBytes) {
  const std::vector<Scalar> scalars = {{"a", 1.0}};
  const std::string record = scalar_event(1.0, 300, scalars);
  const std::string payload(
      "\x09\0\0\0\0\0\0\xf0\x3f"  // 1: wall_time, 1.0
      "\x10\xac\x02"              // 2: step, 300
      "\x2a\x0a"                  // 5: summary of 10 bytes
      "\x0a\x08"                  // 1: value of 8 bytes
      "\x0a\x01"                  // 1: tag of 1 byte
      "a\x15\0\0\x80\x3f",        // 2: simple_value, 1.0f
      24);
  ASSERT_EQ(record.size(), 8 + 4 + payload.size() + 4);
  EXPECT_EQ(record.substr(0, 8), std::string("\x18\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, payload.size()), payload);
  auto masked = [](uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u; };
  EXPECT_EQ(word_at(record, 8), masked(crc32c(record.substr(0, 8))));
  EXPECT_EQ(word_at(record, 12 + payload.size()), masked(crc32c(payload)));
}

TEST_F(RunLogTest, OneJsonObjectALine) {
  {
    RunLog log(folder_, measures_of({}));
    log.run({.configuration = "a = \"b\"\n",
             .instruction_set = "AVX2",
             .libraries = {"oneDNN 2.6.3"},
             .cpu = "x\xff"});
    log.stage_begin({.stage = "wide", .steps = 2});
    log.train(step(1));
    log.train({.stage = "imitate", .unit = 3, .step = 2, .loss = std::nan("")});
    log.evaluate({.stage = "wide",
                  .step = 2,
                  .network = "wide",
                  .loss = 0.5,
                  .metrics = {0.25, 0.75},
                  .samples = 8,
                  .skipped = 3});
    log.unit({.stage = "imitate", .unit = 3, .name = "layer1.0", .error_before = 1, .error_after = 0.125});
    log.network({.network = "thin", .parameters = 7, .flops = 1e9, .metrics = {0.5, 0}, .teacher_flops = 3});
    log.skipped(5);
    log.stage_end({.stage = "wide", .steps = 2, .seconds = 1.5, .student_flops = 10, .teacher_flops = 20});
  }
  const auto all = lines();
  ASSERT_EQ(all.size(), 9u);
  const char* events[] = {"run", "stage", "train", "train", "evaluate", "unit", "network", "data", "stage"};
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i]["event"], events[i]);
  EXPECT_EQ(all[0]["configuration"], "a = \"b\"\n");
  EXPECT_EQ(all[0]["libraries"][0], "oneDNN 2.6.3");
  EXPECT_THAT(all[0]["time"].get<std::string>(), testing::MatchesRegex("20..-..-..T..:..:..Z"));
  EXPECT_EQ(all[2]["loss"], 1.0 / 3) << "every bit of a double";
  EXPECT_FALSE(all[2].contains("unit"));
  EXPECT_EQ(all[3]["unit"], 3);
  EXPECT_TRUE(all[3]["loss"].is_null());
  EXPECT_EQ(all[4]["top1"], 0.25);
  EXPECT_EQ(all[4]["skipped"], 3);
  EXPECT_EQ(all[5]["error_after"], 0.125);
  EXPECT_EQ(all[6]["parameters"], 7);
  EXPECT_EQ(all[7]["skipped"], 5);
  EXPECT_EQ(all[8]["teacher_flops"], 20);
}

TEST_F(RunLogTest, LongUnitsRecordTheFirstTheLastAndEveryNthStep) {
  RunLog log(folder_, measures_of({}));
  log.stage_begin({.stage = "wide", .steps = 1501});
  for (int64_t i = 1; i <= 1501; ++i) log.train(step(i));
  const auto all = lines();
  EXPECT_EQ(all[1]["step"], 1);
  EXPECT_EQ(all[2]["step"], 3);
  EXPECT_EQ(all[3]["step"], 6);
  EXPECT_EQ(all.back()["step"], 1501);
  EXPECT_EQ(all.size(), 1u + 1 + 500 + 1) << "begin, the first, every third, the last";
}

// A run killed at any byte after a checkpoint, then resumed from it, has the lines of one never killed.
TEST_F(RunLogTest, ResumingCutsBackToTheCheckpoint) {
  LogPosition position;
  {
    RunLog log(folder_, measures_of({}));
    log.stage_begin({.stage = "wide", .steps = 4});
    log.train(step(1));
    log.train(step(2));
    position = log.position();
    EXPECT_EQ(position.metrics, static_cast<int64_t>(read("metrics.jsonl").size()));
    EXPECT_EQ(position.events, static_cast<int64_t>(read(kEvents).size()));
    log.train(step(3));
  }
  const std::string metrics = read("metrics.jsonl"), events = read(kEvents);
  const auto kept = [&](size_t more) {
    std::ofstream(folder_ / "metrics.jsonl", std::ios::binary)
        << metrics.substr(0, static_cast<size_t>(position.metrics) + more);
    std::ofstream(folder_ / kEvents, std::ios::binary)
        << events.substr(0, static_cast<size_t>(position.events) + more);
  };
  for (size_t more : {0, 1, 20}) {
    kept(more);
    {
      RunLog log(folder_, measures_of({}), position);
      log.stage_resume({.stage = "wide", .steps = 4});
      log.train(step(3));
    }
    EXPECT_EQ(read("metrics.jsonl"), metrics);
    EXPECT_EQ(read(kEvents).size(), events.size()) << "the same but for wall times";
  }
  {
    RunLog log(folder_, measures_of({}));
    log.stage_begin({.stage = "wide", .steps = 4});
  }
  EXPECT_EQ(lines().size(), 1u) << "position 0 starts anew";

  EXPECT_THAT(user_error_of([&] { RunLog log(folder_, measures_of({}), position); }),
              HasSubstr("cut or replaced"));
}

TEST_F(RunLogTest, TwoWritersAreRefused) {
  RunLog log(folder_, measures_of({}));
  EXPECT_THAT(user_error_of([&] { RunLog second(folder_, measures_of({})); }), HasSubstr("another process"));
}

// A limit on the size of files stands in for the full disk: the same failing write.
TEST_F(RunLogTest, AWriteThatFailsIsAFailureThatNamesTheFile) {
  RunLog log(folder_, measures_of({}));
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{10, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  try {
    log.skipped(1);
  } catch (const Failure& failure) {
    message = failure.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(message, testing::AllOf(HasSubstr("metrics.jsonl"), HasSubstr("cannot be written")));
}

TEST_F(RunLogTest, ADirectoryHoldsOneRun) {
  const fs::path run = folder_ / "runs" / "x";
  EXPECT_THAT(user_error_of([&] { prepare_run_directory(run, configuration(), true); }),
              HasSubstr("no run to resume"));
  EXPECT_FALSE(fs::exists(run));
  prepare_run_directory(run, configuration(), false);
  EXPECT_EQ(read_run_configuration(run), configuration());
  prepare_run_directory(run, configuration(), true);
  EXPECT_THAT(user_error_of([&] { prepare_run_directory(run, configuration(), false); }),
              testing::AllOf(HasSubstr("another run"), HasSubstr("--resume")));
  EXPECT_THAT(user_error_of([&] { prepare_run_directory(run, configuration({"wide.lr=0.25"}), true); }),
              HasSubstr("wide.lr is 0.1 there and 0.25 here"));
  EXPECT_THAT(user_error_of([&] { prepare_run_directory(folder_, configuration(), false); }),
              HasSubstr("holds no run"));
  EXPECT_THAT(user_error_of([&] { prepare_run_directory(run / "config.toml", configuration(), false); }),
              HasSubstr("is a file"));
  EXPECT_THAT(user_error_of([&] { read_run_configuration(folder_); }), HasSubstr("not a run directory"));
  EXPECT_THAT(user_error_of([&] { read_run_configuration(folder_ / "none"); }), HasSubstr("no such run"));

  const fs::path interrupted = folder_ / "interrupted";
  fs::create_directory(interrupted);
  std::ofstream(interrupted / ".config.toml.partial") << "seed";
  prepare_run_directory(interrupted, configuration(), true);
  EXPECT_EQ(read_run_configuration(interrupted), configuration());
}

TEST(Progress, OneLine) {
  const ProgressState state{.stage = "imitate",
                            .unit = 1,
                            .units = 4,
                            .step = 50,
                            .steps = 100,
                            .epoch = 0.51,
                            .loss = 0.03125,
                            .lr = 0.1,
                            .items_per_s = 12345.6,
                            .gflops = 8.25};
  EXPECT_EQ(progress_line(state, 250, 0),
            "imitate [####........] unit 2/4 epoch 0.51 step 50/100 loss 0.03125 lr 0.1 12,346 images/s 8.2 "
            "GFLOP/s "
            "4 min 10 s left");
  EXPECT_EQ(progress_line(state, -1, 21), "imitate [####.......");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(7500), "2 h 5 min");
  EXPECT_EQ(duration_text(90000), "1 d 1 h");
}

/// Output of a Progress whose clock reads `times` in turn.
std::string shown(bool terminal, const std::vector<double>& times) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    double now = 0;
    Progress progress(out, terminal, [&] { return now; });
    for (size_t i = 0; i < times.size(); ++i) {
      now = times[i];
      progress.update({.stage = "wide", .step = static_cast<int64_t>(i) + 1, .steps = 10});
    }
    progress.message("done");
  }
  std::fclose(out);
  std::string result(text, size);
  free(text);
  return result;
}

TEST(Progress, PlainLinesEveryTenSeconds) {
  const std::string text = shown(false, {0, 9.9, 10, 15, 20});
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
  EXPECT_THAT(text, HasSubstr("step 1/10"));
  EXPECT_THAT(text, testing::Not(HasSubstr("step 2/10")));
  EXPECT_THAT(text, HasSubstr("step 3/10")) << text;
  EXPECT_THAT(text, HasSubstr("35 s left")) << "2 steps took 10 s, 7 are left\n" << text;
  EXPECT_THAT(text, testing::Not(HasSubstr("\x1b")));
}

TEST(Progress, ATerminalKeepsOneLine) {
  const std::string text = shown(true, {0, 0.05, 1});
  EXPECT_THAT(text, HasSubstr("step 1/10"));
  EXPECT_THAT(text, testing::Not(HasSubstr("step 2/10")));
  EXPECT_TRUE(text.ends_with("\r\x1b[Kdone\n")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

}  // namespace
}  // namespace taper
