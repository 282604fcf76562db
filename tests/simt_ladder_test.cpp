// The steps of docs/kernels.md's matrix product, as cases of the op table.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda/ladder/ladder.h"
#include "tests/op_inputs.h"
#include "tests/op_table.h"

namespace taper::ops {
namespace {

using ladder::Rung;
using ::testing::IsEmpty;

Case product_case(const Rung& rung, int64_t m, int64_t n, int64_t k) {
  Case result{.name = fmt::format("{} {} x {} x {}", rung.name, m, n, k),
              .call =
                  [=](Backend& backend, Stream& stream, DType type, const Pointers& p) {
                    if (backend.name() == "sim")
                      rung.product(stream, m, n, k, p["a"], p["b"], p.get<float>("out"));
                    else
                      backend.matmul(stream, {.m = m, .n = n, .k = k}, type, p["a"], p["b"], {},
                                     accumulator(type), p["out"]);
                  },
              .bound = sum_of(static_cast<double>(k))};
  Inputs inputs(result.name);
  return result.input("a", Kind::activation, inputs.normal(m * k))
      .input("b", Kind::activation, inputs.normal(k * n))
      .output("out", Kind::accumulator, m * n)
      .plant_all({"a", "b"});
}

class Ladder : public ::testing::TestWithParam<Rung> {};

TEST_P(Ladder, AgreesWithTheReference) {
  const Rung& rung = GetParam();
  const Subject* sim = nullptr;
  for (const Subject& subject : subjects())
    if (subject.backend->name() == "sim" && subject.type == rung.type) sim = &subject;
  ASSERT_NE(sim, nullptr);
  struct Size {
    int64_t m, n, k;
  };
  for (auto [m, n, k] :
       {Size{1, 1, 1}, Size{64, 64, 64}, Size{65, 63, 33}, Size{31, 129, 7}, Size{40, 72, 200}})
    EXPECT_THAT(check(*sim, product_case(rung, m, n, k), 1), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, Ladder, ::testing::ValuesIn(ladder::kRungs), [](const auto& info) {
  std::string name = info.param.name;
  for (char& letter : name)
    if (letter == ' ') letter = '_';
  return name;
});

}  // namespace
}  // namespace taper::ops
