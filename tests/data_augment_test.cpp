#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "recipes/data/augment.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::HasSubstr;

/// Every pixel has a value of its own: position + 1 (an image of at most 255 pixels).
Image numbered(int64_t height, int64_t width, int channels = 1) {
  Image image{height, width, channels, {}};
  for (int64_t i = 0; i < height * width * channels; ++i) image.pixels.push_back(static_cast<uint8_t>(i + 1));
  return image;
}

/// The transformed values, back on the scale of bytes.
std::vector<int> transform(const Augmentation& augmentation, const Image& image, uint64_t sample = 0) {
  const Augmenter augmenter(augmentation, image.channels);
  std::vector<float> out(augmentation.image_size * augmentation.image_size * image.channels);
  augmenter.apply(image, Draws(1, 0, sample), out.data());
  std::vector<int> bytes;
  for (const float value : out) bytes.push_back(static_cast<int>(std::lround(value * 255)));
  return bytes;
}

TEST(Resize, HasPillowsBytes) {
  const auto cases = golden_cases("resize");
  ASSERT_GE(cases.size(), 16u);
  for (const auto& c : cases) {
    const std::string expected = c["expected"];
    SCOPED_TRACE(expected);
    const int64_t height = c["height"], width = c["width"];
    const int channels = c["channels"];
    const Image input = golden_image(c["input"], c["in_height"], c["in_width"], channels);
    const Image wanted = golden_image(expected, height, width, channels);
    EXPECT_TRUE(resize(input, height, width).pixels == wanted.pixels);
    const Box window{height / 3, width / 4, (height + 1) / 2, (width + 1) / 2};
    EXPECT_TRUE(resize(input, height, width, window).pixels == crop(wanted, window).pixels);
  }
}

TEST(CenterCrop, HasTorchvisionsBytes) {
  const auto cases = golden_cases("center");
  ASSERT_GE(cases.size(), 8u);
  for (const auto& c : cases) {
    const std::string expected = c["expected"];
    SCOPED_TRACE(expected);
    Augmentation augmentation;
    augmentation.crop = "center";
    augmentation.resize = c["resize"];
    augmentation.image_size = c["size"];
    const auto bytes = transform(augmentation, golden_image(c["input"], c["in_height"], c["in_width"], 3));
    const auto wanted = read_golden(expected);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), wanted.begin(), wanted.end()));
  }
}

TEST(CenterCrop, CopesWithExtremeShapes) {
  Augmentation augmentation;
  augmentation.crop = "center";
  augmentation.resize = 256;
  augmentation.image_size = 224;
  Image line{1, 60000, 1, std::vector<uint8_t>(60000, 9)};
  EXPECT_EQ(transform(augmentation, line), std::vector<int>(224 * 224, 9));
}

TEST(Crop, IsZeroOutside) {
  const Image out = crop(numbered(2, 3), {-1, 1, 4, 3});
  EXPECT_EQ(out.pixels, (std::vector<uint8_t>{0, 0, 0, 2, 3, 0, 5, 6, 0, 0, 0, 0}));
  EXPECT_EQ(crop(numbered(2, 3), {5, 5, 1, 2}).pixels, (std::vector<uint8_t>{0, 0}));
}

TEST(Flip, MirrorsRowsAndKeepsChannelsTogether) {
  Image image = numbered(2, 3, 3);
  flip_horizontally(image);
  EXPECT_EQ(image.pixels,
            (std::vector<uint8_t>{7, 8, 9, 4, 5, 6, 1, 2, 3, 16, 17, 18, 13, 14, 15, 10, 11, 12}));
}

TEST(Flip, HappensToHalfOfTheSamples) {
  Augmentation augmentation;
  augmentation.image_size = 2;
  augmentation.flip = true;
  constexpr int kSamples = 4096;
  int flipped = 0;
  for (int i = 0; i < kSamples; ++i) flipped += transform(augmentation, numbered(2, 2), i)[0] == 2;
  // Six standard deviations of a binomial: sqrt(n) / 2 each.
  EXPECT_NEAR(flipped, kSamples / 2, 6 * std::sqrt(kSamples) / 2);
}

TEST(PadCrop, ReachesEveryOffsetEquallyOften) {
  Augmentation augmentation;
  augmentation.crop = "pad";
  augmentation.image_size = 8;
  augmentation.padding = 2;
  const Image image = numbered(8, 8);
  constexpr int kSamples = 10000, kOffsets = 25;
  std::vector<int> counts(kOffsets);
  for (int i = 0; i < kSamples; ++i) {
    const auto out = transform(augmentation, image, i);
    const int middle = out[4 * 8 + 4] - 1;  // never a padded pixel
    const int top = middle / 8 - 4, left = middle % 8 - 4;
    ASSERT_LE(std::abs(top), 2);
    ASSERT_LE(std::abs(left), 2);
    const auto expected = crop(image, {top, left, 8, 8}).pixels;
    ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin()));
    ++counts[(top + 2) * 5 + left + 2];
  }
  double chi2 = 0;
  for (const int count : counts) chi2 += std::pow(count - kSamples / kOffsets, 2) / (kSamples / kOffsets);
  EXPECT_LT(chi2,
            24 + 6 * std::sqrt(2 * 24));  // mean and deviation of chi-squared with 24 degrees of freedom
}

// For a large square image nearly no try is rejected for its area, so the definition gives the distribution
// of a try that fits: area uniform in [0.08, 1] and log ratio uniform, both conditioned on w, h <= side.
TEST(RandomResizedCrop, FollowsTheDefinition) {
  constexpr int64_t kSide = 10000;
  constexpr int kSamples = 20000, kBins = 10;
  // The expected counts, by integrating over a fine grid of (area, log ratio) and keeping what fits.
  std::vector<double> area_mass(kBins), ratio_mass(kBins);
  double total = 0;
  constexpr int kGrid = 1000;
  for (int i = 0; i < kGrid; ++i) {
    for (int j = 0; j < kGrid; ++j) {
      const double area = 0.08 + 0.92 * (i + 0.5) / kGrid;
      const double ratio = std::exp(std::log(4.0 / 3.0) * (2 * (j + 0.5) / kGrid - 1));
      if (area * ratio > 1 || area / ratio > 1) continue;
      area_mass[i * kBins / kGrid] += 1;
      ratio_mass[j * kBins / kGrid] += 1;
      total += 1;
    }
  }
  std::vector<int> areas(kBins), ratios(kBins), tops(kBins), lefts(kBins);
  int whole = 0;
  for (int s = 0; s < kSamples; ++s) {
    Draws draws(7, 0, s);
    const Box box = random_resized_box(kSide, kSide, draws);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, kSide);
    ASSERT_LE(box.left + box.width, kSide);
    if (box.height == kSide && box.width == kSide) {
      ++whole;  // the fallback, or an area of 1
      continue;
    }
    const double h = static_cast<double>(box.height), w = static_cast<double>(box.width);
    const auto bin = [](double x) { return std::clamp(static_cast<int>(x * kBins), 0, kBins - 1); };
    ++areas[bin((h * w / (1.0 * kSide * kSide) - 0.08) / 0.92)];
    ++ratios[bin(std::log(w / h) / std::log(4.0 / 3.0) / 2 + 0.5)];
    if (box.height < kSide) ++tops[bin(static_cast<double>(box.top) / (kSide - h + 1))];
    if (box.width < kSide) ++lefts[bin(static_cast<double>(box.left) / (kSide - w + 1))];
  }
  const auto check = [](const std::vector<int>& counts, const std::vector<double>& mass) {
    double samples = 0, weight = 0, chi2 = 0;
    for (int b = 0; b < kBins; ++b) samples += counts[b], weight += mass[b];
    for (int b = 0; b < kBins; ++b) {
      const double expected = samples * mass[b] / weight;
      chi2 += (counts[b] - expected) * (counts[b] - expected) / expected;
    }
    // Mean 9 and deviation sqrt(18) of chi-squared with 9 degrees of freedom.
    EXPECT_LT(chi2, 9 + 6 * std::sqrt(18.0));
  };
  check(areas, area_mass);
  check(ratios, ratio_mass);
  check(tops, std::vector<double>(kBins, 1));
  check(lefts, std::vector<double>(kBins, 1));
  // A try fails with probability p = 1 - total / kGrid^2, ten in a row with p^10.
  EXPECT_LT(whole, 10 + kSamples * std::pow(1 - total / kGrid / kGrid, 10));
}

TEST(RandomResizedCrop, FallsBackToTheCenter) {
  // 1000 x 10: no permitted ratio gives 8 % of the area, so every try fails. min ratio 3/4: height 10 / 0.75.
  Draws draws(7, 0, 0);
  Box box = random_resized_box(1000, 10, draws);
  EXPECT_EQ((std::vector{box.top, box.left, box.height, box.width}), (std::vector<int64_t>{493, 0, 13, 10}));
  box = random_resized_box(10, 1000, draws);
  EXPECT_EQ((std::vector{box.top, box.left, box.height, box.width}), (std::vector<int64_t>{0, 493, 10, 13}));
  box = random_resized_box(1, 1, draws);
  EXPECT_EQ((std::vector{box.top, box.left, box.height, box.width}), (std::vector<int64_t>{0, 0, 1, 1}));
}

TEST(Augmenter, NormalizesAsTorchvisionDoes) {
  Augmentation augmentation;
  augmentation.image_size = 1;
  augmentation.mean = {0.485f, 0.456f, 0.406f};
  augmentation.std = {0.229f, 0.224f, 0.225f};
  const Augmenter augmenter(augmentation, 3);
  float out[3];
  augmenter.apply({1, 1, 3, {0, 128, 255}}, Draws(1, 0, 0), out);
  for (int c = 0; c < 3; ++c) {
    const float value = std::vector<float>{0, 128, 255}[c] / 255.0f;
    EXPECT_EQ(out[c], (value - augmentation.mean[c]) / augmentation.std[c]);
  }
}

TEST(Augmenter, ResizesWhenTheSizeDiffers) {
  Augmentation augmentation;
  augmentation.image_size = 16;
  const auto bytes = transform(augmentation, golden_image("scene3.raw", 37, 53, 3));
  const auto wanted = read_golden("resize3_16x16.raw");
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), wanted.begin(), wanted.end()));
}

TEST(Augmenter, RefusesSettingsThatMakeNoSense) {
  const auto error = [](auto change) {
    Augmentation augmentation;
    augmentation.image_size = 8;
    change(augmentation);
    return user_error([&] { Augmenter(augmentation, 3); });
  };
  EXPECT_EQ(error([](auto&) {}), "");
  EXPECT_THAT(error([](auto& a) { a.crop = "centre"; }), HasSubstr("crop = \"centre\" is not known"));
  EXPECT_THAT(error([](auto& a) { a.image_size = 0; }), HasSubstr("image_size = 0"));
  EXPECT_THAT(error([](auto& a) { a.crop = "center"; }), HasSubstr("resize = 0 with crop = \"center\""));
  EXPECT_THAT(error([](auto& a) { a.mean = {0.5f}; }), HasSubstr("mean has 1 values, but the images have 3"));
  EXPECT_THAT(error([](auto& a) { a.std = {0.5f, 0.0f, 0.5f}; }), HasSubstr("std = 0 is not positive"));
}

}  // namespace
}  // namespace taper
