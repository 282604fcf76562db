#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "recipes/data/decode.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string decode_error(const std::vector<uint8_t>& bytes) {
  return user_error([&] { decode_image(bytes, "some/file"); });
}

/// Replaces the size in a PNG's header and its checksum.
std::vector<uint8_t> png_claiming(uint32_t width, uint32_t height) {
  auto bytes = read_golden("rgb8.png");
  const auto put = [&](size_t at, uint32_t value) {
    for (int i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
  };
  put(16, width);
  put(20, height);
  uint32_t crc = ~uint32_t{0};
  for (size_t i = 12; i < 29; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
  }
  put(29, ~crc);
  return bytes;
}

std::vector<uint8_t> jpeg_claiming(uint16_t width, uint16_t height) {
  auto bytes = read_golden("420.jpg");
  const std::array<uint8_t, 2> kFrame{0xff, 0xc0};
  const auto at = std::search(bytes.begin(), bytes.end(), kFrame.begin(), kFrame.end());
  at[5] = static_cast<uint8_t>(height >> 8), at[6] = static_cast<uint8_t>(height);
  at[7] = static_cast<uint8_t>(width >> 8), at[8] = static_cast<uint8_t>(width);
  return bytes;
}

TEST(Decode, HasPillowsBytes) {
  const auto cases = golden_cases("decode");
  ASSERT_GE(cases.size(), 40u);
  for (const auto& c : cases) {
    const std::string file = c["file"];
    SCOPED_TRACE(file);
    const Image image = decode_image(read_golden(file), file);
    EXPECT_EQ(image.height, c["height"].get<int64_t>());
    EXPECT_EQ(image.width, c["width"].get<int64_t>());
    EXPECT_EQ(image.channels, 3);
    EXPECT_TRUE(image.pixels == read_golden(c["expected"]));
  }
}

TEST(Decode, GreyIsPillowsLuma) {
  for (const auto& c : golden_cases("grey")) {
    const Image color = golden_image(c["input"], c["height"], c["width"], 3);
    const Image grey = convert_channels(color, 1);
    EXPECT_EQ(grey.channels, 1);
    EXPECT_TRUE(grey.pixels == read_golden(c["expected"]));
    EXPECT_TRUE(convert_channels(convert_channels(grey, 3), 1).pixels == grey.pixels);
  }
}

TEST(Decode, RefusesEveryTruncation) {
  for (const char* name :
       {"420.jpg", "progressive.jpg", "cmyk.jpg", "rgb16.png", "palette4_interlaced.png"}) {
    const auto whole = read_golden(name);
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::vector<uint8_t> part(whole.begin(), whole.begin() + static_cast<int64_t>(size));
      ASSERT_THAT(decode_error(part), AllOf(HasSubstr("some/file: "), HasSubstr("; ")))
          << name << " cut at " << size;
    }
  }
}

TEST(Decode, NamesWhatIsWrong) {
  EXPECT_THAT(decode_error({}), HasSubstr("some/file: is an empty file"));
  EXPECT_THAT(decode_error({'G', 'I', 'F', '8', '9', 'a'}), HasSubstr("neither a JPEG nor a PNG"));
  auto jpeg = read_golden("420.jpg");
  jpeg.resize(jpeg.size() * 3 / 4);
  EXPECT_THAT(decode_error(jpeg), HasSubstr("the JPEG image is truncated after"));
  auto png = read_golden("rgb8.png");
  png[png.size() - 20] ^= 1;  // inside the compressed pixels: the checksum no longer fits
  EXPECT_THAT(decode_error(png), HasSubstr("cannot be decoded ("));
}

TEST(Decode, RefusesImagesWithoutPixels) {
  EXPECT_THAT(decode_error(png_claiming(0, 5)), HasSubstr("is not a readable PNG image"));
  EXPECT_THAT(decode_error(png_claiming(5, 0)), HasSubstr("is not a readable PNG image"));
  EXPECT_THAT(decode_error(jpeg_claiming(0, 5)), HasSubstr("is not a readable JPEG image"));
  EXPECT_THAT(decode_error(jpeg_claiming(5, 0)), HasSubstr("is not a readable JPEG image"));
}

TEST(Decode, RefusesBombsBeforeAllocating) {
  const std::string expected = "claims 60000 x 60000 pixels, and more than 178956970 are refused";
  EXPECT_THAT(decode_error(png_claiming(60000, 60000)), HasSubstr(expected));
  EXPECT_THAT(decode_error(jpeg_claiming(60000, 60000)), HasSubstr(expected));
  EXPECT_THAT(decode_error(png_claiming(0x7fffffff, 0x7fffffff)), HasSubstr("are refused"));
  const auto small = read_golden("rgb8.png");  // 11 x 13
  EXPECT_EQ(user_error([&] { decode_image(small, "f", 143); }), "");
  EXPECT_THAT(user_error([&] { decode_image(small, "f", 142); }), HasSubstr("more than 142 are refused"));
}

}  // namespace
}  // namespace taper
