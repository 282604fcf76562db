#include "runtime/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <set>

#include "runtime/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string content(const fs::path& path) {
  std::vector<std::byte> bytes = read_file(path);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

template <typename ErrorType>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ErrorType& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

class File : public testing::Test {
 protected:
  File() : folder_(fs::path(testing::TempDir()) / fmt::format("file-{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~File() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(File, WritesReplacesAndReadsBack) {
  fs::path path = folder_ / "a";
  write_file_atomically(path, "");
  EXPECT_EQ(content(path), "");
  std::string large(3 << 20, 'x');
  std::span<const std::byte> pieces[] = {bytes_of("one"), {}, bytes_of(large), bytes_of("two")};
  write_file_atomically(path, pieces);
  EXPECT_EQ(content(path), "one" + large + "two");
  write_file_atomically(path, "short");
  EXPECT_EQ(content(path), "short");
  EXPECT_EQ(names_in(folder_), std::set<std::string>{"a"});
}

TEST_F(File, ReusesWhatAKilledWriterLeft) {
  write_file_atomically(folder_ / ".a.partial", "a longer rest of an earlier write");
  write_file_atomically(folder_ / "a", "new");
  EXPECT_EQ(content(folder_ / "a"), "new");
  EXPECT_EQ(names_in(folder_), std::set<std::string>{"a"});
}

TEST_F(File, FollowsSymbolicLinks) {
  write_file_atomically(folder_ / "a", "old");
  fs::create_symlink("a", folder_ / "link");
  write_file_atomically(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(content(folder_ / "a"), "new");
}

TEST_F(File, MistakesAreNamed) {
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder_ / "missing"); }),
              testing::AllOf(HasSubstr((folder_ / "missing").string()), HasSubstr("No such file")));
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder_); }), HasSubstr("it is a folder"));
  EXPECT_THAT(message_of<UserError>([&] { read_file("/dev/null"); }), HasSubstr("it is a device"));
  write_file_atomically(folder_ / "five", "12345");
  EXPECT_EQ(read_file(folder_ / "five", 5).size(), 5U);
  EXPECT_THAT(message_of<UserError>([&] { read_file(folder_ / "five", 4); }), HasSubstr("it has 5 bytes"));
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically(folder_ / "no" / "a", "x"); }),
              testing::AllOf(HasSubstr((folder_ / "no" / "a").string()), HasSubstr("No such file")));
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically(folder_, "x"); }),
              HasSubstr("not a regular file"));
  EXPECT_THAT(message_of<UserError>([&] { write_file_atomically("/dev/null", "x"); }),
              HasSubstr("not a regular file"));
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_THROW(write_new_file(folder_ / "five", folder_ / "five", {}), Failure);
  EXPECT_EQ(content(folder_ / "five"), "12345");
}

TEST_F(File, TwoWritersNeverMix) {
  // Each process replaces the file again and again by its own pattern; whatever is there must be one pattern.
  fs::path path = folder_ / "shared";
  std::vector<pid_t> writers;
  for (char letter : {'a', 'b'}) {
    pid_t pid = fork();
    if (pid == 0) {
      try {
        for (size_t i = 0; i < 40; ++i) write_file_atomically(path, std::string(20000 + 977 * i, letter));
      } catch (const Error&) {
        _exit(1);
      }
      _exit(0);
    }
    writers.push_back(pid);
  }
  int seen = 0;
  for (pid_t pid : writers) {
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      if (!fs::exists(path)) continue;
      std::string text = content(path);
      ASSERT_EQ(text, std::string(text.size(), text.at(0)));
      ++seen;
    }
    EXPECT_EQ(status, 0);
  }
  EXPECT_GT(seen, 0);
  EXPECT_EQ(names_in(folder_), std::set<std::string>{"shared"});
}

TEST_F(File, SizeLimitLeavesTheOldFile) {
  fs::path path = folder_ / "a";
  write_file_atomically(path, "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit tight{1000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  std::string sentence = message_of<Failure>([&] { write_file_atomically(path, std::string(5000, 'x')); });
  std::string text(5000, 'x');
  std::span<const std::byte> piece = bytes_of(text);
  EXPECT_THROW(write_new_file(folder_ / "b", folder_ / "b", Pieces(&piece, 1)), Failure);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(sentence, testing::AllOf(HasSubstr(path.string()), HasSubstr("ulimit -f")));
  EXPECT_EQ(content(path), "old");
  EXPECT_EQ(names_in(folder_), std::set<std::string>{"a"});
}

TEST_F(File, FullDiskLeavesTheOldFile) {
  // A file system of 64 KiB, which only the child sees.
  constexpr int kCannotMount = 77;
  pid_t pid = fork();
  if (pid == 0) {
    if ((unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("taper", folder_.c_str(), "tmpfs", 0, "size=64k") != 0)
      _exit(kCannotMount);
    fs::path path = folder_ / "a";
    write_file_atomically(path, "old");
    std::string sentence =
        message_of<Failure>([&] { write_file_atomically(path, std::string(100000, 'x')); });
    EXPECT_THAT(sentence,
                testing::AllOf(HasSubstr(path.string()), HasSubstr("No space left"),
                               HasSubstr("Free space on the file system that holds " + folder_.string())));
    EXPECT_EQ(content(path), "old");
    EXPECT_EQ(names_in(folder_), std::set<std::string>{"a"});
    write_file_atomically(path, std::string(30000, 'y'));
    _exit(HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kCannotMount) GTEST_SKIP() << "a file system cannot be mounted here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace taper
