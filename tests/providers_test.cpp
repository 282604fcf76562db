// Who makes an op: how Provider::automatic chooses, what of it a run keeps, and what is refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "kernels/backend.h"
#include "recipes/providers_file.h"
#include "runtime/error.h"
#include "tests/rank_threads.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "(no error)";
}

/// A clock that gives each provider's seconds in turn, and counts how often it was read.
struct FakeClock {
  std::vector<double> own, vendor;
  size_t own_reads = 0, vendor_reads = 0;
  double operator()(Provider provider) {
    return provider == Provider::own ? own[own_reads++ % own.size()] : vendor[vendor_reads++ % vendor.size()];
  }
};

TEST(Providers, TheOneWithTheShorterMinimumIsChosen) {
  // The first of each warms up, and is the best there is of the loser.
  FakeClock clock{.own = {0.1, 5, 5, 3, 5, 5}, .vendor = {9, 9, 2, 9, 9, 9}};
  ProviderChoices choices;
  EXPECT_EQ(choices.choose("matmul", std::ref(clock)), Provider::vendor);
  EXPECT_EQ(clock.own_reads, 1 + ProviderChoices::kRounds);
  EXPECT_EQ(clock.vendor_reads, 1 + ProviderChoices::kRounds);
  const ProviderChoices::Choice choice = choices.all().at("matmul");
  EXPECT_EQ(choice.own_seconds, 3);
  EXPECT_EQ(choice.vendor_seconds, 2);
}

TEST(Providers, EqualTimesAndAVendorWithoutTheOpLeaveItToTaper) {
  ProviderChoices choices;
  EXPECT_EQ(choices.choose("equal", FakeClock{{1}, {1}}), Provider::own);
  EXPECT_EQ(choices.choose("missing", FakeClock{{1}, {HUGE_VAL}}), Provider::own);
}

TEST(Providers, AShapeIsTimedOnce) {
  ProviderChoices choices;
  FakeClock clock{{2}, {1}};
  choices.choose("a", std::ref(clock));
  clock = {{1}, {2}};
  EXPECT_EQ(choices.choose("a", std::ref(clock)), Provider::vendor);
  EXPECT_EQ(clock.own_reads + clock.vendor_reads, 0U);
  EXPECT_EQ(choices.choose("b", std::ref(clock)), Provider::own);
}

TEST(Providers, EarlierChoicesAreTakenOver) {
  ProviderChoices choices;
  choices.set({{"a", {Provider::vendor, 1, 2}}});
  EXPECT_EQ(choices.choose("a", [](Provider) -> double { throw Failure("timed"); }), Provider::vendor);
}

TEST(Providers, FrozenOnesTimeNothingAndKeepWhatTheyHave) {
  ProviderChoices choices;
  choices.choose("a", FakeClock{{2}, {1}});
  choices.freeze(true);
  auto never = [](Provider) -> double { throw Failure("timed"); };
  EXPECT_EQ(choices.choose("a", never), Provider::vendor);
  EXPECT_EQ(choices.choose("b", never), Provider::own);
  choices.freeze(false);
  EXPECT_EQ(choices.choose("b", FakeClock{{2}, {1}}), Provider::vendor) << "nothing was chosen meanwhile";
}

TEST(Providers, RanksTakeOverWhatTheFirstHasMeasured) {
  std::vector<Choices> all(4);
  on_ranks(4, [&](ThreadRank& self) {
    ProviderChoices choices;
    choices.freeze(true);
    auto seconds = [&](Provider provider) -> double {
      if (!self.first()) throw Failure("rank {} timed", self.rank());
      return provider == Provider::own ? 0.2 : 0.1;
    };
    agree_on_providers(self, choices, [&] { choices.choose("met", seconds); });
    EXPECT_EQ(choices.choose("met", seconds), Provider::vendor);
    EXPECT_EQ(choices.choose("not met", seconds), Provider::own);
    // Again, as in the next stage.
    agree_on_providers(self, choices, [&] { choices.choose("met later", seconds); });
    EXPECT_EQ(choices.choose("met later", seconds), Provider::vendor);
    all[static_cast<size_t>(self.rank())] = choices.all();
  });
  for (const Choices& choices : all) {
    ASSERT_EQ(choices.size(), 2U);
    EXPECT_DOUBLE_EQ(choices.at("met").vendor_seconds, 0.1);
  }
}

class ProvidersFile : public testing::Test {
 protected:
  ProvidersFile() : folder_(fs::path(testing::TempDir()) / fmt::format("taper-providers-{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~ProvidersFile() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(ProvidersFile, ComesBackAsItWas) {
  EXPECT_FALSE(has_providers(folder_));
  write_providers(folder_, {});
  EXPECT_FALSE(has_providers(folder_)) << "a run that chose nothing leaves no file";
  const Choices choices = {{"matmul 1x[2 x 3 x 4]", {Provider::vendor, 0x1p-10, 0x1p-11}},
                           {"conv_forward", {Provider::own, 0.5, HUGE_VAL}}};
  write_providers(folder_, choices);
  const Choices read = read_providers(folder_);
  ASSERT_EQ(read.size(), 2U);
  for (const auto& [key, choice] : choices) {
    EXPECT_EQ(read.at(key).provider, choice.provider);
    EXPECT_DOUBLE_EQ(read.at(key).own_seconds, choice.own_seconds);
    EXPECT_DOUBLE_EQ(read.at(key).vendor_seconds, choice.vendor_seconds);
  }
}

TEST_F(ProvidersFile, WhatIsNoSuchFileIsRefusedByName) {
  EXPECT_THAT(error_of([&] { read_providers(folder_); }),
              AllOf(HasSubstr("providers.json: there is no such file"), HasSubstr("\"auto\"")));
  for (const char* text : {"{", "[1]", R"({"a":{"provider":"auto","own_us":1,"vendor_us":1}})",
                           R"({"a":{"provider":"own","own_us":"x","vendor_us":1}})"}) {
    std::ofstream(folder_ / "providers.json") << text;
    EXPECT_THAT(error_of([&] { read_providers(folder_); }),
                HasSubstr("providers.json: is not what a run writes there"));
  }
}

TEST(Providers, OnlyTheDeviceCudaHasAVendor) {
  for (const std::string device : {"cpu", "sim"})
    for (Provider provider : {Provider::vendor, Provider::automatic}) {
      EXPECT_THAT(error_of([&] { make_backend(device, {.matmul = provider}); }),
                  AllOf(HasSubstr("the device " + device), HasSubstr("own kernels only")));
      EXPECT_THAT(error_of([&] { make_backend(device, {.convolution = provider}); }),
                  HasSubstr("own kernels only"));
    }
}

TEST(Providers, AreKnownByTheirNames) {
  for (Provider provider : {Provider::own, Provider::vendor, Provider::automatic})
    EXPECT_EQ(provider_named(name(provider)), provider);
  EXPECT_THAT(error_of([] { provider_named("nvidia"); }), HasSubstr("there are own, vendor and auto"));
}

}  // namespace
}  // namespace taper
