// Losses: the heads' of ResNet-50, the demo and BERT, and imitation at the blocks' outputs.

#include "bench/op_bench.h"
#include "bench/shapes.h"

namespace taper::bench {
namespace {

double log_sum(const Tensor& x, int64_t row, int64_t columns, double scale = 1) {
  double sum = 0;
  for (int64_t j = 0; j < columns; ++j) sum += std::exp(at(x, row * columns + j) * scale);
  return std::log(sum);
}

// Arguments: logits, labels, loss, dlogits.
Op cross_entropy(int64_t rows, int64_t classes) {
  return {.name = fmt::format("cross_entropy/{}x{}/f32", rows, classes),
          .arguments = {{DType::f32, {rows, classes}},
                        {DType::i32, {rows}},
                        {DType::f32, {1}},
                        {DType::f32, {rows, classes}}},
          .run =
              [=](Arguments& a) {
                device().backend->cross_entropy(*device().stream, rows, classes, DType::f32, a[0].data(),
                                                a[1].as<int32_t>(), 0, a[2].data(), a[3].data());
              },
          .error =
              [=](const Arguments& a) {
                double loss = 0;
                for (int64_t row = 0; row < rows; ++row)
                  loss += log_sum(a[0], row, classes) - at(a[0], row * classes + a[1].as<int32_t>()[row]);
                double of_gradient = worst(rows * classes, [&](int64_t i) {
                  int64_t row = i / classes;
                  double want = std::exp(at(a[0], i) - log_sum(a[0], row, classes)) -
                                (i % classes == a[1].as<int32_t>()[row] ? 1 : 0);
                  return relative_error(at(a[3], i), want, 8, DType::f32);
                });
                return std::max(of_gradient, relative_error(at(a[2], 0), loss, loss, DType::f32));
              }};
}

// Arguments: logits, labels, counts.
Op count_correct(int64_t rows, int64_t classes) {
  return {.name = fmt::format("count_correct/{}x{}/f32", rows, classes),
          .arguments = {{DType::f32, {rows, classes}}, {DType::i32, {rows}}, {DType::i32, {2}}},
          .run =
              [=](Arguments& a) {
                device().backend->count_correct(*device().stream, rows, classes, DType::f32, a[0].data(),
                                                a[1].as<int32_t>(), a[2].as<int32_t>());
              },
          .error =
              [=](const Arguments& a) {
                int32_t first = 0, five = 0;
                for (int64_t row = 0; row < rows; ++row) {
                  int64_t label = row * classes + a[1].as<int32_t>()[row], before = 0;
                  for (int64_t j = row * classes; j < (row + 1) * classes; ++j)
                    before += at(a[0], j) > at(a[0], label) || (at(a[0], j) == at(a[0], label) && j < label);
                  first += before < 1;
                  five += before < 5;
                }
                return a[2].as<int32_t>()[0] == first && a[2].as<int32_t>()[1] == five ? 0.0 : HUGE_VAL;
              }};
}

// Arguments: teacher, student, loss, dstudent; temperature 2.
Op kl_divergence(int64_t rows, int64_t classes) {
  return {.name = fmt::format("kl_divergence/{}x{}/f32", rows, classes),
          .arguments = {{DType::f32, {rows, classes}},
                        {DType::f32, {rows, classes}},
                        {DType::f32, {1}},
                        {DType::f32, {rows, classes}}},
          .run =
              [=](Arguments& a) {
                device().backend->kl_divergence(*device().stream, rows, classes, DType::f32, a[0].data(),
                                                a[1].data(), 2, a[2].data(), a[3].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(rows * classes, [&](int64_t i) {
                  int64_t row = i / classes;
                  auto probability = [&](const Tensor& x) {
                    return std::exp(at(x, i) * 0.5 - log_sum(x, row, classes, 0.5));
                  };
                  double want = 2 * (probability(a[1]) - probability(a[0]));
                  return relative_error(at(a[3], i), want, 8, DType::f32);
                });
              }};
}

// Arguments: student, target, loss, dstudent.
Op squared_error(int64_t count, DType type) {
  return {.name = fmt::format("squared_error/{}/{}", count, name(type)),
          .arguments = {{type, {count}}, {type, {count}}, {DType::f32, {1}}, {type, {count}}},
          .run =
              [=](Arguments& a) {
                device().backend->squared_error(*device().stream, count, type, a[0].data(), a[1].data(), 1,
                                                a[2].data(), a[3].data());
              },
          .error =
              [=](const Arguments& a) {
                return worst(count, [&](int64_t i) {
                  return relative_error(at(a[3], i), 2 * (at(a[0], i) - at(a[1], i)), 4, type);
                });
              }};
}

// Arguments: t, u, h, loss, dh, du. U is any matrix here: dh's formula for the tied bridge holds for all.
Op imitation(const ImitationShape& s, DType type, bool free) {
  Op op{.name =
            fmt::format("imitation{}/{}x{}to{}/{}", free ? "_free" : "", s.rows, s.wide, s.thin, name(type)),
        .arguments = {{type, {s.rows, s.wide}},
                      {type, {s.wide, s.thin}},
                      {type, {s.rows, s.thin}},
                      {DType::f32, {1}},
                      {type, {s.rows, s.thin}},
                      {DType::f32, {s.wide, s.thin}}},
        .run =
            [=](Arguments& a) {
              if (free)
                device().backend->imitation_free(*device().stream, s, type, a[0].data(), a[1].data(),
                                                 a[2].data(), a[3].data(), a[4].data(), a[5].data());
              else
                device().backend->imitation(*device().stream, s, type, a[0].data(), a[1].data(), a[2].data(),
                                            a[3].data(), a[4].data());
            },
        .error =
            [=](const Arguments& a) {
              return worst(s.rows * s.thin, [&](int64_t i) {
                int64_t row = i / s.thin, column = i % s.thin;
                double want = free ? 0 : at(a[2], i), terms = static_cast<double>(s.wide);
                for (int64_t w = 0; w < s.wide; ++w) {
                  double lifted = 0;
                  if (free)
                    for (int64_t j = 0; j < s.thin; ++j)
                      lifted += at(a[2], row * s.thin + j) * at(a[1], w * s.thin + j);
                  want += (lifted - at(a[0], row * s.wide + w)) * at(a[1], w * s.thin + column);
                }
                if (free) terms *= static_cast<double>(s.thin);
                // In bf16 U^T U and the like may be rounded on the way.
                return relative_error(at(a[4], i), 2 * want, type == DType::bf16 ? terms * 0x1p13 : terms,
                                      type);
              });
            },
        .flops = 2.0 * static_cast<double>(s.rows * s.wide * s.thin) * (free ? 2 : 1)};
  return op;
}

const bool registered = [] {
  add(cross_entropy(2048, 30522));
  for (auto [rows, classes] : {std::pair<int64_t, int64_t>(8, 1000), {64, 10}}) {
    add(cross_entropy(rows, classes));
    add(count_correct(rows, classes));
    add(kl_divergence(rows, classes));
  }
  for (DType type : {DType::f32, DType::bf16}) {
    for (int64_t count : kActivations) add(squared_error(count, type));
    for (bool free : {false, true}) {
      add(imitation({8 * 28 * 28, 512, 256, 1}, type, free));
      add(imitation({64 * 28 * 28, 128, 32, 1}, type, free));
    }
  }
  return true;
}();

}  // namespace
}  // namespace taper::bench
