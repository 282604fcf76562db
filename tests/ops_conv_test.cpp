// Convolution in the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/tensor.h"
#include "tests/op_inputs.h"
#include "tests/op_run.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ::testing::IsEmpty;

struct NamedShape {
  std::string name;
  ConvShape shape;
};

const std::vector<NamedShape>& shapes() {
  static const std::vector<NamedShape> all = {
      {"3x3", {.n = 2, .h = 8, .w = 8, .c = 16, .k = 16, .r = 3, .s = 3, .padding = 1}},
      {"1x1", {.n = 2, .h = 6, .w = 6, .c = 32, .k = 16, .r = 1, .s = 1}},
      {"stride_2_odd_image",
       {.n = 1, .h = 7, .w = 9, .c = 16, .k = 32, .r = 3, .s = 3, .stride = 2, .padding = 1}},
      {"projection_stride_2", {.n = 2, .h = 7, .w = 7, .c = 8, .k = 24, .r = 1, .s = 1, .stride = 2}},
      {"stem_of_3_channels",
       {.n = 1, .h = 15, .w = 14, .c = 3, .k = 13, .r = 7, .s = 7, .stride = 2, .padding = 3}},
      {"1_channel", {.n = 2, .h = 5, .w = 6, .c = 1, .k = 7, .r = 3, .s = 3, .padding = 1}},
      {"ragged", {.n = 1, .h = 5, .w = 11, .c = 5, .k = 3, .r = 2, .s = 3, .padding = 2}},
      {"dilated", {.n = 1, .h = 9, .w = 8, .c = 6, .k = 10, .r = 3, .s = 3, .padding = 2, .dilation = 2}},
      {"grouped", {.n = 2, .h = 6, .w = 5, .c = 12, .k = 18, .r = 3, .s = 3, .padding = 1, .groups = 3}},
      {"one_pixel", {.n = 1, .h = 1, .w = 1, .c = 1, .k = 1, .r = 1, .s = 1}},
      {"one_pixel_of_padding", {.n = 3, .h = 1, .w = 1, .c = 4, .k = 4, .r = 3, .s = 3, .padding = 1}},
      {"deep", {.n = 1, .h = 4, .w = 4, .c = 256, .k = 40, .r = 3, .s = 3, .padding = 1}},
      {"grouped_stride_2",
       {.n = 1, .h = 6, .w = 7, .c = 32, .k = 16, .r = 3, .s = 3, .stride = 2, .padding = 1, .groups = 2}},
      {"wide", {.n = 3, .h = 7, .w = 9, .c = 72, .k = 140, .r = 3, .s = 2, .padding = 1}},
      {"wide_odd", {.n = 1, .h = 6, .w = 7, .c = 13, .k = 70, .r = 3, .s = 3, .padding = 1}},
      {"wide_parts", {.n = 3, .h = 14, .w = 13, .c = 72, .k = 72, .r = 1, .s = 1}},
      {"stem", {.n = 1, .h = 11, .w = 10, .c = 3, .k = 16, .r = 7, .s = 7, .stride = 2, .padding = 3}},
      {"wide_stem", {.n = 1, .h = 9, .w = 10, .c = 3, .k = 72, .r = 5, .s = 5, .stride = 2, .padding = 2}},
      {"many_pixels", {.n = 4, .h = 28, .w = 28, .c = 8, .k = 8, .r = 3, .s = 3, .padding = 1}},
      {"thin_projection_stride_2", {.n = 2, .h = 9, .w = 8, .c = 6, .k = 10, .r = 1, .s = 1, .stride = 2}},
  };
  return all;
}

/// Strides whose phases meet none, some or all of the taps: the data gradient's trouble alone.
const std::vector<NamedShape>& strided_shapes() {
  static const std::vector<NamedShape> all = {
      {"stride_3_dilation_2",
       {.n = 1, .h = 10, .w = 11, .c = 8, .k = 8, .r = 4, .s = 3, .stride = 3, .padding = 2, .dilation = 2}},
      {"stride_4_dilation_2",
       {.n = 1, .h = 11, .w = 9, .c = 8, .k = 8, .r = 4, .s = 3, .stride = 4, .padding = 3, .dilation = 2}},
  };
  return all;
}

/// Small enough for finite differences, with every extent in play.
const ConvShape kTiny{
    .n = 2, .h = 5, .w = 4, .c = 4, .k = 6, .r = 3, .s = 2, .stride = 2, .padding = 1, .groups = 2};

int64_t x_size(const ConvShape& s) { return s.n * s.h * s.w * s.c; }
int64_t y_size(const ConvShape& s) { return s.n * s.out_h() * s.out_w() * s.k; }

/// The filter as the backend wants it for one pass, with a check that packing keeps to its bytes.
class Packed {
 public:
  Packed(Backend& backend, Stream& stream, const ConvShape& shape, DType type, ConvPass pass,
         const void* filter)
      : bytes_(backend.filter_format(stream, shape, type, pass).bytes) {
    std::vector<uint8_t> guard(static_cast<size_t>(bytes_ + kGuard), kGuardByte);
    memory_ = Tensor::from<uint8_t>(stream, {bytes_ + kGuard}, guard);
    backend.pack_filter(stream, shape, type, pass, filter, memory_.data());
    std::vector<uint8_t> after = memory_.host<uint8_t>(stream);
    for (auto i = static_cast<size_t>(bytes_); i < after.size(); ++i)
      TAPER_CHECK(after[i] == kGuardByte, "pack_filter wrote behind its {} bytes", bytes_);
  }
  const void* data() const { return memory_.data(); }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr uint8_t kGuardByte = 0xA5;
  int64_t bytes_;
  Tensor memory_;
};

struct Epilogue {
  bool bias = false, add = false, relu = false;
};

/// Filters are representable in bf16: what rounding them does has its own test.
std::vector<double> filter_values(Inputs& inputs, const ConvShape& shape) {
  return round_to(inputs.normal(shape.filter_size(), 0, 0.5), DType::bf16);
}

Case forward_case(const std::string& name, const ConvShape& shape, const Epilogue& epilogue,
                  std::vector<double> x = {}) {
  Case result{.name = fmt::format("conv_forward {}{}{}{}", name, epilogue.bias ? " bias" : "",
                                  epilogue.add ? " add" : "", epilogue.relu ? " relu" : ""),
              .call =
                  [shape, epilogue](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    Packed packed(backend, stream, shape, type, ConvPass::forward, p["filter"]);
                    backend.conv_forward(stream, shape, type, p["x"], packed.data(),
                                         {p["bias"], p["add"], epilogue.relu}, p["y"]);
                  },
              .bound = sum_of(static_cast<double>(shape.r * shape.s * shape.c / shape.groups + 2))};
  Inputs inputs(result.name);
  if (x.empty()) x = inputs.with_zeros(x_size(shape));
  result.input("x", Kind::activation, std::move(x))
      .input("filter", Kind::accumulator, filter_values(inputs, shape));
  if (epilogue.bias) result.input("bias", Kind::accumulator, inputs.normal(shape.k));
  if (epilogue.add) result.input("add", Kind::activation, inputs.normal(y_size(shape)));
  result.output("y", Kind::activation, y_size(shape));
  return result.plant_all({"x"});
}

Case backward_data_case(const std::string& name, const ConvShape& shape) {
  Case result{.name = "conv_backward_data " + name,
              .call =
                  [shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    Packed packed(backend, stream, shape, type, ConvPass::backward_data, p["filter"]);
                    backend.conv_backward_data(stream, shape, type, p["dy"], packed.data(), p["dx"]);
                  },
              .bound = sum_of(static_cast<double>(shape.r * shape.s * shape.k / shape.groups))};
  Inputs inputs(result.name);
  return result.input("dy", Kind::activation, inputs.with_zeros(y_size(shape)))
      .input("filter", Kind::accumulator, filter_values(inputs, shape))
      .output("dx", Kind::activation, x_size(shape))
      .plant_all({"dy"});
}

Case backward_filter_case(const std::string& name, const ConvShape& shape) {
  Case result{.name = "conv_backward_filter " + name,
              .call =
                  [shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    backend.conv_backward_filter(stream, shape, type, p["x"], p["dy"], p["dfilter"]);
                  },
              .bound = sum_of(static_cast<double>(shape.n * shape.out_h() * shape.out_w() + 1))};
  Inputs inputs(result.name);
  return result.input("x", Kind::activation, inputs.with_zeros(x_size(shape)))
      .input("dy", Kind::activation, inputs.normal(y_size(shape)))
      .update("dfilter", Kind::accumulator, inputs.normal(shape.filter_size()))
      .plant_all({"x", "dy"});
}

// Whether oneDNN uses AVX-512.
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

std::vector<std::string> check_conv(const Subject& subject, Case op_case, int repetitions = 2) {
  op_case.may_spread = subject.type == DType::bf16 || (subject.backend->name() == "cpu" && !has_avx512());
  return check(subject, op_case, repetitions);
}

class Conv : public ::testing::TestWithParam<Subject> {};

TEST_P(Conv, Forward) {
  for (const auto& [name, shape] : shapes())
    EXPECT_THAT(check_conv(GetParam(), forward_case(name, shape, {})), IsEmpty());
}

TEST_P(Conv, ForwardWithEpilogues) {
  for (size_t i = 0; i < 9; ++i) {
    const auto& [name, shape] = shapes()[i];
    std::vector<Epilogue> epilogues = {{.bias = true, .add = true, .relu = true}};
    if (i < 2) epilogues.insert(epilogues.end(), {{.bias = true}, {.add = true}, {.relu = true}});
    for (const Epilogue& epilogue : epilogues)
      EXPECT_THAT(check_conv(GetParam(), forward_case(name, shape, epilogue)), IsEmpty());
  }
}

TEST_P(Conv, ForwardOfLargeAndSmallMagnitudes) {
  const ConvShape& shape = shapes()[0].shape;
  Inputs inputs("conv magnitudes");
  EXPECT_THAT(
      check_conv(GetParam(), forward_case("large", shape, {}, inputs.magnitudes(x_size(shape), 20, 35))),
      IsEmpty());
  EXPECT_THAT(
      check_conv(GetParam(), forward_case("small", shape, {}, inputs.magnitudes(x_size(shape), -30, -20))),
      IsEmpty());
}

// Padding is not there: an infinity in the filter meets no zeros beside the image.
TEST_P(Conv, FiltersThatAreNotFinite) {
  for (size_t i : {0, 2, 8}) {
    const auto& [name, shape] = shapes()[i];
    Case forward = forward_case(name, shape, {true, true, false}).plant_all({"filter"});
    EXPECT_THAT(check_conv(GetParam(), forward), IsEmpty());
    Case backward = backward_data_case(name, shape).plant_all({"filter"});
    EXPECT_THAT(check_conv(GetParam(), backward), IsEmpty());
  }
}

TEST_P(Conv, BackwardData) {
  for (const auto& all : {shapes(), strided_shapes()})
    for (const auto& [name, shape] : all)
      EXPECT_THAT(check_conv(GetParam(), backward_data_case(name, shape)), IsEmpty());
}

TEST_P(Conv, BackwardFilter) {
  for (const auto& [name, shape] : shapes())
    EXPECT_THAT(check_conv(GetParam(), backward_filter_case(name, shape)), IsEmpty());
}

// One primitive of oneDNN, run by two threads with the library's own scratchpad, gave wrong results in bf16:
// so shapes that keep both workers busy, many times.
TEST_P(Conv, TwoWorkersDoNotDisturbEachOther) {
  const int repetitions = 30;
  for (const auto& [name, shape] : {shapes()[0], shapes()[2], shapes()[11]}) {
    EXPECT_THAT(check_conv(GetParam(), forward_case(name, shape, {true, true, true}), repetitions),
                IsEmpty());
    EXPECT_THAT(check_conv(GetParam(), backward_data_case(name, shape), repetitions), IsEmpty());
    EXPECT_THAT(check_conv(GetParam(), backward_filter_case(name, shape), repetitions), IsEmpty());
  }
}

TEST_P(Conv, FiltersAreRoundedToNearest) {
  const std::shared_ptr<Backend>& backend = GetParam().backend;
  const DType type = GetParam().type;
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  auto y = [&](const std::vector<double>& filter) {
    Case forward = forward_case("of a filter between two numbers", shapes()[0].shape, {});
    forward.arguments[1].values = filter;
    return run(*backend, *stream, type, forward).bytes;
  };
  Inputs inputs("filter");
  std::vector<double> filter = filter_values(inputs, shapes()[0].shape);
  // Halfway between two numbers of bf16 for every third element, nearer to one of them for the others.
  for (size_t i = 0; i < filter.size(); ++i)
    filter[i] += std::ldexp(i % 3 == 0 ? 0x1p-8 : 0x1p-10, std::ilogb(filter[i]));
  EXPECT_EQ(y(filter), y(round_to(filter, type)));
  if (!GetParam().tf32) return;
  // The same in tf32, whose ties go away from zero.
  filter = round_to(filter, DType::bf16);
  for (size_t i = 0; i < filter.size(); ++i)
    filter[i] += std::copysign(std::ldexp(i % 3 == 0 ? 0x1p-11 : 0x1p-13, std::ilogb(filter[i])), filter[i]);
  std::vector<double> rounded = filter;
  for (double& value : rounded) value = round_to_tf32(value);
  EXPECT_NE(filter, rounded);
  EXPECT_EQ(y(filter), y(rounded));
}

TEST_P(Conv, AFilterServesEveryShapeOfEqualKey) {
  for (const auto& [name, shape] : {shapes()[0], shapes()[4]}) {
    Case forward = forward_case(name + " packed for another batch", shape, {});
    forward.call = [shape = shape](Backend& backend, Stream& stream, DType type, const Pointers& p) {
      ConvShape other = shape;
      other.n += 5;
      auto key = [&](const ConvShape& s) {
        return backend.filter_format(stream, s, type, ConvPass::forward).key;
      };
      Packed packed(backend, stream, key(shape) == key(other) ? other : shape, type, ConvPass::forward,
                    p["filter"]);
      backend.conv_forward(stream, shape, type, p["x"], packed.data(), {}, p["y"]);
    };
    EXPECT_THAT(check_conv(GetParam(), forward), IsEmpty());
  }
}

TEST_P(Conv, ImpossibleShapesAreFailures) {
  std::unique_ptr<Stream> stream = GetParam().backend->make_stream(1);
  ConvShape shape = shapes()[0].shape;
  shape.groups = 3;
  EXPECT_THROW(GetParam().backend->filter_format(*stream, shape, GetParam().type, ConvPass::forward),
               Failure);
}

INSTANTIATE_TEST_SUITE_P(All, Conv, ::testing::ValuesIn(product_subjects()),
                         [](const auto& info) { return to_string(info.param); });

TEST(ConvReference, GradientsAgreeWithFiniteDifferences) {
  Case forward = forward_case("tiny", kTiny, {});
  std::vector<double> x = forward.argument("x").values, filter = forward.argument("filter").values;
  Values dy{{"y", Inputs("dy").normal(y_size(kTiny))}};

  Case data = backward_data_case("tiny", kTiny);
  data.arguments[0].values = dy["y"];
  data.arguments[1].values = filter;
  EXPECT_THAT(check_gradient(forward, dy, "x", reference(data)["dx"]), IsEmpty());

  Case weights = backward_filter_case("tiny", kTiny);
  weights.arguments[0].values = x;
  weights.arguments[1].values = dy["y"];
  weights.arguments[2].values.assign(filter.size(), 0);
  EXPECT_THAT(check_gradient(forward, dy, "filter", reference(weights)["dfilter"]), IsEmpty());
}

}  // namespace
}  // namespace taper::ops
