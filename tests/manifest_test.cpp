#include "runtime/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/error.h"

namespace taper {
namespace {

using testing::HasSubstr;

TEST(Manifest, TellsWhatIsWrong) {
  auto refusal = [](const std::string& text) {
    try {
      decode_manifest(text, "manifest.json");
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  Manifest manifest{"id", 3, 0.25, {{"k", "v"}}, {{"weights.safetensors", {4, "00"}}}};
  std::string text = encode_manifest(manifest);
  EXPECT_EQ(refusal(text), "accepted");
  EXPECT_EQ(decode_manifest(text, "").score, 0.25);
  auto with = [&](const std::string& from, const std::string& to) {
    size_t place = text.find(from);
    return fmt::format("{}{}{}", text.substr(0, place), to, text.substr(place + from.size()));
  };
  EXPECT_THAT(refusal(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{}"), HasSubstr("lacks an entry"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("lacks an entry"));
  EXPECT_THAT(refusal(with("taper checkpoint", "other")),
              HasSubstr("does not belong to a checkpoint of Taper"));
  EXPECT_THAT(refusal(with("\"version\": 1", "\"version\": 2")),
              HasSubstr("format version 2, and this Taper reads"));
  EXPECT_THAT(refusal(with("\"sequence\": 3", "\"sequence\": -3")), HasSubstr("wrong type"));
  EXPECT_THAT(refusal(with("\"sequence\": 3", "\"sequence\": 1e300")), HasSubstr("wrong type"));
  EXPECT_THAT(refusal(with("\"sequence\": 3", "\"sequence\": 4")), HasSubstr("checksum does not match"));
  EXPECT_THAT(refusal(with("\"v\"", "\"w\"")), HasSubstr("checksum does not match"));
  EXPECT_THAT(refusal(with("{", "{\"x\": 1,")), HasSubstr("checksum does not match"));
  manifest.metadata.emplace("bad", "\xFF");
  EXPECT_THROW(encode_manifest(manifest), Failure);
}

/// XXH3-128 with seed 0 of "" and of "abc", as the specification's reference program (xxhsum -H2) prints
/// them.
TEST(Manifest, ChecksumIsXxh3) {
  EXPECT_EQ(record_of({}).checksum, "99aa06d3014798d86001c324468d497f");
  std::span<const std::byte> pieces[] = {bytes_of("a"), bytes_of("bc")};
  EXPECT_EQ(record_of(pieces).checksum, "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(record_of(pieces).size, 3);
}

}  // namespace
}  // namespace taper
