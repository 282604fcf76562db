// ProviderBackend on the device sim, with a stand-in for NVIDIA's libraries: Taper's own kernels, which leave
// a mark in what they make.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/provider_backend.h"
#include "runtime/tensor.h"
#include "tests/op_inputs.h"

namespace taper {
namespace {

using ops::Inputs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const BackendOptions kVendor{.matmul = Provider::vendor, .convolution = Provider::vendor};

/// Makes what a library would, and notes what was asked of it.
class Stub final : public VendorKernels {
 public:
  explicit Stub(std::vector<std::string>& calls, bool able = true) : calls_(calls), able_(able) {}
  bool matmul(CudaStream& stream, const MatmulShape& shape, DType type, bool, const void* a, const void* b,
              double scale, bool accumulate, DType out_type, void* out) override {
    calls_.emplace_back("matmul");
    if (able_)
      own_.matmul(stream, shape, type, a, b, {.scale = scale, .accumulate = accumulate}, out_type, out);
    return able_;
  }
  bool conv_forward(CudaStream& stream, const ConvShape& shape, DType type, bool, const void* x,
                    const void* filter, void* y) override {
    calls_.emplace_back("conv_forward");
    if (able_)
      own_.conv_forward(stream, shape, type, x, packed(stream, shape, type, ConvPass::forward, filter).data(),
                        {}, y);
    return able_;
  }
  bool conv_backward_data(CudaStream& stream, const ConvShape& shape, DType type, bool, const void* dy,
                          const void* filter, void* dx) override {
    calls_.emplace_back("conv_backward_data");
    if (able_)
      own_.conv_backward_data(stream, shape, type, dy,
                              packed(stream, shape, type, ConvPass::backward_data, filter).data(), dx);
    return able_;
  }
  bool conv_backward_filter(CudaStream& stream, const ConvShape& shape, DType type, bool, const void* x,
                            const void* dy, void* dfilter) override {
    calls_.emplace_back("conv_backward_filter");
    if (!able_) return false;
    Tensor wide = Tensor::zeros(stream, DType::f32, {shape.filter_size()});
    own_.conv_backward_filter(stream, shape, type, x, dy, wide.data());
    own_.cast(stream, shape.filter_size(), DType::f32, wide.data(), type, dfilter);
    return true;
  }

 private:
  Tensor packed(Stream& stream, const ConvShape& shape, DType type, ConvPass pass, const void* filter) {
    Tensor wide(stream, DType::f32, {shape.filter_size()});
    own_.cast(stream, shape.filter_size(), type, filter, DType::f32, wide.data());
    Tensor result(stream, DType::u8, {own_.filter_format(stream, shape, type, pass).bytes});
    own_.pack_filter(stream, shape, type, pass, wide.data(), result.data());
    return result;
  }
  std::vector<std::string>& calls_;
  bool able_;
  CudaBackend own_{"sim", 0, {}};
};

Tensor drawn(Backend& backend, Stream& stream, DType type, int64_t count, const std::string& name) {
  std::vector<float> values;
  for (double value : Inputs(name).normal(count)) values.push_back(static_cast<float>(value));
  Tensor wide = Tensor::from<float>(stream, {count}, values);
  if (type == DType::f32) return wide;
  Tensor result(stream, type, {count});
  backend.cast(stream, count, DType::f32, wide.data(), type, result.data());
  return result;
}

class ProviderBackends : public testing::TestWithParam<DType> {
 protected:
  std::vector<std::string> calls_;
  CudaBackend own_{"sim", 0, {}};
  ProviderBackend backend_{"sim", 0, kVendor, std::make_unique<Stub>(calls_)};
  std::unique_ptr<Stream> stream_ = own_.make_stream(1);

  std::vector<float> host(const Tensor& tensor) {
    Tensor wide(*stream_, DType::f32, tensor.shape());
    own_.cast(*stream_, tensor.size(), tensor.dtype(), tensor.data(), DType::f32, wide.data());
    return wide.host<float>(*stream_);
  }
};

TEST_P(ProviderBackends, AProductWithAnyEpilogueIsThatOfTheContract) {
  const DType type = GetParam();
  const MatmulShape shape{.m = 9, .n = 12, .k = 20, .transpose_b = true, .batch = 2};
  Tensor a = drawn(own_, *stream_, type, 2 * 9 * 20, "a"), b = drawn(own_, *stream_, type, 2 * 20 * 12, "b"),
         bias = drawn(own_, *stream_, DType::f32, 12, "bias"),
         residual = drawn(own_, *stream_, type, 2 * 9 * 12, "residual");
  for (MatmulEpilogue e : {MatmulEpilogue{.scale = 0.5}, MatmulEpilogue{.scale = 0.25, .accumulate = true},
                           MatmulEpilogue{.scale = 0.5, .bias = bias.data()},
                           MatmulEpilogue{.bias = bias.data(), .activation = Activation::gelu},
                           MatmulEpilogue{.scale = -1, .residual = residual.data()}}) {
    auto made_by = [&](Backend& backend) {
      Tensor out = drawn(own_, *stream_, type, 2 * 9 * 12, "before");
      backend.matmul(*stream_, shape, type, a.data(), b.data(), e, type, out.data());
      return host(out);
    };
    EXPECT_EQ(made_by(backend_), made_by(own_));
  }
  EXPECT_THAT(calls_, testing::AllOf(testing::SizeIs(5), testing::Each("matmul")));
}

TEST_P(ProviderBackends, ConvolutionsAreThoseOfTheContract) {
  const DType type = GetParam();
  const ConvShape shape{.n = 2, .h = 6, .w = 5, .c = 8, .k = 12, .r = 3, .s = 3, .stride = 2, .padding = 1};
  const int64_t y_size = shape.n * shape.out_h() * shape.out_w() * shape.k, x_size = 2 * 6 * 5 * 8;
  Tensor x = drawn(own_, *stream_, type, x_size, "x"), dy = drawn(own_, *stream_, type, y_size, "dy"),
         filter = drawn(own_, *stream_, DType::f32, shape.filter_size(), "filter"),
         bias = drawn(own_, *stream_, DType::f32, shape.k, "bias");
  auto packed = [&](Backend& backend, ConvPass pass) {
    Tensor result(*stream_, DType::u8, {backend.filter_format(*stream_, shape, type, pass).bytes});
    backend.pack_filter(*stream_, shape, type, pass, filter.data(), result.data());
    return result;
  };
  auto forward = [&](Backend& backend, const ConvEpilogue& epilogue) {
    Tensor y(*stream_, type, {y_size});
    backend.conv_forward(*stream_, shape, type, x.data(), packed(backend, ConvPass::forward).data(), epilogue,
                         y.data());
    return host(y);
  };
  auto backward_data = [&](Backend& backend) {
    Tensor dx(*stream_, type, {x_size});
    backend.conv_backward_data(*stream_, shape, type, dy.data(),
                               packed(backend, ConvPass::backward_data).data(), dx.data());
    return host(dx);
  };
  auto backward_filter = [&](Backend& backend) {
    Tensor dfilter = drawn(own_, *stream_, DType::f32, shape.filter_size(), "before");
    backend.conv_backward_filter(*stream_, shape, type, x.data(), dy.data(), dfilter.data());
    return host(dfilter);
  };
  // Below 64, a rounding to bf16 more than the contract's may move the last one by a unit of 2^-2.
  const float off = type == DType::bf16 ? 0x1p-2f : 0x1p-18f;
  EXPECT_EQ(forward(backend_, {}), forward(own_, {}));
  EXPECT_THAT(forward(backend_, {bias.data(), dy.data(), true}),
              testing::Pointwise(testing::FloatNear(off), forward(own_, {bias.data(), dy.data(), true})));
  EXPECT_THAT(forward(backend_, {nullptr, dy.data(), false}),
              testing::Pointwise(testing::FloatNear(off), forward(own_, {nullptr, dy.data(), false})));
  EXPECT_EQ(backward_data(backend_), backward_data(own_));
  EXPECT_THAT(backward_filter(backend_), testing::Pointwise(testing::FloatNear(off), backward_filter(own_)));
  EXPECT_THAT(calls_, ElementsAre("conv_forward", "conv_forward", "conv_forward", "conv_backward_data",
                                  "conv_backward_filter"));
}

INSTANTIATE_TEST_SUITE_P(All, ProviderBackends, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST(ProviderBackend, VendorRefusesWhatItsLibraryHasNotAndAutoMakesItItself) {
  std::vector<std::string> calls;
  const MatmulShape shape{.m = 4, .n = 4, .k = 4};
  auto run = [&](Provider provider, const std::shared_ptr<ProviderChoices>& choices) {
    ProviderBackend backend("sim", 0, {.matmul = provider, .choices = choices},
                            std::make_unique<Stub>(calls, false));
    std::unique_ptr<Stream> stream = backend.make_stream(1);
    Tensor a = Tensor::zeros(*stream, DType::f32, {16}), out(*stream, DType::f32, {16});
    backend.matmul(*stream, shape, DType::f32, a.data(), a.data(), {}, DType::f32, out.data());
    EXPECT_EQ(out.host<float>(*stream), std::vector<float>(16, 0.0f));
  };
  try {
    run(Provider::vendor, nullptr);
    ADD_FAILURE() << "nothing was refused";
  } catch (const Failure& failure) {
    EXPECT_THAT(failure.what(), HasSubstr("no deterministic way to make matmul 1x[4 x 4 x 4] NN f32"));
  }
  auto choices = std::make_shared<ProviderChoices>();
  run(Provider::automatic, choices);
  ASSERT_EQ(choices->all().size(), 1U);
  EXPECT_EQ(choices->all().begin()->second.provider, Provider::own);
  // A choice that was made is kept: nothing is timed again.
  calls.clear();
  run(Provider::automatic, choices);
  EXPECT_TRUE(calls.empty());
}

TEST(ProviderBackend, AutoSettlesEachPassAndShapeOnce) {
  std::vector<std::string> calls;
  auto choices = std::make_shared<ProviderChoices>();
  ProviderBackend backend("sim", 0, {.convolution = Provider::automatic, .choices = choices},
                          std::make_unique<Stub>(calls));
  std::unique_ptr<Stream> stream = backend.make_stream(1);
  ConvShape shape{.n = 1, .h = 4, .w = 4, .c = 4, .k = 4, .r = 3, .s = 3, .padding = 1};
  for (int i = 0; i < 2; ++i) {
    backend.filter_format(*stream, shape, DType::f32, ConvPass::forward);
    backend.filter_format(*stream, shape, DType::f32, ConvPass::backward_data);
  }
  EXPECT_EQ(choices->all().size(), 2U);
  EXPECT_EQ(calls.size(), 2U * (1 + ProviderChoices::kRounds));
  shape.n = 2;
  backend.filter_format(*stream, shape, DType::f32, ConvPass::forward);
  EXPECT_EQ(choices->all().size(), 3U);
}

}  // namespace
}  // namespace taper
