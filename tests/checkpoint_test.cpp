#include "runtime/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <set>

#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/philox.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kFiles[] = {"weights.safetensors", "state.safetensors", "manifest.json"};

std::string content_of(const fs::path& path) {
  std::vector<std::byte> bytes = read_file(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Not atomic and without flushing: for damaging files.
void overwrite(const fs::path& path, const std::string& text) {
  FILE* file = std::fopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  std::fwrite(text.data(), 1, text.size(), file);
  std::fclose(file);
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// Content whose every part tells the sequence that it was saved with.
class Content {
 public:
  explicit Content(int64_t sequence, int64_t elements = 3)
      : weights_(static_cast<size_t>(elements), static_cast<float>(sequence)),
        momentum_(static_cast<size_t>(elements), -static_cast<float>(sequence)),
        step_(sequence) {}
  CheckpointContent view(const std::string& identity = "model-a") const {
    int64_t elements = static_cast<int64_t>(weights_.size());
    return {identity,
            {{"stage", "wide"}, {"step", std::to_string(step_)}},
            {{"conv1.weight", DType::f32, {elements}, std::as_bytes(std::span(weights_))}},
            {{"conv1.weight.momentum", DType::f32, {elements}, std::as_bytes(std::span(momentum_))},
             {"step", DType::i64, {}, std::as_bytes(std::span(&step_, 1))}}};
  }

 private:
  std::vector<float> weights_, momentum_;
  int64_t step_;
};

void expect_content(const Checkpoint& checkpoint, int64_t sequence) {
  CheckpointContent expected =
      Content(sequence, checkpoint.weights.tensor("conv1.weight").shape.at(0)).view();
  EXPECT_EQ(checkpoint.sequence, sequence);
  EXPECT_EQ(checkpoint.identity, expected.identity);
  EXPECT_EQ(checkpoint.metadata.at("step"), std::to_string(sequence));
  auto value = [](const TensorBytes& tensor) {
    float first = 0;
    std::memcpy(&first, tensor.bytes.data(), sizeof first);
    return first;
  };
  EXPECT_EQ(value(checkpoint.weights.tensor("conv1.weight")), static_cast<float>(sequence));
  EXPECT_EQ(value(checkpoint.state.tensor("conv1.weight.momentum")), -static_cast<float>(sequence));
  int64_t step = 0;
  std::memcpy(&step, checkpoint.state.tensor("step").bytes.data(), sizeof step);
  EXPECT_EQ(step, sequence);
}

class CheckpointTest : public testing::Test {
 protected:
  // In memory where the system has such a folder: being killed does not depend on the device, and thousands
  // of flushes would take minutes on a disk.
  CheckpointTest()
      : root_(fs::path(fs::exists("/dev/shm") ? "/dev/shm" : testing::TempDir()) /
              fmt::format("taper-checkpoint-test-{}", getpid())),
        folder_(root_ / "run" / "checkpoints") {
    fs::create_directories(root_);
  }
  ~CheckpointTest() override { fs::remove_all(root_); }

  std::optional<Checkpoint> latest(const CheckpointStore& store, const std::string& identity = "model-a") {
    warnings_.clear();
    return store.load_latest(identity, [&](const std::string& sentence) { warnings_.push_back(sentence); });
  }

  fs::path root_, folder_;
  std::vector<std::string> warnings_;
};

TEST_F(CheckpointTest, SavesLoadsAndPrunes) {
  CheckpointStore store(folder_, 2);
  EXPECT_FALSE(latest(store));
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("no usable checkpoint in " + folder_.string())));
  for (int64_t sequence : {1, 2, 10, 123456789}) {
    EXPECT_EQ(store.save(sequence, Content(sequence).view()), folder_ / fmt::format("step-{:08}", sequence));
    auto loaded = latest(store);
    ASSERT_TRUE(loaded);
    EXPECT_THAT(warnings_, IsEmpty());
    expect_content(*loaded, sequence);
    EXPECT_FALSE(loaded->score);
  }
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{".lock", "step-00000010", "step-123456789"}));
  EXPECT_EQ(names_in(folder_ / "step-00000010"),
            (std::set<std::string>(std::begin(kFiles), std::end(kFiles))));
  expect_content(load_checkpoint(folder_ / "step-00000010"), 10);
  expect_content(load_checkpoint(folder_ / "step-00000010/"), 10);
}

TEST_F(CheckpointTest, SameContentSameBytes) {
  CheckpointStore one(root_ / "one", 1), two(root_ / "two", 1);
  one.save(5, Content(5).view());
  two.save(4, Content(4).view());
  two.save(5, Content(5).view());
  for (const char* file : kFiles)
    EXPECT_EQ(content_of(root_ / "one/step-00000005" / file), content_of(root_ / "two/step-00000005" / file));
}

TEST_F(CheckpointTest, SavingTheSameSequenceAgainReplacesIt) {
  CheckpointStore store(folder_, 1);
  store.save(7, Content(6).view());
  store.save(7, Content(7).view());
  expect_content(*latest(store), 7);
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{".lock", "step-00000007"}));
}

TEST_F(CheckpointTest, BestIsReplacedAndSurvivesPruning) {
  CheckpointStore store(folder_, 1);
  auto fail = [](const std::string& sentence) { ADD_FAILURE() << sentence; };
  for (int64_t sequence : {1, 2, 3}) {
    store.save(sequence, Content(sequence).view());
    if (sequence < 3)
      store.save_best("thin", 0.5 + 0.1 * static_cast<double>(sequence), sequence, Content(sequence).view());
  }
  auto best = store.load_best("thin", "model-a", fail);
  ASSERT_TRUE(best);
  EXPECT_EQ(best->name, "best-thin");
  EXPECT_EQ(best->score, 0.5 + 0.1 * 2);
  expect_content(*best, 2);
  expect_content(*latest(store), 3);
  std::vector<std::string> warnings;
  auto record = [&](const std::string& sentence) { warnings.push_back(sentence); };
  EXPECT_FALSE(store.load_best("wide", "model-a", record));
  EXPECT_FALSE(store.load_best("thin", "model-b", record));
  EXPECT_THAT(warnings,
              ElementsAre(HasSubstr("best-wide"), AllOf(HasSubstr("best-thin"), HasSubstr("model-b"))));
  EXPECT_THROW(store.save_best("thin", std::nan(""), 4, Content(4).view()), Failure);
  EXPECT_THROW(store.save_best("a/b", 1, 4, Content(4).view()), Failure);
}

TEST_F(CheckpointTest, ForeignAndRenamedAreRefused) {
  CheckpointStore store(folder_, 5);
  store.save(1, Content(1).view("model-a"));
  store.save(2, Content(2).view("model-b"));
  auto loaded = latest(store);
  ASSERT_TRUE(loaded);
  expect_content(*loaded, 1);
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("step-00000002"), HasSubstr("another model"),
                                           HasSubstr("'model-b', where 'model-a'"))));
  EXPECT_FALSE(latest(store, "model-c"));
  EXPECT_THAT(warnings_,
              ElementsAre(HasSubstr("step-00000002"), HasSubstr("step-00000001"), HasSubstr("2 refused")));
  fs::rename(folder_ / "step-00000001", folder_ / "step-00000009");
  EXPECT_FALSE(latest(store));
  EXPECT_THAT(warnings_.front(), AllOf(HasSubstr("step-00000009"), HasSubstr("was saved as step-00000001")));
}

TEST_F(CheckpointTest, RefusedNewerOnesAreSetAsideAndNeverCountAsKept) {
  CheckpointStore store(folder_, 1);
  store.save(10, Content(10).view());
  fs::copy(folder_ / "step-00000010", folder_ / "step-00000030", fs::copy_options::recursive);
  EXPECT_EQ(latest(store)->sequence, 10);
  store.save(20, Content(20).view());
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{".lock", "step-00000020", "refused-step-00000030"}));
  expect_content(*latest(store), 20);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(CheckpointTest, EveryTruncationAndEveryFlippedByteIsRefusedOrHarmless) {
  CheckpointStore store(folder_, 2);
  store.save(1, Content(1).view());
  store.save(2, Content(2).view());
  for (const char* file : kFiles) {
    fs::path path = folder_ / "step-00000002" / file;
    const std::string whole = content_of(path);
    auto expect_previous = [&](size_t byte) {
      auto loaded = latest(store);
      ASSERT_TRUE(loaded);
      EXPECT_EQ(loaded->sequence, 1) << file << ", byte " << byte;
      ASSERT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("step-00000002"), HasSubstr(file))));
    };
    for (size_t length = 0; length < whole.size(); ++length) {
      overwrite(path, whole.substr(0, length));
      expect_previous(length);
    }
    for (size_t byte = 0; byte < whole.size(); ++byte)
      for (char mask : {'\x01', '\x20', '\xFF'}) {
        std::string altered = whole;
        altered[byte] = static_cast<char>(altered[byte] ^ mask);
        overwrite(path, altered);
        expect_previous(byte);
      }
    overwrite(path, whole + " ");
    expect_previous(whole.size());
    fs::remove(path);
    expect_previous(0);
    overwrite(path, whole);
    expect_content(*latest(store), 2);
  }
}

TEST_F(CheckpointTest, FailedWritesLeaveTheEarlierCheckpoints) {
  CheckpointStore store(folder_, 1);
  store.save(1, Content(1).view());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit tight{2000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  std::string sentence;
  try {
    store.save(2, Content(2, 10000).view());
  } catch (const Failure& failure) {
    sentence = failure.what();
  }
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(sentence, HasSubstr((folder_ / "step-00000002/weights.safetensors").string()));
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{".lock", "step-00000001"}));
  expect_content(*latest(store), 1);
  store.save(2, Content(2, 10000).view());
  expect_content(*latest(store), 2);
}

TEST_F(CheckpointTest, FolderThatCannotBeMade) {
  overwrite(root_ / "file", "");
  EXPECT_THROW(CheckpointStore(root_ / "file", 1).save(1, Content(1).view()), UserError);
  EXPECT_THROW(load_checkpoint(root_ / "missing"), UserError);
}

/// What a save that was killed may leave: the newest usable checkpoint must be whole, and the next save must
/// leave no rest behind.
class Interrupted : public CheckpointTest {
 protected:
  void expect_usable(const CheckpointStore& store, int64_t at_least, int64_t at_most) {
    auto loaded = latest(store);
    ASSERT_TRUE(loaded);
    ASSERT_THAT(warnings_, IsEmpty());
    ASSERT_GE(loaded->sequence, at_least);
    ASSERT_LE(loaded->sequence, at_most);
    expect_content(*loaded, loaded->sequence);
    auto best =
        store.load_best("thin", "model-a", [](const std::string& sentence) { ADD_FAILURE() << sentence; });
    ASSERT_TRUE(best);
    expect_content(*best, best->sequence);
  }

  /// Nothing that has a checkpoint's name may be half written or half removed, not only the one that is used.
  void expect_all_whole(const fs::path& folder) {
    for (const std::string& name : names_in(folder)) {
      if (name.starts_with(".")) continue;
      EXPECT_NO_THROW(load_checkpoint(folder / name)) << name;
    }
  }
};

TEST_F(Interrupted, KilledAtEverySystemCall) {
  // The child stops before and after each of its system calls. What it has made of the folder so far is what
  // it would leave if it were killed there, so each stop is checked on a copy. The child takes every path of
  // the store: it finds what two kills left, replaces a checkpoint and a best one, and prunes.
  constexpr int kNotAllowed = 77;
  CheckpointStore store(folder_, 1);
  store.save(2, Content(2).view());
  store.save_best("thin", 0.5, 2, Content(2).view());
  fs::rename(folder_ / "best-thin", folder_ / ".old-best-thin");
  fs::create_directory(folder_ / ".tmp-best-thin");
  overwrite(folder_ / ".tmp-best-thin/weights.safetensors", "half");
  pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kNotAllowed);
    raise(SIGSTOP);
    store.save(2, Content(2).view());
    store.save(3, Content(3).view());
    store.save_best("thin", 0.6, 3, Content(3).view());
    _exit(0);
  }
  int status = 0, stops = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotAllowed) GTEST_SKIP() << "ptrace is not allowed here";
  ASSERT_EQ(ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_EXITKILL), 0);
  fs::path left = root_ / "left";
  CheckpointStore after(left, 1);
  for (; WIFSTOPPED(status); ++stops) {
    SCOPED_TRACE(stops);
    fs::remove_all(left);
    fs::copy(folder_, left, fs::copy_options::recursive);
    expect_usable(after, 2, 3);
    expect_all_whole(left);
    after.save(4, Content(4).view());
    expect_usable(after, 4, 4);
    ASSERT_EQ(names_in(left), (std::set<std::string>{".lock", "best-thin", "step-00000004"}));
    ASSERT_EQ(ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr), 0);
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
  }
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  expect_usable(store, 3, 3);
  EXPECT_GT(stops, 100);
}

TEST_F(Interrupted, KilledAtRandomMoments) {
  constexpr int kRounds = 30;
  CheckpointStore store(folder_, 2);
  store.save(1, Content(1, 20000).view());
  store.save_best("thin", 0, 1, Content(1, 20000).view());
  Draws draws(20, 0, 0);
  int64_t least = 1;
  for (int round = 0; round < kRounds; ++round) {
    int progress[2];
    ASSERT_EQ(pipe(progress), 0);
    pid_t pid = fork();
    if (pid == 0) {
      for (int64_t sequence = least + 1;; ++sequence) {
        Content content(sequence, 20000);
        store.save(sequence, content.view());
        // Told after the save: everything up to here must still be there after the kill.
        if (write(progress[1], &sequence, sizeof sequence) != sizeof sequence) _exit(1);
        store.save_best("thin", 0, sequence, content.view());
      }
    }
    close(progress[1]);
    int64_t saves = draws.below(3);
    for (int64_t i = 0; i < saves; ++i) ASSERT_EQ(read(progress[0], &least, sizeof least), sizeof least);
    usleep(draws.below(4000));
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
    close(progress[0]);
    SCOPED_TRACE(round);
    expect_usable(store, least, INT64_MAX);
    expect_all_whole(folder_);
    least = latest(store)->sequence;
  }
}

TEST_F(Interrupted, ReadersNeverSeeAReplacementHalfDone) {
  CheckpointStore store(folder_, 1);
  store.save(1, Content(1).view());
  store.save_best("thin", 0, 1, Content(1).view());
  pid_t pid = fork();
  if (pid == 0) {
    for (int64_t sequence = 2; sequence < 80; ++sequence) {
      store.save(sequence, Content(sequence).view());
      store.save_best("thin", 0, sequence, Content(sequence).view());
    }
    _exit(0);
  }
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) expect_usable(store, 1, 79);
  EXPECT_EQ(status, 0);
  expect_usable(store, 79, 79);
}

}  // namespace
}  // namespace taper
