#include "recipes/data/dataset.h"

#include <numeric>
#include <utility>

#include "recipes/data/array.h"
#include "recipes/data/folder.h"
#include "recipes/data/shuffle.h"
#include "runtime/error.h"

namespace taper {
namespace {

class Subset : public Dataset {
 public:
  Subset(std::unique_ptr<Dataset> whole, int64_t limit) : whole_(std::move(whole)) {
    constexpr uint64_t kKey = hash("data.limit");
    shuffle(indices_, whole_->size(), kKey, 0);
    indices_.resize(limit);
    indices_.shrink_to_fit();
  }
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  int channels() const override { return whole_->channels(); }
  const std::vector<std::string>& classes() const override { return whole_->classes(); }
  void read(int64_t index, Image& image, int32_t& label) const override {
    whole_->read(indices_[index], image, label);
  }
  std::string name(int64_t index) const override { return whole_->name(indices_[index]); }

 private:
  std::unique_ptr<Dataset> whole_;
  std::vector<int64_t> indices_;
};

std::unique_ptr<Dataset> open_whole(const DataSource& source, Split split) {
  if (source.format == "idx") return open_idx(source.path, split, source.channels);
  if (source.format == "cifar10" || source.format == "cifar100")
    return open_cifar(source.path, source.format == "cifar10" ? 10 : 100, split, source.channels);
  if (source.format == "folder") return open_folder(source.path, split, source.channels);
  throw UserError("data format \"{}\" is not known; use \"idx\", \"cifar10\", \"cifar100\" or \"folder\"",
                  source.format);
}

}  // namespace

std::unique_ptr<Dataset> open_dataset(const DataSource& source, Split split) {
  if (source.channels != 0 && source.channels != 1 && source.channels != 3) {
    throw UserError("data channels = {} is not possible; use 1 (grey), 3 (RGB) or 0 (as stored)",
                    source.channels);
  }
  auto dataset = open_whole(source, split);
  if (source.limit < 0 || source.limit > dataset->size()) {
    throw UserError(
        "data limit = {}, but {} has {} samples in its {} split; use at most that many, or 0 for all",
        source.limit, source.path, dataset->size(), split == Split::train ? "train" : "test");
  }
  if (source.limit == 0) return dataset;
  return std::make_unique<Subset>(std::move(dataset), source.limit);
}

}  // namespace taper
