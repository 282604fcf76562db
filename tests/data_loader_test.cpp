#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <set>

#include "recipes/data/loader.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// `size` images of 6 x 6 whose first pixel is the index; reading one of `bad` fails.
class Fake : public Dataset {
 public:
  explicit Fake(int64_t size, std::set<int64_t> bad = {}) : size_(size), bad_(std::move(bad)) {}
  int64_t size() const override { return size_; }
  int channels() const override { return 1; }
  const std::vector<std::string>& classes() const override { return classes_; }
  void read(int64_t index, Image& image, int32_t& label) const override {
    ++reads;
    if (bad_.contains(index)) throw UserError("{}: is broken; replace it", name(index));
    image = {6, 6, 1, std::vector<uint8_t>(36)};
    for (int64_t i = 0; i < 36; ++i) image.pixels[i] = static_cast<uint8_t>(index + i);
    label = static_cast<int32_t>(index % 7);
  }
  std::string name(int64_t index) const override { return "sample" + std::to_string(index); }

  mutable std::atomic<int64_t> reads = 0;

 private:
  int64_t size_;
  std::set<int64_t> bad_;
  std::vector<std::string> classes_{"0", "1", "2", "3", "4", "5", "6"};
};

Augmentation plain(int64_t size) {
  Augmentation augmentation;
  augmentation.image_size = size;
  return augmentation;
}

Augmentation random_resized(int64_t size) {
  Augmentation augmentation = plain(size);
  augmentation.crop = "random_resized";
  augmentation.flip = true;
  return augmentation;
}

void expect_same(const ImageBatch& a, const ImageBatch& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.count, b.count);
  EXPECT_EQ(a.skipped, b.skipped);
  EXPECT_TRUE(a.indices == b.indices);
  EXPECT_TRUE(a.labels == b.labels);
  EXPECT_TRUE(a.images == b.images);
}

std::vector<ImageBatch> batches(const Dataset& dataset, const Augmentation& augmentation,
                                LoaderOptions options, int64_t count) {
  Loader loader(dataset, augmentation, options);
  std::vector<ImageBatch> all;
  for (int64_t i = 0; i < count; ++i) all.push_back(loader.next_images());
  return all;
}

TEST(Loader, HasTheSameBitsWhateverTheNumberOfThreads) {
  const auto fashion = open_dataset({"idx", "/usr/share/datasets/fashion-mnist", 500}, Split::train);
  LoaderOptions options{.key = 42, .batch_size = 64, .shuffle = true};
  const auto one = batches(*fashion, random_resized(28), options, 20);  // two and a half epochs
  options.threads = 4;
  const auto four = batches(*fashion, random_resized(28), options, 20);
  for (size_t i = 0; i < one.size(); ++i) expect_same(one[i], four[i]);
}

TEST(Loader, ResumesAtAnyStepWithTheSameBits) {
  const Fake dataset(50);
  LoaderOptions options{.key = 3, .batch_size = 8, .shuffle = true, .threads = 2};
  const auto all = batches(dataset, random_resized(5), options, 21);
  for (int64_t step = 0; step < 21; ++step) {
    options.first_step = step;
    Loader loader(dataset, random_resized(5), options);
    for (int64_t s = step; s < std::min<int64_t>(21, step + 3); ++s)
      expect_same(loader.next_images(), all[s]);
  }
  options.first_step = 1'000'000;  // decodes nothing of what lies before
  options.end_step = 1'000'001;
  dataset.reads = 0;
  expect_same(Loader(dataset, random_resized(5), options).next_images(),
              Loader(dataset, random_resized(5), options).next_images());
  EXPECT_LE(dataset.reads, 16);
}

TEST(Loader, TransformsDependOnEpochAndIndexAlone) {
  const Fake dataset(40);
  const auto images = [&](int64_t batch_size, bool shuffle) {
    const LoaderOptions options{.key = 3, .batch_size = batch_size, .shuffle = shuffle};
    std::vector<std::vector<float>> of_index(80);  // by epoch and index
    for (const ImageBatch& batch : batches(dataset, random_resized(5), options, 80 / batch_size))
      for (int64_t i = 0; i < batch.count; ++i)
        of_index[batch.step * batch_size / 40 * 40 + batch.indices[i]].assign(
            batch.images.begin() + i * 25, batch.images.begin() + (i + 1) * 25);
    return of_index;
  };
  const auto shuffled = images(8, true);
  EXPECT_TRUE(shuffled == images(20, false));
  for (int64_t index = 0; index < 40; ++index) EXPECT_NE(shuffled[index], shuffled[40 + index]) << index;
}

TEST(Loader, GivesEverySampleOncePerEpoch) {
  const Fake dataset(50);
  LoaderOptions options{.key = 3, .batch_size = 8, .shuffle = true, .threads = 3};
  const auto all = batches(dataset, plain(6), options, 14);
  std::vector<std::vector<int64_t>> epochs(2);
  for (const ImageBatch& batch : all) {
    EXPECT_EQ(batch.count, batch.step % 7 == 6 ? 2 : 8);
    auto& epoch = epochs[batch.step / 7];
    epoch.insert(epoch.end(), batch.indices.begin(), batch.indices.end());
    for (int64_t i = 0; i < batch.count; ++i) {
      EXPECT_EQ(batch.labels[i], batch.indices[i] % 7);
      EXPECT_EQ(batch.images[i * 36 + 2], static_cast<float>(batch.indices[i] + 2) / 255.0f);
    }
  }
  EXPECT_NE(epochs[0], epochs[1]);
  std::vector<int64_t> ascending(50);
  std::iota(ascending.begin(), ascending.end(), 0);
  EXPECT_NE(epochs[0], ascending);
  for (auto& epoch : epochs) {
    std::sort(epoch.begin(), epoch.end());
    EXPECT_EQ(epoch, ascending);
  }
  options.key = 4;
  EXPECT_NE(batches(dataset, plain(6), options, 1)[0].indices, all[0].indices);
}

TEST(Loader, EvaluatesInOrder) {
  const Fake dataset(10);
  Loader loader(dataset, plain(6), {.batch_size = 4, .threads = 2, .end_step = 3});
  EXPECT_EQ(loader.steps_per_epoch(), 3);
  EXPECT_THAT(loader.next_images().indices, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(loader.next_images().indices, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(loader.next_images().indices, ElementsAre(8, 9));
  EXPECT_THROW(loader.next_images(), Failure);
  EXPECT_EQ(dataset.reads, 10);
}

TEST(Loader, DropsTheLastBatchWhenAsked) {
  const Fake dataset(10);
  Loader loader(dataset, plain(6), {.batch_size = 4, .drop_last = true});
  EXPECT_EQ(loader.steps_per_epoch(), 2);
  for (int step = 0; step < 4; ++step) EXPECT_EQ(loader.next_images().count, 4);
}

TEST(Loader, StopsAtTheFirstBadSample) {
  const Fake dataset(40, {13, 14, 30});
  Loader loader(dataset, plain(6), {.batch_size = 10, .threads = 4});
  EXPECT_EQ(loader.next_images().count, 10);
  for (int again = 0; again < 2; ++again)
    EXPECT_EQ(user_error([&] { loader.next_images(); }), "sample13: is broken; replace it");
}

TEST(Loader, SkipsAndCountsBadSamples) {
  const Fake dataset(30, {3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 29});
  for (const int threads : {1, 4}) {
    Loader loader(dataset, plain(6), {.batch_size = 10, .threads = threads, .on_error = OnError::skip});
    ImageBatch batch = loader.next_images();
    EXPECT_THAT(batch.indices, ElementsAre(0, 1, 2, 4, 5, 6, 7, 8, 9));
    EXPECT_THAT(batch.labels, ElementsAre(0, 1, 2, 4, 5, 6, 0, 1, 2));
    EXPECT_THAT(batch.places, ElementsAre(0, 1, 2, 4, 5, 6, 7, 8, 9));
    EXPECT_EQ(batch.count, 10);
    EXPECT_EQ(batch.skipped, 1);
    ASSERT_EQ(batch.images.size(), 9u * 36);
    for (int64_t i = 0; i < 9; ++i)
      EXPECT_EQ(batch.images[i * 36 + 35], static_cast<float>(batch.indices[i] + 35) / 255.0f);
    batch = loader.next_images();
    EXPECT_EQ(batch.count, 10);
    EXPECT_EQ(batch.skipped, 10);
    EXPECT_TRUE(batch.images.empty());
    EXPECT_EQ(loader.next_images().labels.size(), 9u);
  }
}

// The ranks' shares of a batch are its samples, each once, and nobody decodes another's.
TEST(Loader, DecodesOnlyItsShare) {
  for (const std::vector<int64_t>& broken : {std::vector<int64_t>{}, {4, 5, 6, 17}}) {
    const Fake whole(40, {broken.begin(), broken.end()});
    LoaderOptions options{
        .key = 3, .batch_size = 11, .shuffle = true, .threads = 2, .on_error = OnError::skip};
    options.end_step = 6;
    const auto all = batches(whole, plain(6), options, 6);
    for (const int64_t parts : {2, 4}) {
      std::vector<std::vector<int64_t>> seen(6);
      for (int64_t part = 0; part < parts; ++part) {
        const Fake dataset(40, {broken.begin(), broken.end()});
        options.share = {part, parts};
        const auto own = batches(dataset, plain(6), options, 6);
        for (size_t step = 0; step < 6; ++step) {
          const ImageBatch& batch = own[step];
          EXPECT_EQ(batch.count, all[step].count);
          for (size_t i = 0; i < batch.indices.size(); ++i) {
            const auto row = std::find(all[step].indices.begin(), all[step].indices.end(), batch.indices[i]);
            ASSERT_NE(row, all[step].indices.end());
            const size_t k = row - all[step].indices.begin();
            EXPECT_TRUE(
                std::equal(&batch.images[i * 36], &batch.images[i * 36] + 36, &all[step].images[k * 36]));
            EXPECT_EQ(batch.labels[i], all[step].labels[k]);
          }
          seen[step].insert(seen[step].end(), batch.indices.begin(), batch.indices.end());
        }
        EXPECT_LE(dataset.reads, 6 * (11 / parts + 1));
      }
      for (size_t step = 0; step < 6; ++step) EXPECT_EQ(seen[step], all[step].indices);
    }
  }
}

// Samples are asked for by their places in the batch, of which some may be missing.
TEST(Loader, UploadsByPlaceInTheBatch) {
  const Fake dataset(20, {2, 3, 6});
  Loader loader(dataset, plain(6),
                {.batch_size = 20, .on_error = OnError::skip, .share = {.part = 0, .parts = 2}});
  const ImageBatch batch = loader.next_images();
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const std::unique_ptr<Stream> stream = backend->make_stream(1);
  Tape tape(*backend, *stream, DType::f32);
  const auto labels = [&](int64_t begin, int64_t end) {
    const ShardInput input = batch.upload(tape, begin, end);
    return input.count == 0 ? std::vector<int32_t>() : input.labels.host<int32_t>(*stream);
  };
  EXPECT_THAT(labels(0, 5), ElementsAre(0, 1, 4));
  EXPECT_THAT(labels(2, 4), ElementsAre());
  EXPECT_THAT(labels(5, 10), ElementsAre(5, 0, 1, 2));
}

TEST(Loader, EndsWhateverItsThreadsAreDoing) {
  const Fake dataset(1000, {999});
  for (int i = 0; i < 50; ++i) {
    Loader loader(dataset, plain(6), {.key = 1, .batch_size = 7, .shuffle = true, .threads = 3});
    for (int k = 0; k < i % 4; ++k) loader.next_images();
  }
}

TEST(Loader, RefusesSettingsThatMakeNoSense) {
  const Fake dataset(10);
  const auto error = [&](const LoaderOptions& options) {
    return user_error([&] { Loader(dataset, plain(6), options); });
  };
  EXPECT_THAT(error({.batch_size = 0}), HasSubstr("batch_size = 0"));
  EXPECT_THAT(error({.threads = 0}), HasSubstr("threads = 0"));
  EXPECT_THAT(error({.batch_size = 11, .drop_last = true}), HasSubstr("larger than the dataset of 10"));
  EXPECT_EQ(error({.batch_size = 11}), "");
}

}  // namespace
}  // namespace taper
