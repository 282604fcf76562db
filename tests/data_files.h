#pragma once
// What the data tests share: the golden files, temporary folders, and the message of an error.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "recipes/data/gzip.h"
#include "recipes/data/image.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

inline std::string golden(const std::string& name) {
  return std::string(TAPER_SOURCE_DIR) + "/tests/golden/data/" + name;
}

inline nlohmann::json golden_cases(const std::string& kind) {
  std::ifstream file(golden("cases.json"));
  return nlohmann::json::parse(file).at(kind);
}

/// The bytes of a golden file.
inline std::vector<uint8_t> read_golden(const std::string& name) {
  const auto bytes = read_file(golden(name));
  const Bytes values = numbers(bytes);
  return {values.begin(), values.end()};
}

inline Image golden_image(const std::string& name, int64_t height, int64_t width, int channels) {
  Image image{height, width, channels, read_golden(name)};
  EXPECT_EQ(image.pixels.size(), static_cast<size_t>(height * width * channels)) << name;
  return image;
}

/// A new folder for one test, removed afterwards.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() / (std::string("taper_") + test->test_suite_name() + "_" +
                                                      test->name() + "_" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string path() const { return path_.string(); }
  /// Writes a file, making the folders on the way, and returns its path.
  std::string write(const std::string& name, const std::vector<uint8_t>& bytes) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return file.string();
  }

 private:
  std::filesystem::path path_;
};

/// The message of the UserError that `action` throws; an empty string if it throws none.
template <typename Action>
std::string user_error(Action action) {
  try {
    action();
  } catch (const UserError& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "";
}

}  // namespace taper
