// Which devices a build has, and what it says of those that it has not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/backend.h"
#include "runtime/error.h"

namespace taper {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::string& device, const BackendOptions& options = {}) {
  try {
    make_backend(device, options);
  } catch (const UserError& error) {
    return error.what();
  }
  return "(no error)";
}

TEST(Devices, TheCpuIsAlwaysThereAndComesFirst) {
  EXPECT_EQ(devices().front(), "cpu");
  EXPECT_EQ(make_backend("cpu")->name(), "cpu");
}

TEST(Devices, OthersAreKnownByTheirNames) {
  const std::vector<std::string> there = devices();
  for (const std::string device : {"sim", "cuda"}) {
    if (std::find(there.begin(), there.end(), device) == there.end()) {
      EXPECT_THAT(message_of(device), HasSubstr("this build has no device " + device + ", it has cpu"));
    } else if (device == "sim") {  // cuda needs a GPU to be made
      EXPECT_EQ(make_backend(device)->name(), device);
    }
  }
}

TEST(Devices, TheCpuHasNoTf32) {
  EXPECT_THAT(message_of("cpu", {.tf32 = true}), HasSubstr("the devices cuda and sim have it"));
}

TEST(Devices, AnUnknownOneIsRefusedWithThoseThereAre) {
  EXPECT_THAT(message_of("gpu"), HasSubstr("there are cpu, sim and cuda"));
  EXPECT_THAT(message_of(""), HasSubstr("there is no device"));
}

}  // namespace
}  // namespace taper
