// torchvision loads what Taper writes, and computes the same with it: tests/torchvision_check.py, run by
// $TAPER_PYTHON or python3. Skipped where that has no torchvision.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "layers/resnet.h"
#include "layers/weights.h"
#include "runtime/philox.h"
#include "runtime/safetensors.h"

namespace taper {
namespace {

// `model` is torchvision's name of what `spec` describes.
void expect_loads_and_computes_the_same(const std::string& model, const ResNetSpec& spec) {
  std::string pattern = testing::TempDir() + "taper-torchvision-XXXXXX";
  std::filesystem::path folder = mkdtemp(pattern.data());
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  std::unique_ptr<Network> network = make_resnet(spec);
  network->store().allocate(*stream, DType::f32);
  initialize(*network, *stream, 1, false);
  // Not the initial ones and zeros, which would hide tensors that were mixed up.
  for (Parameter& p : network->store().all()) {
    if (p.shape.size() > 1) continue;
    std::vector<double> values = host_values(*stream, p);
    Draws draws(hash(p.name), 0, 0);
    for (double& v : values) v += 0.5 * draws.uniform();
    set_values(*stream, p, values);
  }
  write_weights(folder / "export.safetensors", *stream, network->store());

  std::vector<float> images(2 * 64 * 48 * 3);
  Draws draws(hash("images"), 0, 0);
  for (float& v : images) v = 2 * draws.uniform() - 1;
  Tape tape(*backend, *stream, DType::f32);
  Var logits = network->forward(tape, tape.constant(Tensor::from<float>(*stream, {2, 64, 48, 3}, images)));
  std::vector<float> ours = logits->value.host<float>(*stream);
  write_safetensors(folder / "sample.safetensors",
                    {{"images", DType::f32, {2, 64, 48, 3}, std::as_bytes(std::span(images))},
                     {"logits", DType::f32, {2, spec.classes}, std::as_bytes(std::span(ours))}});

  const char* python = std::getenv("TAPER_PYTHON");
  std::string command =
      fmt::format("'{}' '{}/tests/torchvision_check.py' '{}' {} '{}'", python != nullptr ? python : "python3",
                  TAPER_SOURCE_DIR, (folder / "export.safetensors").string(), model,
                  (folder / "sample.safetensors").string());
  int status = std::system(command.c_str());
  std::filesystem::remove_all(folder);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no torchvision";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Torchvision, LoadsAnExportStrictlyAndComputesTheSame) {
  expect_loads_and_computes_the_same(
      "resnet18", {.block = ResNetSpec::BlockKind::basic, .depths = {2, 2, 2, 2}, .classes = 7});
}

// The wide network of the paper's protocol, in full.
TEST(Torchvision, LoadsAWideNetworkToo) {
  expect_loads_and_computes_the_same("wide_resnet50_2", {.depths = {3, 4, 6, 3}, .inner = 2});
}

}  // namespace
}  // namespace taper
