// Weights as files: torchvision's layout on disk, strict reading. tests/torchvision_check.py has torchvision
// itself read one.

#include "layers/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <list>

#include "runtime/safetensors.h"

namespace taper {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class Weights : public testing::Test {
 protected:
  Weights() {
    std::string pattern = testing::TempDir() + "taper-weights-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ / "weights.safetensors";
  }
  ~Weights() override { std::filesystem::remove_all(folder_); }

  // conv.weight [2, 1, 2, 3] as KRSC (so [2, 3, 1, 2] on disk), bn.running_var [2], fc.weight [1, 2].
  void fill(ParameterStore& store, DType type = DType::f32) {
    store.add("conv.weight", {2, 1, 2, 3}, Role::filter);
    store.add("bn.running_var", {2}, Role::running_variance);
    store.add("fc.weight", {1, 2}, Role::matrix);
    store.allocate(stream_, type);
    double next = 0;
    for (Parameter& p : store.all()) {
      std::vector<double> values(static_cast<size_t>(p.size));
      for (double& v : values) v = ++next + 1.0 / 3;
      set_values(stream_, p, values);
    }
  }
  template <typename T>
  void write(const std::string& name, Shape shape, std::vector<T> values) {
    kept_.emplace_back(values.size() * sizeof(T));
    std::memcpy(kept_.back().data(), values.data(), kept_.back().size());
    tensors_.push_back({name, dtype_of<T>(), std::move(shape), kept_.back()});
  }
  std::string refusal(ParameterStore& store) {
    write_safetensors(path_, tensors_);
    try {
      read_weights(path_, stream_, store);
    } catch (const UserError& error) {
      return error.what();
    }
    return "none";
  }

  HostStream stream_;
  std::filesystem::path folder_, path_;
  std::list<std::vector<std::byte>> kept_;
  std::vector<TensorBytes> tensors_;
};

TEST_F(Weights, FiltersAreOutputInputRowColumnOnDisk) {
  ParameterStore store;
  fill(store);
  write_weights(path_, stream_, store, {{"format", "pt"}});
  SafetensorsFile file = SafetensorsFile::read(path_);
  const TensorBytes& filter = file.tensor("conv.weight");
  EXPECT_EQ(filter.shape, (Shape{2, 3, 1, 2}));
  EXPECT_EQ(filter.dtype, DType::f32);
  std::vector<float> values(12);
  std::memcpy(values.data(), filter.bytes.data(), filter.bytes.size());
  for (float& v : values) v = std::floor(v);
  EXPECT_THAT(values, ElementsAre(1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12));
  EXPECT_EQ(file.tensor("bn.running_var").shape, (Shape{2}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST_F(Weights, ComeBackAsTheyWere) {
  for (DType type : {DType::f32, DType::f64}) {
    ParameterStore store, other;
    fill(store, type);
    fill(other, type);
    for (Parameter& p : other.all()) set_values(stream_, p, std::vector<double>(static_cast<size_t>(p.size)));
    write_weights(path_, stream_, store);
    uint64_t version = other.find("conv.weight")->version();
    read_weights(path_, stream_, other);
    for (const Parameter& p : store.all())
      EXPECT_EQ(host_values(stream_, p), host_values(stream_, *other.find(p.name))) << p.name;
    EXPECT_GT(other.find("conv.weight")->version(), version);
  }
}

TEST_F(Weights, TakesOtherTypesAndIgnoresBatchCounts) {
  ParameterStore store;
  fill(store);
  write<bf16>("conv.weight", {2, 3, 1, 2}, std::vector<bf16>(12, bf16(1.5F)));
  write<double>("bn.running_var", {2}, {0.5, 0.25});
  write<float>("fc.weight", {1, 2}, {2, 3});
  write<int64_t>("bn.num_batches_tracked", {}, {100});
  EXPECT_EQ(refusal(store), "none");
  EXPECT_THAT(host_values(stream_, *store.find("conv.weight")), testing::Each(1.5));
  EXPECT_THAT(host_values(stream_, *store.find("bn.running_var")), ElementsAre(0.5, 0.25));
}

TEST_F(Weights, RefusesWhatDoesNotFitAndChangesNothing) {
  ParameterStore store;
  fill(store);
  write<float>("conv.weight", {2, 1, 2, 3}, std::vector<float>(12));
  write<int32_t>("fc.weight", {1, 2}, {2, 3});
  write<float>("layer9.conv1.weight", {1}, {0});
  std::vector<double> before = host_values(stream_, *store.find("conv.weight"));
  EXPECT_THAT(refusal(store), AllOf(HasSubstr(path_.string()), HasSubstr("missing: bn.running_var"),
                                    HasSubstr("unexpected: layer9.conv1.weight"),
                                    HasSubstr("conv.weight is [2, 1, 2, 3] and should be [2, 3, 1, 2]"),
                                    HasSubstr("fc.weight of i32")));
  EXPECT_EQ(host_values(stream_, *store.find("conv.weight")), before);
}

TEST_F(Weights, RefusesNaN) {
  ParameterStore store;
  fill(store);
  write<float>("conv.weight", {2, 3, 1, 2}, std::vector<float>(12));
  write<float>("bn.running_var", {2}, {1, std::nanf("")});
  write<float>("fc.weight", {1, 2}, {2, 3});
  std::vector<double> before = host_values(stream_, *store.find("fc.weight"));
  EXPECT_THAT(refusal(store), HasSubstr("NaN or infinity in bn.running_var"));
  EXPECT_EQ(host_values(stream_, *store.find("fc.weight")), before);
}

}  // namespace
}  // namespace taper
