// Times the CUDA backend's kernels on the shapes of ResNet-50 (batches of 64 and 256) and BERT (base and
// large, 4k and 16k tokens), beside cuBLASLt and cuDNN where they can be loaded. Each op is checked before it
// is timed, and its arguments are rotated through more memory than a cache holds. Times are the device's, by
// events. On the device sim the shapes are tiny, and times mean nothing.
//
// Counters: FLOP/s and bytes/s; `of_peak`, the share of what the device's clocks and widths allow, of FLOP/s
// for products and of bytes/s for norms; `vendor`, the vendor's time over ours, above 1 where ours is faster.

#include "bench/attention_ops.h"
#include "bench/conv_ops.h"
#include "bench/matmul_ops.h"
#include "bench/norm_ops.h"
#include "runtime/cuda/device.h"

namespace taper::bench {
namespace {

/// Of all arguments: past the second-level cache of any GPU so far (126 MB).
constexpr int64_t kPastTheCache = int64_t{256} << 20;
/// Calls between two events, so that launching them does not show.
constexpr int64_t kCalls = 8;

/// In which precision a product is made.
struct Precision {
  std::string name;
  DType type;
  bool tf32;
};
const std::vector<Precision> kPrecisions = {
    {"f32", DType::f32, false}, {"tf32", DType::f32, true}, {"bf16", DType::bf16, false}};

/// An op on one device: its arguments, and the seconds of kCalls calls.
class Timed {
 public:
  /// Failure where the op's result is wrong.
  explicit Timed(const Op& op) : op_(op), copies_(copies_past(kPastTheCache, op, kCalls)) {
    op.run(copies_[0]);
    if (const std::string wrong = fault(op, copies_[0]); !wrong.empty()) throw Failure("{}", wrong);
  }
  double seconds() {
    return cuda_seconds(*device().stream, [&] {
      for (int64_t i = 0; i < kCalls; ++i) op_.run(copies_[static_cast<size_t>(i) % copies_.size()]);
    });
  }
  int64_t bytes() const { return op_.bytes > 0 ? op_.bytes : bytes_of(copies_[0]); }

 private:
  const Op& op_;
  std::vector<Arguments> copies_;
};

bool tiny() { return cuda_device() == "sim"; }

/// Whether cuBLASLt and cuDNN are there; says why not, once.
bool vendor_is_there() {
  static const bool there = [] {
    if (tiny()) return false;
    try {
      make_backend(cuda_device(), {.matmul = Provider::vendor, .convolution = Provider::vendor});
      return true;
    } catch (const UserError& error) {
      fmt::print(stderr, "without the vendor's times: {}\n", error.what());
      return false;
    }
  }();
  return there;
}

/// The least seconds of a few rounds with the vendor's libraries; none where they cannot make the op, or not
/// as exactly as the check wants it: cuDNN rounds filter gradients of bf16 to bf16.
std::optional<double> vendor_seconds(const Op& op, bool tf32) {
  constexpr int kRounds = 5;
  auto ours = std::move(the_device());
  the_device() = std::make_unique<Device>(make_backend(
      cuda_device(), {.tf32 = tf32, .matmul = Provider::vendor, .convolution = Provider::vendor}));
  std::optional<double> least;
  try {
    Timed timed(op);
    timed.seconds();
    for (int round = 0; round < kRounds; ++round) least = std::min(least.value_or(HUGE_VAL), timed.seconds());
  } catch (const Failure& failure) {
    fmt::print(stderr, "without the vendor's time: {}\n", failure.what());
  }
  the_device() = std::move(ours);
  return least;
}

void time_kernel(benchmark::State& state, const Op& op, const Precision& precision, bool of_vendor) {
  the_device() = std::make_unique<Device>(make_backend(cuda_device(), {.tf32 = precision.tf32}));
  double least = HUGE_VAL;
  {
    Timed timed(op);
    timed.seconds();
    for (auto _ : state) {
      const double seconds = timed.seconds();
      least = std::min(least, seconds);
      state.SetIterationTime(seconds / kCalls);
    }
    auto rate = [&](double each) {
      return benchmark::Counter(each, benchmark::Counter::kIsIterationInvariantRate,
                                benchmark::Counter::OneK::kIs1000);
    };
    const auto bytes = static_cast<double>(timed.bytes());
    if (op.flops > 0) state.counters["FLOP/s"] = rate(op.flops);
    state.counters["bytes/s"] = rate(bytes);
    if (const std::optional<CudaPeak> peak = cuda_peak(0)) {
      const double flops = precision.tf32                  ? peak->tf32
                           : precision.type == DType::bf16 ? peak->bf16
                                                           : peak->f32;
      state.counters["of_peak"] = kCalls * (op.flops > 0 ? op.flops / flops : bytes / peak->memory) / least;
    }
  }
  if (of_vendor && vendor_is_there())
    if (const std::optional<double> vendor = vendor_seconds(op, precision.tf32))
      state.counters["vendor"] = *vendor / least;
}

void add_kernel(Op op, const Precision& precision, bool of_vendor) {
  // The op's own name ends with its type of storage.
  const std::string name = op.name.substr(0, op.name.rfind('/') + 1) + precision.name;
  benchmark::RegisterBenchmark(name.c_str(),
                               [op = std::move(op), precision, of_vendor](benchmark::State& state) {
                                 time_kernel(state, op, precision, of_vendor);
                               })
      ->Unit(benchmark::kMicrosecond)
      ->UseManualTime();
}

void add_resnet50(int64_t n, const Precision& p) {
  const int64_t size = tiny() ? 8 : 56, width = tiny() ? 8 : 64;
  const std::string batch = fmt::format("resnet50_{}/", n);
  std::vector<Layer> layers = bottlenecks(batch, 4, n, size, width, width, width);
  layers.insert(layers.begin(), {batch + "stem", {n, 4 * size, 4 * size, 3, width, 7, 7, 2, 3}});
  for (const Layer& layer : layers) {
    const ConvShape& s = layer.shape;
    add_kernel(conv_forward(layer, p.type, false), p, true);
    if (s.c > 3) add_kernel(conv_backward_data(layer, p.type), p, true);
    add_kernel(conv_backward_filter(layer, p.type), p, true);
    if (p.tf32) continue;  // norms make no products
    const BatchNormShape norm{s.n * s.out_h() * s.out_w(), s.k, true};
    add_kernel(batch_norm_forward(layer.name, norm, p.type, false), p, false);
    add_kernel(batch_norm_backward(layer.name, norm, p.type, false), p, false);
  }
}

void add_bert(const std::string& name, int64_t tokens, int64_t hidden, const Precision& p) {
  const int64_t length = tiny() ? 16 : 512, head = tiny() ? 32 : 64;
  const std::string of = fmt::format("{}_{}/", name, tokens);
  auto linear = [&](const std::string& layer, int64_t in, int64_t out) {
    add_kernel(matmul(of + layer, {tokens, out, in, false, true}, p.type, p.type, false), p, true);
    add_kernel(matmul(of + layer, {tokens, out, in, false, true}, p.type, p.type, true), p, true);
    add_kernel(matmul(of + layer + "_backward_data", {tokens, in, out}, p.type, p.type, false), p, true);
    add_kernel(
        matmul(of + layer + "_backward_weight", {out, in, tokens, true, false}, p.type, DType::f32, false), p,
        true);
  };
  linear("qkv", hidden, 3 * hidden);
  linear("projection", hidden, hidden);
  linear("feed_forward", hidden, 4 * hidden);
  linear("feed_forward_out", 4 * hidden, hidden);
  if (p.tf32) return;  // attention and norms compute in f32
  const AttentionSize attended{tokens / length, length, hidden / head, head};
  for (bool backward : {false, true}) add_kernel(attention(attended, p.type, backward), p, false);
  add_kernel(layer_norm_forward(tokens, hidden, p.type), p, false);
  add_kernel(layer_norm_backward(tokens, hidden, p.type), p, false);
}

int run(int argc, char** argv) {
  if (cuda_device().empty()) throw UserError("this build has no CUDA kernels to time");
  make_backend(cuda_device());  // no GPU: says so now
  for (const Precision& precision : kPrecisions) {
    if (tiny()) {
      add_resnet50(2, precision);
      add_bert("bert_tiny", 32, 64, precision);
      continue;
    }
    for (int64_t n : {64, 256}) add_resnet50(n, precision);
    for (int64_t tokens : {4096, 16384}) {
      add_bert("bert_base", tokens, 768, precision);
      add_bert("bert_large", tokens, 1024, precision);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace taper::bench

int main(int argc, char** argv) {
  int code = 0;
  try {
    code = taper::bench::run(argc, argv);
  } catch (const taper::Error& error) {
    fmt::print(stderr, "bench_kernels: {}\n", error.what());
    code = error.exit_code();
  }
  taper::bench::the_device().reset();  // before what CUDA keeps for the whole program
  return code;
}
