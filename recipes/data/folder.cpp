#include "recipes/data/folder.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "recipes/data/decode.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

std::string lower_extension(const fs::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension;
}

/// The class folders, in byte order.
std::vector<std::string> list_classes(const fs::path& split) {
  if (!fs::is_directory(split)) {
    throw UserError("{}: there is no such folder; the data path must hold train/<class>/ and val/<class>/",
                    split.string());
  }
  std::vector<std::string> classes;
  for (const auto& entry : fs::directory_iterator(split))
    if (entry.is_directory()) classes.push_back(entry.path().filename().string());
  if (classes.empty()) {
    throw UserError("{}: holds no class folders; put each class's images into a folder of its own",
                    split.string());
  }
  std::sort(classes.begin(), classes.end());
  return classes;
}

/// The image files below one class folder, relative to it and in byte order. Other files are passed over, but
/// an image in a format that is not read is an error: leaving it out unsaid would change the data.
std::vector<std::string> list_images(const fs::path& folder) {
  static const std::set<std::string> kRead{".jpg", ".jpeg", ".png"};
  static const std::set<std::string> kOther{".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"};
  std::vector<std::string> files;
  constexpr auto kOptions = fs::directory_options::follow_directory_symlink;
  for (const auto& entry : fs::recursive_directory_iterator(folder, kOptions)) {
    if (!entry.is_regular_file()) continue;
    const std::string extension = lower_extension(entry.path());
    if (kOther.contains(extension)) {
      throw UserError("{}: {} images are not read; convert it to JPEG or PNG, or remove it",
                      entry.path().string(), extension);
    }
    if (kRead.contains(extension)) files.push_back(entry.path().lexically_relative(folder).string());
  }
  if (files.empty()) {
    throw UserError("{}: the class folder holds no .jpg, .jpeg or .png file; add images or remove the folder",
                    folder.string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

class FolderDataset : public Dataset {
 public:
  FolderDataset(const fs::path& root, Split split, int channels)
      : folder_(root / (split == Split::train ? "train" : "val")),
        channels_(channels ? channels : 3),
        classes_(list_classes(root / "train")) {
    if (split == Split::test) check_same_classes();
    for (size_t c = 0; c < classes_.size(); ++c) {
      for (std::string& file : list_images(folder_ / classes_[c]))
        samples_.emplace_back(static_cast<int32_t>(c), std::move(file));
    }
  }
  int64_t size() const override { return static_cast<int64_t>(samples_.size()); }
  int channels() const override { return channels_; }
  const std::vector<std::string>& classes() const override { return classes_; }
  void read(int64_t index, Image& image, int32_t& label) const override {
    const std::string file = name(index);
    image = convert_channels(decode_image(numbers(read_file(file)), file), channels_);
    label = samples_[index].first;
  }
  std::string name(int64_t index) const override {
    const auto& [label, file] = samples_[index];
    return (folder_ / classes_[label] / file).string();
  }

 private:
  void check_same_classes() const {
    const auto found = list_classes(folder_);
    const auto [here, there] = std::mismatch(found.begin(), found.end(), classes_.begin(), classes_.end());
    if (here == found.end() && there == classes_.end()) return;
    const bool extra = there == classes_.end() || (here != found.end() && *here < *there);
    throw UserError("{}: the class folder \"{}\" is {}; both must have the same classes", folder_.string(),
                    extra ? *here : *there, extra ? "not in train" : "missing, but train has it");
  }

  fs::path folder_;
  int channels_;
  std::vector<std::string> classes_;
  std::vector<std::pair<int32_t, std::string>> samples_;
};

}  // namespace

std::unique_ptr<Dataset> open_folder(const std::string& root, Split split, int channels) {
  try {
    return std::make_unique<FolderDataset>(root, split, channels);
  } catch (const fs::filesystem_error& error) {
    throw UserError("{}: cannot be listed ({}); make it readable for this user", error.path1().string(),
                    error.code().message());
  }
}

}  // namespace taper
