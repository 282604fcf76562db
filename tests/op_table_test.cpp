// The op table must catch what it is there to catch: each test breaks an op in one way.

#include "tests/op_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"
#include "tests/op_inputs.h"

namespace taper::ops {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// sum_rows, with one fault after the sum.
class Broken final : public ReferenceBackend {
 public:
  using Fault = std::function<void(int64_t rows, int64_t columns, const double* x, double* out)>;
  explicit Broken(Fault fault) : fault_(std::move(fault)) {}
  void sum_rows(Stream& stream, int64_t rows, int64_t columns, DType type, const void* x,
                void* out) override {
    ReferenceBackend::sum_rows(stream, rows, columns, type, x, out);
    fault_(rows, columns, static_cast<const double*>(x), static_cast<double*>(out));
  }

 private:
  Fault fault_;
};

Case sum_rows_case() {
  Inputs inputs("a sum to break");
  return Case{.name = "sum_rows",
              .call = [](Backend& backend, Stream& stream, DType type,
                         const Pointers& p) { backend.sum_rows(stream, 5, 7, type, p["x"], p["out"]); },
              .bound = sum_of(6)}
      .input("x", Kind::activation, inputs.normal(5 * 7))
      .update("out", Kind::accumulator, inputs.normal(7))
      .plant_all({"x"});
}

std::vector<std::string> check_broken(Broken::Fault fault) {
  return check({std::make_shared<Broken>(std::move(fault)), DType::f64}, sum_rows_case());
}

TEST(OpTable, FindsNothingWrongWithASoundOp) {
  EXPECT_THAT(check_broken([](int64_t, int64_t, const double*, double*) {}), IsEmpty());
}

TEST(OpTable, CatchesANaN) {
  auto complaints = check_broken([](int64_t, int64_t, const double*, double* out) {
    out[3] = std::numeric_limits<double>::quiet_NaN();
  });
  EXPECT_THAT(complaints, Contains(HasSubstr("reference_f64, sum_rows: out[3] is nan")));
}

TEST(OpTable, CatchesAFiniteValueWhereANaNBelongs) {
  auto complaints = check_broken([](int64_t, int64_t columns, const double*, double* out) {
    for (int64_t i = 0; i < columns; ++i)
      if (!(out[i] < 1e9)) out[i] = 0;
  });
  EXPECT_THAT(complaints, Contains(HasSubstr("with nan in x: out[2] is 0, should be nan")));
  EXPECT_THAT(complaints, Contains(HasSubstr("with inf in x: out[2] is 0, should be inf")));
}

TEST(OpTable, CatchesOneWrongElement) {
  auto complaints = check_broken([](int64_t, int64_t, const double*, double* out) { out[5] *= 1 + 0x1p-45; });
  EXPECT_THAT(complaints, Contains(HasSubstr("sum_rows: out[5] is")));
}

TEST(OpTable, ReportsTheWorstElement) {
  auto complaints = check_broken([](int64_t, int64_t, const double*, double* out) {
    out[1] += 1;
    out[4] += 1000;
  });
  EXPECT_THAT(complaints, Contains(HasSubstr("sum_rows: out[4] is")));
}

TEST(OpTable, CatchesAGuardOverwrittenBehind) {
  auto complaints =
      check_broken([](int64_t, int64_t columns, const double*, double* out) { out[columns] = 0; });
  EXPECT_THAT(complaints, Contains(HasSubstr("the memory around out was written")));
}

TEST(OpTable, CatchesAGuardOverwrittenBefore) {
  auto complaints = check_broken([](int64_t, int64_t, const double*, double* out) { out[-1] = 0; });
  EXPECT_THAT(complaints, Contains(HasSubstr("the memory around out was written")));
}

TEST(OpTable, CatchesAnInputThatWasChanged) {
  auto complaints =
      check_broken([](int64_t, int64_t, const double* x, double*) { const_cast<double*>(x)[2] = 0; });
  EXPECT_THAT(complaints, Contains(HasSubstr("the input x was changed")));
}

TEST(OpTable, CatchesAssignmentWhereASumBelongs) {
  auto complaints = check_broken([](int64_t rows, int64_t columns, const double* x, double* out) {
    for (int64_t c = 0; c < columns; ++c) {
      out[c] = 0;
      for (int64_t r = 0; r < rows; ++r) out[c] += x[r * columns + c];
    }
  });
  EXPECT_THAT(complaints, Contains(HasSubstr("sum_rows: out[")));
}

TEST(OpTable, CatchesASumWhereAssignmentBelongs) {
  Case forgetful = sum_rows_case();
  forgetful.arguments.back().role = Role::output;  // the contract says =, the op does +=
  forgetful.arguments.back().values.clear();
  forgetful.call = [](Backend& backend, Stream& stream, DType type, const Pointers& p) {
    if (dynamic_cast<Broken*>(&backend) == nullptr) stream.zero(p["out"], 7 * size_of(type));
    backend.sum_rows(stream, 5, 7, type, p["x"], p["out"]);
  };
  auto nothing = [](int64_t, int64_t, const double*, double*) {};
  EXPECT_THAT(check({std::make_shared<Broken>(nothing), DType::f64}, forgetful),
              Contains(HasSubstr("nan, should be")));
}

TEST(OpTable, CatchesASwappedIndex) {
  auto complaints =
      check_broken([](int64_t, int64_t, const double*, double* out) { std::swap(out[2], out[3]); });
  EXPECT_THAT(complaints, Contains(HasSubstr("sum_rows: out[")));
}

TEST(OpTable, CatchesBitsThatDependOnTheRun) {
  std::atomic<int> calls = 0;
  auto complaints = check_broken([&](int64_t, int64_t, const double*, double* out) {
    if (++calls == 2) out[0] = std::nextafter(out[0], 100);  // well inside the tolerance
  });
  EXPECT_THAT(complaints, ElementsAre(HasSubstr("a second run gives other bits")));
}

TEST(OpTable, CatchesWorkersThatDisturbEachOther) {
  std::atomic<int> calls = 0;
  auto complaints = check_broken([&](int64_t, int64_t, const double*, double* out) {
    if (++calls == 6) out[0] = std::nextafter(out[0], 100);
  });
  EXPECT_THAT(complaints, ElementsAre(HasSubstr("two workers at the same time get other bits")));
}

TEST(OpTable, CatchesAnOpThatReadsWhatItHasOverwritten) {
  // y = x in reverse: right, but not in place.
  Case reverse{.name = "reverse",
               .call =
                   [](Backend&, Stream&, DType, const Pointers& p) {
                     for (int i = 0; i < 5; ++i) p.get<double>("y")[i] = p.get<double>("x")[4 - i];
                   },
               .bound = exact()};
  reverse.input("x", Kind::activation, {1, 2, 3, 4, 5}).output("y", Kind::activation, 5);
  std::shared_ptr<Backend> backend = make_reference_backend();
  EXPECT_THAT(check({backend, DType::f64}, reverse), IsEmpty());
  reverse.may_alias("y", "x");
  EXPECT_THAT(check({backend, DType::f64}, reverse), Contains(HasSubstr("with y in x: y[")));
}

TEST(OpTable, FindsAWrongGradientAndNoOther) {
  Case square{.name = "square",
              .call =
                  [](Backend&, Stream&, DType, const Pointers& p) {
                    for (int i = 0; i < 3; ++i)
                      p.get<double>("y")[i] = p.get<double>("x")[i] * p.get<double>("x")[i];
                  },
              .bound = exact()};
  square.input("x", Kind::activation, {1, -2, 3}).output("y", Kind::activation, 3);
  Values weights{{"y", {1, 10, 100}}};
  EXPECT_THAT(check_gradient(square, weights, "x", {2, -40, 600}), IsEmpty());
  EXPECT_THAT(check_gradient(square, weights, "x", {2, -40.001, 600}),
              ElementsAre(HasSubstr("the derivative by x[1]")));
}

TEST(OpTable, RoundsToNearestEven) {
  EXPECT_EQ(round_to(1 + 0x1p-8, DType::bf16), 1);
  EXPECT_EQ(round_to(1 + 3 * 0x1p-8, DType::bf16), 1 + 0x1p-6);
  EXPECT_EQ(round_to(1 + 0x1p-8 + 0x1p-40, DType::bf16), 1 + 0x1p-7);  // by way of float it would be 1
  EXPECT_EQ(round_to(-1e39, DType::bf16), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(round_to(0x1p-133, DType::bf16), 0x1p-133);
  for (uint32_t bits = 0; bits < 0x7F80; ++bits) {
    bf16 value;
    value.bits = static_cast<uint16_t>(bits);
    EXPECT_EQ(round_to(static_cast<float>(value), DType::bf16), static_cast<float>(value));
  }
}

}  // namespace
}  // namespace taper::ops
