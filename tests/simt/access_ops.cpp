#include "tests/simt/access_ops.h"

#include <cmath>
#include <utility>

namespace taper::simt_test {

namespace {

Prepare product(bool transpose_a, bool transpose_b, MatmulShape shape) {
  return [=](Ops& o) -> Call {
    MatmulShape m = shape;
    m.transpose_a = transpose_a;
    m.transpose_b = transpose_b;
    const void *a = o.values(m.m * m.k), *b = o.values(m.k * m.n), *bias = o.f32(m.n);
    void* y = o.space(m.m * m.n);
    return [=, &o] { o.b.matmul(o.s, m, o.type, a, b, {.bias = bias}, o.type, y); };
  };
}

enum class Pass { forward, data, filter };
Prepare convolution(Pass pass, ConvShape c) {
  return [=](Ops& o) -> Call {
    const void *x = o.values(c.n * c.h * c.w * c.c), *dy = o.values(c.n * c.out_h() * c.out_w() * c.k);
    const void* filter = o.f32(c.filter_size());
    const ConvPass packed_for = pass == Pass::data ? ConvPass::backward_data : ConvPass::forward;
    const FilterFormat format = o.b.filter_format(o.s, c, o.type, packed_for);
    void* packed = o.space(format.bytes / size_of(o.type));
    o.b.pack_filter(o.s, c, o.type, packed_for, filter, packed);
    void *dx = o.space(c.n * c.h * c.w * c.c), *y = o.space(c.n * c.out_h() * c.out_w() * c.k);
    void* dfilter = o.f32_space(c.filter_size());
    const void* bias = o.f32(c.k);
    return [=, &o] {
      if (pass == Pass::forward) o.b.conv_forward(o.s, c, o.type, x, packed, {.bias = bias, .relu = true}, y);
      if (pass == Pass::data) o.b.conv_backward_data(o.s, c, o.type, dy, packed, dx);
      if (pass == Pass::filter) o.b.conv_backward_filter(o.s, c, o.type, x, dy, dfilter);
    };
  };
}

Prepare packing(ConvPass pass) {
  return [=](Ops& o) -> Call {
    constexpr ConvShape kShape{.n = 1, .h = 14, .w = 14, .c = 64, .k = 64, .r = 3, .s = 3, .padding = 1};
    const void* filter = o.f32(kShape.filter_size());
    void* packed = o.space(o.b.filter_format(o.s, kShape, o.type, pass).bytes / size_of(o.type));
    return [=, &o] { o.b.pack_filter(o.s, kShape, o.type, pass, filter, packed); };
  };
}

Prepare attention(bool backward, int64_t size) {
  return [=](Ops& o) -> Call {
    constexpr int64_t kSequences = 2, kTokens = 256, kHeads = 2;
    AttentionShape shape{.sequences = kSequences,
                         .tokens = kTokens,
                         .heads = kHeads,
                         .head_size = size,
                         .offsets = o.integers<int32_t>(3, [](int64_t i) { return i * 128; }),
                         .scale = 0.1,
                         .dropout = 0.1,
                         .key = 7};
    const void* qkv = o.values(kTokens * 3 * kHeads * size);
    const void* d_o = o.values(kTokens * kHeads * size);
    void *out = o.space(kTokens * kHeads * size), *logsumexp = o.f32_space(kTokens * kHeads);
    void* dqkv = o.space(kTokens * 3 * kHeads * size);
    if (!backward) return [=, &o] { o.b.attention_forward(o.s, shape, o.type, qkv, out, logsumexp); };
    o.b.attention_forward(o.s, shape, o.type, qkv, out, logsumexp);
    return [=, &o] { o.b.attention_backward(o.s, shape, o.type, d_o, qkv, out, logsumexp, dqkv); };
  };
}

Prepare attention_divergence(int64_t size) {
  return [=](Ops& o) -> Call {
    constexpr int64_t kTokens = 128, kWide = 4, kThin = 2;
    const double scale = 1 / std::sqrt(static_cast<double>(size));
    AttentionPair pair{.sequences = 2,
                       .tokens = kTokens,
                       .offsets = o.integers<int32_t>(3, [](int64_t i) { return i * 64; }),
                       .teacher = {kWide, size, scale},
                       .student = {kThin, size, scale}};
    const void *teacher = o.values(kTokens * 3 * kWide * size),
               *student = o.values(kTokens * 3 * kThin * size);
    void *loss = o.f32_space(1), *dstudent = o.space(kTokens * 3 * kThin * size);
    return [=, &o] { o.b.attention_divergence(o.s, pair, o.type, teacher, student, loss, dstudent); };
  };
}

}  // namespace

std::vector<Op> products() {
  std::vector<Op> ops;
  ops.push_back({"matmul NN", product(false, false, {256, 256, 128})});
  ops.push_back({"matmul NT", product(false, true, {256, 256, 128})});
  ops.push_back({"matmul TN", product(true, false, {256, 256, 128})});
  ops.push_back({"matmul NN, large tiles", product(false, false, {1280, 1280, 32})});
  ops.push_back({"matmul NT, k in parts", product(false, true, {64, 64, 2048})});
  const std::vector<std::pair<std::string, ConvShape>> convolutions = {
      {"3x3", {.n = 2, .h = 14, .w = 14, .c = 64, .k = 64, .r = 3, .s = 3, .padding = 1}},
      {"3x3/2", {.n = 2, .h = 14, .w = 14, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 2, .padding = 1}},
      {"1x1", {.n = 2, .h = 14, .w = 14, .c = 128, .k = 128, .r = 1, .s = 1}},
      {"7x7/2 of 3 channels",
       {.n = 1, .h = 32, .w = 32, .c = 3, .k = 64, .r = 7, .s = 7, .stride = 2, .padding = 3}}};
  for (const auto& [name, shape] : convolutions) {
    ops.push_back({"convolution " + name, convolution(Pass::forward, shape)});
    if (shape.c > 3)
      ops.push_back({"convolution " + name + ", data gradient", convolution(Pass::data, shape)});
    ops.push_back({"convolution " + name + ", filter gradient", convolution(Pass::filter, shape)});
  }
  return ops;
}

std::vector<Op> other_ops() {
  std::vector<Op> ops;
  for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data})
    ops.push_back({pass == ConvPass::forward ? "filter laid out" : "filter laid out for the data gradient",
                   packing(pass)});
  for (const int64_t size : {32, 64, 128}) {
    const std::string name = fmt::format("attention, heads of {}", size);
    ops.push_back({name, attention(false, size)});
    ops.push_back({name + ", gradient", attention(true, size)});
    ops.push_back({fmt::format("divergence of attention, heads of {}", size), attention_divergence(size)});
  }
  constexpr int64_t kRows = 512, kWidth = 256, kCount = kRows * kWidth;
  ops.push_back({"batch norm", [](Ops& o) -> Call {
                   const void *x = o.values(kCount), *residual = o.values(kCount), *gamma = o.f32(kWidth),
                              *beta = o.f32(kWidth);
                   void *y = o.space(kCount), *mean = o.f32_space(kWidth), *rstd = o.f32_space(kWidth),
                        *var = o.f32_space(kWidth);
                   return [=, &o] {
                     o.b.batch_norm_forward(o.s, {kRows, kWidth, true}, o.type, x, gamma, beta, residual,
                                            1e-5, y, mean, rstd, var);
                   };
                 }});
  ops.push_back({"batch norm, gradient", [](Ops& o) -> Call {
                   const void *dy = o.values(kCount), *x = o.values(kCount), *y = o.values(kCount),
                              *v = o.f32(kWidth);
                   void *dx = o.space(kCount), *dr = o.space(kCount), *dgamma = o.f32_space(kWidth),
                        *dbeta = o.f32_space(kWidth);
                   return [=, &o] {
                     o.b.batch_norm_backward(o.s, {kRows, kWidth, true}, o.type, dy, x, y, v, v, v, false, dx,
                                             dr, dgamma, dbeta);
                   };
                 }});
  ops.push_back({"batch norm, inference", [](Ops& o) -> Call {
                   const void *x = o.values(kCount), *residual = o.values(kCount), *v = o.f32(kWidth);
                   void* y = o.space(kCount);
                   return [=, &o] {
                     o.b.batch_norm_inference(o.s, {kRows, kWidth, true}, o.type, x, v, v, residual, y);
                   };
                 }});
  ops.push_back({"layer norm", [](Ops& o) -> Call {
                   const void *x = o.values(kCount), *residual = o.values(kCount), *v = o.f32(kWidth);
                   void *sum = o.space(kCount), *y = o.space(kCount), *mean = o.f32_space(kRows),
                        *rstd = o.f32_space(kRows);
                   return [=, &o] {
                     o.b.layer_norm_forward(o.s, kRows, kWidth, o.type, x, residual, v, v, 1e-12, sum, y,
                                            mean, rstd);
                   };
                 }});
  ops.push_back({"layer norm, gradient", [](Ops& o) -> Call {
                   const void *dy = o.values(kCount), *sum = o.values(kCount), *v = o.f32(kWidth),
                              *m = o.f32(kRows);
                   void *dx = o.space(kCount), *dgamma = o.f32_space(kWidth), *dbeta = o.f32_space(kWidth);
                   return [=, &o] {
                     o.b.layer_norm_backward(o.s, kRows, kWidth, o.type, dy, sum, v, m, m, dx, dgamma, dbeta);
                   };
                 }});
  for (const bool logarithm : {false, true}) {
    const std::string name = logarithm ? "log-softmax" : "softmax";
    ops.push_back({name + "", [=](Ops& o) -> Call {
                     const void* x = o.values(kCount);
                     void* y = o.space(kCount);
                     return [=, &o] { o.b.softmax(o.s, kRows, kWidth, o.type, logarithm, x, y); };
                   }});
    ops.push_back({name + ", gradient", [=](Ops& o) -> Call {
                     const void *dy = o.values(kCount), *y = o.values(kCount);
                     void* dx = o.space(kCount);
                     return
                         [=, &o] { o.b.softmax_backward(o.s, kRows, kWidth, o.type, logarithm, dy, y, dx); };
                   }});
  }
  constexpr int64_t kWords = 1024;
  const auto word = [](int64_t i) { return i * 37 % kWords; };
  ops.push_back({"embedding", [=](Ops& o) -> Call {
                   const int32_t* ids = o.integers<int32_t>(kRows, word);
                   const void* table = o.values(kWords * kWidth);
                   void* y = o.space(kCount);
                   return [=, &o] { o.b.embedding_forward(o.s, kRows, kWidth, o.type, ids, table, y); };
                 }});
  ops.push_back({"embedding, gradient", [=](Ops& o) -> Call {
                   const int32_t* ids = o.integers<int32_t>(kRows, word);
                   const void* dy = o.values(kCount);
                   void* dtable = o.f32_space(kWords * kWidth);
                   return [=, &o] {
                     o.b.embedding_backward(o.s, kRows, kWidth, kWords, o.type, ids, dy, dtable);
                   };
                 }});
  ops.push_back({"squared error", [](Ops& o) -> Call {
                   const void *a = o.values(kCount), *b = o.values(kCount);
                   void *loss = o.f32_space(1), *d = o.space(kCount);
                   return [=, &o] { o.b.squared_error(o.s, kCount, o.type, a, b, 1, loss, d); };
                 }});
  for (const bool free : {false, true})
    ops.push_back({free ? "imitation, free bridge" : "imitation, tied bridge", [=](Ops& o) -> Call {
                     constexpr ImitationShape kShape{.rows = kRows, .wide = 256, .thin = 128, .scale = 1};
                     const void *t = o.values(kRows * 256), *u = o.values(256 * 128),
                                *h = o.values(kRows * 128);
                     void *loss = o.f32_space(1), *dh = o.space(kRows * 128), *du = o.f32_space(256 * 128);
                     return [=, &o] {
                       free ? o.b.imitation_free(o.s, kShape, o.type, t, u, h, loss, dh, du)
                            : o.b.imitation(o.s, kShape, o.type, t, u, h, loss, dh);
                     };
                   }});
  ops.push_back({"max pool", [](Ops& o) -> Call {
                   constexpr PoolShape kPool{2, 16, 16, 64, 3, 2, 1};
                   const void* x = o.values(2 * 16 * 16 * 64);
                   void* y = o.space(2 * 8 * 8 * 64);
                   auto* winner = o.integers<uint8_t>(2 * 8 * 8 * 64, [](int64_t) { return 0; });
                   return [=, &o] { o.b.max_pool_forward(o.s, kPool, o.type, x, y, winner); };
                 }});
  ops.push_back({"max pool, gradient", [](Ops& o) -> Call {
                   constexpr PoolShape kPool{2, 16, 16, 64, 3, 2, 1};
                   const void* dy = o.values(2 * 8 * 8 * 64);
                   void* dx = o.space(2 * 16 * 16 * 64);
                   const auto* winner = o.integers<uint8_t>(2 * 8 * 8 * 64, [](int64_t) { return 4; });
                   return [=, &o] { o.b.max_pool_backward(o.s, kPool, o.type, dy, winner, dx); };
                 }});
  ops.push_back({"average pool", [](Ops& o) -> Call {
                   const void* x = o.values(kCount);
                   void* y = o.space(8 * kWidth);
                   return [=, &o] { o.b.average_pool_forward(o.s, 8, kRows / 8, kWidth, o.type, x, y); };
                 }});
  ops.push_back({"average pool, gradient", [](Ops& o) -> Call {
                   const void* dy = o.values(8 * kWidth);
                   void* dx = o.space(kCount);
                   return [=, &o] { o.b.average_pool_backward(o.s, 8, kRows / 8, kWidth, o.type, dy, dx); };
                 }});
  ops.push_back({"gelu", [](Ops& o) -> Call {
                   const void* x = o.values(kCount);
                   void* y = o.space(kCount);
                   return [=, &o] { o.b.activate(o.s, Activation::gelu, kCount, o.type, x, y); };
                 }});
  ops.push_back({"gelu, gradient", [](Ops& o) -> Call {
                   const void *dy = o.values(kCount), *x = o.values(kCount);
                   void* dx = o.space(kCount);
                   return
                       [=, &o] { o.b.activate_backward(o.s, Activation::gelu, kCount, o.type, dy, x, dx); };
                 }});
  ops.push_back({"add", [](Ops& o) -> Call {
                   const void *x = o.values(kCount), *y = o.values(kCount);
                   void* z = o.space(kCount);
                   return [=, &o] { o.b.add(o.s, kCount, o.type, x, y, z); };
                 }});
  ops.push_back({"dropout", [](Ops& o) -> Call {
                   const void* x = o.values(kCount);
                   const auto* ids = o.integers<int64_t>(kRows, [](int64_t i) { return i; });
                   void* y = o.space(kCount);
                   return [=, &o] { o.b.dropout(o.s, kRows, kWidth, o.type, 0.1, 7, ids, x, y); };
                 }});
  ops.push_back({"transpose", [](Ops& o) -> Call {
                   const void* x = o.values(kCount);
                   void* y = o.space(kCount);
                   return [=, &o] { o.b.transpose(o.s, 1, kRows, kWidth, o.type, x, y); };
                 }});
  ops.push_back({"cast to the other type", [](Ops& o) -> Call {
                   const DType other = o.type == DType::f32 ? DType::bf16 : DType::f32;
                   const void* x = o.values(kCount);
                   void* y = o.f32_space(kCount);
                   return [=, &o] { o.b.cast(o.s, kCount, o.type, x, other, y); };
                 }});
  ops.push_back({"sum of rows", [](Ops& o) -> Call {
                   const void* x = o.values(kCount);
                   void* y = o.f32_space(kWidth);
                   return [=, &o] { o.b.sum_rows(o.s, kRows, kWidth, o.type, x, y); };
                 }});
  return ops;
}

std::vector<Op> ops_of_f32() {
  std::vector<Op> ops;
  constexpr int64_t kRows = 64, kClasses = 1000;
  const auto label = [](int64_t i) { return i * 37 % kClasses; };
  ops.push_back({"cross-entropy", [=](Ops& o) -> Call {
                   const void* logits = o.f32(kRows * kClasses);
                   const auto* labels = o.integers<int32_t>(kRows, label);
                   void *loss = o.f32_space(1), *d = o.f32_space(kRows * kClasses);
                   return [=, &o] {
                     o.b.cross_entropy(o.s, kRows, kClasses, DType::f32, logits, labels, 0.1, loss, d);
                   };
                 }});
  ops.push_back({"KL divergence", [](Ops& o) -> Call {
                   const void *t = o.f32(kRows * kClasses), *l = o.f32(kRows * kClasses);
                   void *loss = o.f32_space(1), *d = o.f32_space(kRows * kClasses);
                   return [=, &o] { o.b.kl_divergence(o.s, kRows, kClasses, DType::f32, t, l, 2, loss, d); };
                 }});
  ops.push_back({"top 1 and top 5", [=](Ops& o) -> Call {
                   const void* logits = o.f32(kRows * kClasses);
                   const auto* labels = o.integers<int32_t>(kRows, label);
                   auto* counts = o.integers<int32_t>(2, [](int64_t) { return 0; });
                   return [=, &o] {
                     o.b.count_correct(o.s, kRows, kClasses, DType::f32, logits, labels, counts);
                   };
                 }});
  constexpr int64_t kCount = 1 << 16;
  static const std::vector<Segment> kSegments = {
      {0, 1 << 15, 0.1}, {1 << 15, 1 << 14, 0}, {(1 << 15) + (1 << 14), 1 << 14, 0}};
  const auto optimizer = [&](const std::string& name, auto call) {
    ops.push_back({name, [=](Ops& o) -> Call {
                     const void* g = o.f32(kCount);
                     void *m = o.f32_space(kCount), *v = o.f32_space(kCount), *p = o.f32_space(kCount);
                     return [=, &o] { call(o, g, m, v, p); };
                   }});
  };
  optimizer("SGD", [](Ops& o, const void* g, void* m, void*, void* p) {
    o.b.sgd(o.s, kSegments, DType::f32, {0.1, 0.9, true}, 1, g, m, p);
  });
  optimizer("AdamW", [](Ops& o, const void* g, void* m, void* v, void* p) {
    o.b.adamw(o.s, kSegments, DType::f32, {.lr = 0.1, .step = 1}, 1, g, m, v, p);
  });
  optimizer("LAMB", [](Ops& o, const void* g, void* m, void* v, void* p) {
    o.b.lamb(o.s, kSegments, DType::f32, {.lr = 0.1, .step = 1}, 1, g, m, v, p);
  });
  optimizer("averages", [](Ops& o, const void* g, void*, void*, void* p) {
    o.b.axpby(o.s, kCount, DType::f32, 0.1, g, 0.9, p);
  });
  ops.push_back({"sums of squares", [](Ops& o) -> Call {
                   const void* x = o.f32(kCount);
                   auto* squares = o.integers<double>(3, [](int64_t) { return 0; });
                   return [=, &o] { o.b.sum_of_squares(o.s, kSegments, DType::f32, x, squares); };
                 }});
  return ops;
}

}  // namespace taper::simt_test
