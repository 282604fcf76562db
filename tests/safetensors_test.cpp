#include "runtime/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

template <typename T>
TensorBytes view(const std::string& name, DType dtype, std::vector<int64_t> shape,
                 const std::vector<T>& values) {
  return {name, dtype, std::move(shape), std::as_bytes(std::span(values))};
}

template <typename T>
std::vector<T> values_of(const TensorBytes& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A file with this header, its length put in front, and so many bytes of data.
std::vector<std::byte> file_with(const std::string& header, size_t data) {
  uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += header + std::string(data, '\1');
  return {bytes_of(file).begin(), bytes_of(file).end()};
}

/// The sentence with which the content is refused; fails the test if it is not.
std::string refusal(const std::vector<std::byte>& content) {
  try {
    SafetensorsFile::parse(content, "model.safetensors");
  } catch (const UserError& error) {
    return error.what();
  }
  ADD_FAILURE() << "was accepted: " << text_of(content);
  return "";
}

class Safetensors : public testing::Test {
 protected:
  Safetensors() : folder_(fs::path(testing::TempDir()) / fmt::format("safetensors-{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~Safetensors() override { fs::remove_all(folder_); }
  fs::path folder_;
};

const std::vector<float> kFloats = {
    0.f,   -0.f, 1.5f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::denorm_min(),
    -3e38f};

TEST_F(Safetensors, EveryDtypeComesBackBitForBit) {
  std::vector<double> doubles = {0.1, -1e300};
  std::vector<uint16_t> halves = {0x3F80, 0xC000, 0x7FC1};
  std::vector<int32_t> ints = {-1, 7, std::numeric_limits<int32_t>::min()};
  std::vector<int64_t> longs = {int64_t{1} << 40, -2};
  std::vector<uint8_t> bytes = {0, 127, 255};
  std::vector<float> none;
  fs::path path = folder_ / "all.safetensors";
  write_safetensors(path,
                    {view("f32", DType::f32, {2, 3}, kFloats), view("f64", DType::f64, {2}, doubles),
                     view("bf16", DType::bf16, {3, 1}, halves), view("i32", DType::i32, {3}, ints),
                     view("i64", DType::i64, {1, 2}, longs), view("u8", DType::u8, {3}, bytes),
                     view("scalar", DType::f32, {}, std::vector<float>{4.f}),
                     view("none", DType::f32, {3, 0, 2}, none), view("nothing", DType::i64, {0}, none)},
                    {{"format", "pt"}, {"a \"quoted\"\nkey", "ä"}});
  SafetensorsFile file = SafetensorsFile::read(path);
  EXPECT_EQ(file.tensors().size(), 9U);
  // Compared as bits: -0 and NaN must survive.
  EXPECT_EQ(std::memcmp(file.tensor("f32").bytes.data(), kFloats.data(), kFloats.size() * sizeof(float)), 0);
  EXPECT_THAT(file.tensor("f32").shape, ElementsAre(2, 3));
  EXPECT_EQ(values_of<double>(file.tensor("f64")), doubles);
  EXPECT_EQ(values_of<uint16_t>(file.tensor("bf16")), halves);
  EXPECT_EQ(file.tensor("bf16").dtype, DType::bf16);
  EXPECT_EQ(values_of<int32_t>(file.tensor("i32")), ints);
  EXPECT_EQ(values_of<int64_t>(file.tensor("i64")), longs);
  EXPECT_EQ(values_of<uint8_t>(file.tensor("u8")), bytes);
  EXPECT_TRUE(file.tensor("scalar").shape.empty());
  EXPECT_THAT(values_of<float>(file.tensor("scalar")), ElementsAre(4.f));
  EXPECT_THAT(file.tensor("none").shape, ElementsAre(3, 0, 2));
  EXPECT_TRUE(file.tensor("none").bytes.empty());
  EXPECT_EQ(file.metadata().at("a \"quoted\"\nkey"), "ä");
  EXPECT_EQ(file.find("f3"), nullptr);
  try {
    file.tensor("layer9.weight");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("all.safetensors"), HasSubstr("layer9.weight")));
  }
}

TEST_F(Safetensors, EmptyFileOfNoTensors) {
  write_safetensors(folder_ / "none", {});
  SafetensorsFile file = SafetensorsFile::read(folder_ / "none");
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_TRUE(file.metadata().empty());
}

TEST_F(Safetensors, ReadsWhatPythonWroteAndWritesTheSameBytes) {
  fs::path golden = fs::path(TAPER_SOURCE_DIR) / "tests/golden/python.safetensors";
  SafetensorsFile file = SafetensorsFile::read(golden);
  EXPECT_EQ(values_of<float>(file.tensor("layer1.0.conv1.weight")),
            (std::vector<float>{0, .25f, .5f, .75f, 1, 1.25f, 1.5f, 1.75f}));
  EXPECT_THAT(file.tensor("layer1.0.conv1.weight").shape, ElementsAre(2, 1, 2, 2));
  EXPECT_THAT(values_of<int64_t>(file.tensor("bn1.num_batches_tracked")),
              ElementsAre((int64_t{1} << 40) + 3));
  EXPECT_TRUE(file.tensor("bn1.num_batches_tracked").shape.empty());
  EXPECT_THAT(values_of<double>(file.tensor("double")), ElementsAre(0.1, -1e300));
  EXPECT_THAT(values_of<int32_t>(file.tensor("labels")), ElementsAre(-1, 7, 2147483647));
  EXPECT_THAT(values_of<uint16_t>(file.tensor("half")), ElementsAre(0x3F80, 0xC000, 0x7F80));
  EXPECT_THAT(values_of<uint8_t>(file.tensor("pixels")), ElementsAre(0, 127, 255));
  EXPECT_THAT(file.tensor("empty").shape, ElementsAre(0, 3));
  EXPECT_EQ(file.tensor("größe \"x\"\n").dtype, DType::u8);
  EXPECT_THAT(file.metadata(), ElementsAre(testing::Pair("format", "pt")));

  std::vector<TensorBytes> reversed(file.tensors().rbegin(), file.tensors().rend());
  write_safetensors(folder_ / "ours", reversed, file.metadata());
  EXPECT_EQ(text_of(read_file(folder_ / "ours")), text_of(read_file(golden)));
}

struct Malformed {
  const char* header;
  size_t data;
  const char* complaint;
};

TEST(SafetensorsMalformed, EachIsRefusedWithItsReason) {
  const Malformed table[] = {
      {"", 0, "does not begin with '{'"},
      {"[]", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"\xEF\xBB\xBF{}", 0, "does not begin with '{'"},
      {"{", 0, "not valid JSON, at byte 9 "},
      {"{} x", 0, "not valid JSON, at byte 11 "},
      {"{}{}", 0, "not valid JSON, at byte 10 "},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],}})", 4, "not valid JSON"},
      {"{\"\xFF\":{}}", 0, "not valid JSON"},
      {R"({"a":1})", 0, "tensor 'a' is a number, where an object"},
      {R"({"a":[]})", 0, "tensor 'a' is a list, where an object"},
      {R"({"a":null})", 0, "tensor 'a' is null, where an object"},
      {R"({"a":"F32"})", 0, "tensor 'a' is a string, where an object"},
      {R"({"a":{}})", 0, "tensor 'a': dtype is missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 'a': shape is missing"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a': data_offsets is missing"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, "unknown key 'x'"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
       "'dtype' is there twice"},
      {R"({"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}})", 2, "tensor 'a': dtype 'F16' is not"},
      {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4, "dtype 'f32' is not"},
      {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype holds a number, where a string"},
      {R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})", 4,
       "dtype holds a list, where a string"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape holds a number, where a list"},
      {R"({"a":{"dtype":"F32","shape":"[1]","data_offsets":[0,4]}})", 4,
       "shape holds a string, where a list"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4, "shape holds an object, where a list"},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4,
       "shape holds a list, where a whole number"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape holds a negative number"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "is not a whole one"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})", 4, "shape holds true or false"},
      {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4, "is too large"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0,
       "too large for 64-bit"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "too large for 64-bit"},
      {R"({"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "too large for 64-bit"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets must be two numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "more than two numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "do not match the 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,5]}})", 5, "do not match the 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "do not match the 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "begins at byte 4 of the data, where 0"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "is truncated: tensor 'a'"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "1 bytes follow the last tensor"},
      {R"({})", 1, "1 bytes follow the last tensor"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
       5, "tensor 'b' begins at byte 3 of the data, where 2 was expected: the data has a hole"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "tensor 'b' begins at byte 1 of the data, where 2 was expected: the data overlaps"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "the name 'a' is there twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "'__metadata__' is there twice"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "key 'k' of __metadata__ is there twice"},
      {R"({"__metadata__":{"k":1}})", 0, "k holds a number, where a string"},
      {R"({"__metadata__":{"shape":[1]}})", 0, "shape holds a list, where a string"},
      {R"({"__metadata__":"x"})", 0, "__metadata__ is a string, where an object"},
  };
  for (const Malformed& bad : table) {
    SCOPED_TRACE(bad.header);
    std::string sentence = refusal(file_with(bad.header, bad.data));
    EXPECT_THAT(sentence, HasSubstr(bad.complaint));
    EXPECT_THAT(sentence, HasSubstr("model.safetensors"));
  }
  EXPECT_THAT(refusal(file_with(std::string("{}\0x", 4), 0)), HasSubstr("not valid JSON, at byte 10 "));
}

TEST(SafetensorsMalformed, LengthsOfTheHeader) {
  auto prefix = [](uint64_t length) {
    std::vector<std::byte> file(16, std::byte{' '});
    std::memcpy(file.data(), &length, sizeof length);
    return file;
  };
  EXPECT_THAT(refusal({}), HasSubstr("it has 0 bytes"));
  EXPECT_THAT(refusal(std::vector<std::byte>(7)), HasSubstr("it has 7 bytes"));
  EXPECT_THAT(refusal(prefix(9)), HasSubstr("is truncated: its header needs 17 bytes, and the file has 16"));
  EXPECT_THAT(refusal(prefix(100'000'000)), HasSubstr("is truncated"));
  EXPECT_THAT(refusal(prefix(100'000'001)), HasSubstr("at most 100000000 are allowed"));
  EXPECT_THAT(refusal(prefix(UINT64_MAX)), HasSubstr("at most 100000000 are allowed"));
}

TEST(SafetensorsMalformed, EveryTruncationIsRefused) {
  SafetensorsImage image({view("a", DType::f32, {2, 3}, kFloats), view("b", DType::f32, {6}, kFloats)},
                         {{"key", "value"}});
  std::string whole;
  for (auto piece : image.pieces) whole += text_of(piece);
  ASSERT_EQ(
      SafetensorsFile::parse({bytes_of(whole).begin(), bytes_of(whole).end()}, "whole").tensors().size(), 2U);
  for (size_t length = 0; length < whole.size(); ++length) {
    auto part = bytes_of(whole).first(length);
    refusal({part.begin(), part.end()});
  }
}

TEST(SafetensorsWriter, RefusesWhatNoReaderWouldTake) {
  auto refused = [](std::vector<TensorBytes> tensors) {
    try {
      SafetensorsImage image(std::move(tensors));
    } catch (const Failure& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refused({view("a", DType::f32, {6}, kFloats), view("a", DType::f32, {6}, kFloats)}),
              HasSubstr("'a' is there twice"));
  EXPECT_THAT(refused({view("a", DType::f32, {5}, kFloats)}), HasSubstr("do not match its shape [5] of f32"));
  EXPECT_THAT(refused({view("a", DType::f32, {-1, -6}, kFloats)}), HasSubstr("do not match its shape"));
  EXPECT_THAT(refused({view("__metadata__", DType::f32, {6}, kFloats)}), HasSubstr("__metadata__"));
  EXPECT_THAT(refused({view("\xFF", DType::f32, {6}, kFloats)}), HasSubstr("not UTF-8"));
}

TEST_F(Safetensors, PathsThatCannotBeRead) {
  EXPECT_THROW(SafetensorsFile::read(folder_ / "missing"), UserError);
  EXPECT_THROW(SafetensorsFile::read(folder_), UserError);
  EXPECT_THROW(SafetensorsFile::read("/dev/zero"), UserError);
}

}  // namespace
}  // namespace taper
