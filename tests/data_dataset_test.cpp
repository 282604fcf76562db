#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "recipes/data/dataset.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

using Raw = std::vector<uint8_t>;

const std::string kFashion = "/usr/share/datasets/fashion-mnist";

/// An idx file of bytes: `shape` in its header, then `values`.
Raw idx(const std::vector<uint32_t>& shape, const Raw& values) {
  Raw bytes{0, 0, 8, static_cast<uint8_t>(shape.size())};
  for (const uint32_t size : shape)
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(size >> shift));
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

Raw gzip(const Raw& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Raw out(deflateBound(&stream, bytes.size()));
  stream.next_in = const_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

Raw counting(size_t n) {
  Raw values(n);
  std::iota(values.begin(), values.end(), uint8_t{0});
  return values;
}

/// Three training images of 2 x 3 and two test images, all valid.
void write_idx(const TemporaryFolder& folder) {
  folder.write("train-images-idx3-ubyte", idx({3, 2, 3}, counting(18)));
  folder.write("train-labels-idx1-ubyte", idx({3}, {1, 0, 1}));
  folder.write("t10k-images-idx3-ubyte.gz", gzip(idx({2, 2, 3}, counting(12))));
  folder.write("t10k-labels-idx1-ubyte.gz", gzip(idx({2}, {0, 1})));
}

std::string open_error(const std::string& format, const std::string& path, Split split = Split::train,
                       int64_t limit = 0, int channels = 0) {
  return user_error([&] { open_dataset({format, path, limit, channels}, split); });
}

TEST(Idx, ReadsFashionMnist) {
  const auto train = open_dataset({"idx", kFashion}, Split::train);
  const auto test = open_dataset({"idx", kFashion}, Split::test);
  EXPECT_EQ(train->size(), 60000);
  EXPECT_EQ(test->size(), 10000);
  EXPECT_EQ(train->channels(), 1);
  EXPECT_EQ(train->classes().size(), 10u);
  std::vector<int> counts(10);
  double sum = 0, squares = 0;
  Image image;
  int32_t label = -1;
  for (int64_t i = 0; i < train->size(); ++i) {
    train->read(i, image, label);
    ++counts.at(label);
    for (const uint8_t pixel : image.pixels) sum += pixel, squares += pixel * pixel;
  }
  EXPECT_EQ(image.height, 28);
  EXPECT_EQ(image.width, 28);
  EXPECT_EQ(counts, std::vector<int>(10, 6000));
  // The set's well-known mean and standard deviation, to their printed digits.
  const double mean = sum / (60000.0 * 784);
  EXPECT_NEAR(mean / 255, 0.2860, 0.00005);
  EXPECT_NEAR(std::sqrt(squares / (60000.0 * 784) - mean * mean) / 255, 0.3530, 0.00005);
}

TEST(Idx, KeepsOrderLayoutAndNames) {
  const TemporaryFolder folder;
  write_idx(folder);
  const auto train = open_dataset({"idx", folder.path()}, Split::train);
  Image image;
  int32_t label = -1;
  train->read(1, image, label);
  EXPECT_EQ(label, 0);
  EXPECT_EQ(image.height, 2);
  EXPECT_EQ(image.width, 3);
  EXPECT_EQ(image.channels, 1);
  EXPECT_THAT(image.pixels, ElementsAre(6, 7, 8, 9, 10, 11));
  EXPECT_EQ(train->name(1), folder.path() + "/train-images-idx3-ubyte, image 1");
  EXPECT_THAT(train->classes(), ElementsAre("0", "1"));

  const auto color = open_dataset({"idx", folder.path(), 0, 3}, Split::test);
  EXPECT_EQ(color->channels(), 3);
  color->read(0, image, label);
  EXPECT_EQ(image.channels, 3);
  EXPECT_THAT(image.pixels, ElementsAre(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5));
}

TEST(Idx, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  EXPECT_THAT(open_error("idx", folder.path()), HasSubstr("/train-labels-idx1-ubyte: there is neither"));
  write_idx(folder);
  EXPECT_EQ(open_error("idx", folder.path()), "");
  const std::string images = "train-images-idx3-ubyte", labels = "train-labels-idx1-ubyte";
  const Raw good_images = idx({3, 2, 3}, counting(18)), good_labels = idx({3}, {1, 0, 1});
  const auto error = [&](const std::string& name, const Raw& bytes) {
    const Raw good = name == images ? good_images : good_labels;
    const std::string path = folder.write(name, bytes);
    const std::string message = open_error("idx", folder.path());
    folder.write(name, good);
    EXPECT_THAT(message, AllOf(HasSubstr(path + ": "), HasSubstr("; ")));
    return message;
  };

  EXPECT_THAT(error(images, {}), HasSubstr("is truncated: 0 bytes, and an idx header has 16"));
  EXPECT_THAT(error(images, good_labels), HasSubstr("is truncated: 11 bytes"));
  EXPECT_THAT(error(labels, good_images), HasSubstr("begins with 00000803 instead of 00000801"));
  EXPECT_THAT(error(images, Raw(100, 'x')), HasSubstr("begins with 78787878"));
  EXPECT_THAT(error(images, idx({3, 2, 3}, counting(17))), HasSubstr("claims 34 bytes and there are 33"));
  EXPECT_THAT(error(images, idx({3, 2, 3}, counting(19))), HasSubstr("more data follows the 34 bytes"));
  EXPECT_THAT(error(images, idx({2, 2, 3}, counting(12))), HasSubstr("holds 2 images, but"));
  EXPECT_THAT(error(images, idx({3, 0, 3}, {})), HasSubstr("dimension 1 in its header is 0"));
  EXPECT_THAT(error(images, idx({0, 2, 3}, {})), HasSubstr("holds no images"));
  EXPECT_THAT(error(images, idx({~0u, ~0u, ~0u}, counting(9))), HasSubstr("header claims more than"));
  EXPECT_THAT(error(labels, idx({3}, {1, 0, 200})),
              HasSubstr("label 200 is out of range: no image has label 2"));

  const Raw zipped = gzip(good_images);
  const auto changed = [&](auto change) {
    Raw bytes = zipped;
    change(bytes);
    return error(images, bytes);
  };
  EXPECT_THAT(changed([](Raw& b) { b.resize(b.size() - 5); }), HasSubstr("gzip stream is truncated after"));
  EXPECT_THAT(changed([](Raw& b) { b[b.size() - 6] ^= 1; }), HasSubstr("gzip stream is corrupt"));
  EXPECT_THAT(changed([](Raw& b) { b[12] ^= 0xff; }), HasSubstr("gzip stream is"));
  EXPECT_THAT(changed([](Raw& b) { b.push_back(0); }),
              HasSubstr("1 bytes follow the end of the gzip stream"));
  // A gzip bomb stops at what the header claims.
  EXPECT_THAT(error(images, gzip(idx({3, 2, 3}, Raw(50'000'000)))),
              HasSubstr("more data follows the 34 bytes"));

  folder.write("t10k-labels-idx1-ubyte.gz", idx({2}, {0, 2}));
  EXPECT_THAT(open_error("idx", folder.path(), Split::test), HasSubstr("label 2 at byte 9 is out of range"));
}

TEST(Idx, EveryTruncationIsAnError) {
  const TemporaryFolder folder;
  write_idx(folder);
  for (const Raw& whole : {idx({3, 2, 3}, counting(18)), gzip(idx({3, 2, 3}, counting(18)))}) {
    for (size_t size = 0; size < whole.size(); ++size) {
      folder.write("train-images-idx3-ubyte", Raw(whole.begin(), whole.begin() + static_cast<int64_t>(size)));
      ASSERT_NE(open_error("idx", folder.path()), "") << size;
    }
  }
}

/// A record whose pixel value is `base` + channel, but for a mark at row 1, column 2 of the green plane.
Raw cifar_record(const Raw& labels, uint8_t base) {
  Raw record = labels;
  for (int c = 0; c < 3; ++c) record.insert(record.end(), 1024, static_cast<uint8_t>(base + c));
  record[labels.size() + 1024 + 34] = 255;
  return record;
}

TEST(Cifar, ReadsRecordsOfAllFiles) {
  const TemporaryFolder folder;
  for (uint8_t batch = 1; batch <= 5; ++batch)
    folder.write("data_batch_" + std::to_string(batch) + ".bin",
                 cifar_record({batch}, static_cast<uint8_t>(batch * 10)));
  folder.write("test_batch.bin", cifar_record({9}, 7));
  const auto train = open_dataset({"cifar10", folder.path()}, Split::train);
  ASSERT_EQ(train->size(), 5);
  EXPECT_EQ(train->channels(), 3);
  Image image;
  int32_t label = -1;
  for (int64_t i = 0; i < 5; ++i) {
    train->read(i, image, label);
    EXPECT_EQ(label, i + 1);
    Raw wanted;
    for (int p = 0; p < 1024; ++p)
      for (int c = 0; c < 3; ++c)
        wanted.push_back(p == 34 && c == 1 ? 255 : static_cast<uint8_t>((i + 1) * 10 + c));
    EXPECT_TRUE(image.pixels == wanted);
  }
  EXPECT_EQ(train->name(3), folder.path() + "/data_batch_4.bin, image 0");
  EXPECT_EQ(open_dataset({"cifar10", folder.path()}, Split::test)->size(), 1);
  EXPECT_EQ(train->classes().size(), 10u);
  folder.write("batches.meta.txt", {'a', '\n', 'b', '\n', '\n'});
  EXPECT_THAT(open_error("cifar10", folder.path()), HasSubstr("has 2 class names instead of 10"));
}

TEST(Cifar, TakesTheFineLabelOfCifar100) {
  const TemporaryFolder folder;
  Raw two = cifar_record({19, 99}, 1);
  const Raw second = cifar_record({3, 0}, 2);
  two.insert(two.end(), second.begin(), second.end());
  folder.write("train.bin", two);
  std::string names;
  for (int c = 0; c < 100; ++c) names += "class" + std::to_string(c) + "\n";
  folder.write("fine_label_names.txt", Raw(names.begin(), names.end()));
  const auto train = open_dataset({"cifar100", folder.path()}, Split::train);
  ASSERT_EQ(train->size(), 2);
  EXPECT_EQ(train->classes().at(99), "class99");
  Image image;
  int32_t label = -1;
  train->read(0, image, label);
  EXPECT_EQ(label, 99);
  train->read(1, image, label);
  EXPECT_EQ(label, 0);
  EXPECT_EQ(image.pixels[0], 2);
}

TEST(Cifar, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  EXPECT_THAT(open_error("cifar100", folder.path()),
              HasSubstr("cannot read " + folder.path() + "/train.bin: "));
  folder.write("train.bin", {});
  EXPECT_THAT(open_error("cifar100", folder.path()), HasSubstr("has 0 bytes"));
  Raw record = cifar_record({0, 1}, 1);
  record.pop_back();
  folder.write("train.bin", record);
  EXPECT_THAT(open_error("cifar100", folder.path()),
              HasSubstr("has 3073 bytes, which is no multiple of the 3074"));
  folder.write("train.bin", cifar_record({0, 100}, 1));
  EXPECT_THAT(open_error("cifar100", folder.path()), HasSubstr("label 100 at byte 1 is out of range"));
}

TEST(Folder, ReadsClassesInByteOrder) {
  const TemporaryFolder folder;
  const Raw jpeg = read_golden("420.jpg"), png = read_golden("rgb8.png");
  folder.write("train/b/2.JPEG", jpeg);
  folder.write("train/b/10.png", png);
  folder.write("train/b/notes.txt", {'x'});
  folder.write("train/a10/deep/x.jpg", png);  // known by its bytes, not by its name
  folder.write("train/Z/1.jpeg", jpeg);
  for (const char* c : {"Z", "a10", "b"}) folder.write(std::string("val/") + c + "/v.png", png);
  const auto train = open_dataset({"folder", folder.path()}, Split::train);
  EXPECT_THAT(train->classes(), ElementsAre("Z", "a10", "b"));
  ASSERT_EQ(train->size(), 4);
  std::vector<std::string> names;
  std::vector<int32_t> labels(4);
  Image image;
  for (int64_t i = 0; i < 4; ++i) {
    train->read(i, image, labels[i]);
    names.push_back(train->name(i).substr(folder.path().size()));
  }
  EXPECT_THAT(names,
              ElementsAre("/train/Z/1.jpeg", "/train/a10/deep/x.jpg", "/train/b/10.png", "/train/b/2.JPEG"));
  EXPECT_THAT(labels, ElementsAre(0, 1, 2, 2));
  EXPECT_TRUE(image.pixels == read_golden("420.jpg.raw"));
  EXPECT_EQ(open_dataset({"folder", folder.path()}, Split::test)->size(), 3);
  const auto grey = open_dataset({"folder", folder.path(), 0, 1}, Split::test);
  grey->read(0, image, labels[0]);
  EXPECT_EQ(image.channels, 1);
}

TEST(Folder, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  const Raw png = read_golden("rgb8.png");
  EXPECT_THAT(open_error("folder", folder.path()), HasSubstr("/train: there is no such folder"));
  folder.write("train/readme.txt", {'x'});
  EXPECT_THAT(open_error("folder", folder.path()), HasSubstr("/train: holds no class folders"));
  folder.write("train/cat/readme.txt", {'x'});
  EXPECT_THAT(open_error("folder", folder.path()), HasSubstr("/train/cat: the class folder holds no"));
  folder.write("train/cat/1.png", png);
  EXPECT_EQ(open_error("folder", folder.path()), "");
  folder.write("train/cat/2.webp", png);
  EXPECT_THAT(open_error("folder", folder.path()), HasSubstr("/train/cat/2.webp: .webp images are not read"));
  std::filesystem::remove(folder.path() + "/train/cat/2.webp");
  folder.write("val/dog/1.png", png);
  EXPECT_THAT(open_error("folder", folder.path(), Split::test), HasSubstr("\"cat\" is missing"));
  folder.write("val/cat/1.png", png);
  EXPECT_THAT(open_error("folder", folder.path(), Split::test), HasSubstr("\"dog\" is not in train"));

  folder.write("train/cat/1.png", Raw(png.begin(), png.begin() + 60));
  const auto train = open_dataset({"folder", folder.path()}, Split::train);
  Image image;
  int32_t label = 0;
  EXPECT_THAT(user_error([&] { train->read(0, image, label); }),
              HasSubstr("/train/cat/1.png: cannot be decoded"));
  std::filesystem::remove(folder.path() + "/train/cat/1.png");
  EXPECT_THAT(user_error([&] { train->read(0, image, label); }), HasSubstr("cannot read " + train->name(0)));
}

TEST(Dataset, RefusesUnknownSettings) {
  EXPECT_THAT(open_error("mnist", kFashion), HasSubstr("data format \"mnist\" is not known"));
  EXPECT_THAT(open_error("idx", kFashion, Split::train, 0, 2), HasSubstr("channels = 2 is not possible"));
  EXPECT_THAT(open_error("idx", kFashion, Split::test, 10001),
              HasSubstr("has 10000 samples in its test split"));
  EXPECT_THAT(open_error("idx", kFashion, Split::test, -1), HasSubstr("limit = -1"));
}

TEST(Dataset, LimitKeepsANestedRandomSubset) {
  const auto names = [](int64_t limit) {
    const auto subset = open_dataset({"idx", kFashion, limit}, Split::test);
    std::vector<std::string> all;
    for (int64_t i = 0; i < subset->size(); ++i) all.push_back(subset->name(i));
    return all;
  };
  const auto small = names(1000), large = names(3000);
  ASSERT_EQ(small.size(), 1000u);
  ASSERT_EQ(large.size(), 3000u);
  EXPECT_TRUE(std::equal(small.begin(), small.end(), large.begin()));
  EXPECT_EQ(std::set<std::string>(large.begin(), large.end()).size(), 3000u);

  const auto subset = open_dataset({"idx", kFashion, 5000}, Split::train);
  std::vector<double> counts(10);
  Image image;
  int32_t label = 0;
  for (int64_t i = 0; i < subset->size(); ++i) subset->read(i, image, label), ++counts[label];
  // Hypergeometric: mean 500, deviation sqrt(5000 * 0.1 * 0.9 * 55000 / 59999).
  for (const double count : counts) EXPECT_NEAR(count, 500, 5 * std::sqrt(450.0 * 55000 / 59999));
}

}  // namespace
}  // namespace taper
