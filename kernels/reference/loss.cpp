#include "kernels/loss.h"

#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace taper {

using namespace reference;

void ReferenceBackend::cross_entropy(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                                     const int32_t* labels, double smoothing, void* loss, void* dlogits) {
  require_double(type);
  out(loss)[0] = 0;
  std::vector<double> log_p(static_cast<size_t>(classes));
  for (int64_t r = 0; r < rows; ++r) {
    reference::softmax(classes, true, in(logits) + r * classes, log_p.data());
    for (int64_t c = 0; c < classes; ++c) {
      double log_pc = log_p[static_cast<size_t>(c)];
      double q = (c == labels[r] ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
      if (q != 0) out(loss)[0] -= q * log_pc;
      if (dlogits != nullptr) out(dlogits)[r * classes + c] = std::exp(log_pc) - q;
    }
  }
}

void ReferenceBackend::count_correct(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                                     const int32_t* labels, int32_t* counts) {
  require_double(type);
  counts[0] = counts[1] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const double* row = in(logits) + r * classes;
    int64_t label = labels[r], before = 0;
    bool nan = false;
    for (int64_t c = 0; c < classes; ++c) {
      nan = nan || std::isnan(row[c]);
      before += row[c] > row[label] || (row[c] == row[label] && c < label);
    }
    counts[0] += !nan && before < 1;
    counts[1] += !nan && before < 5;
  }
}

void ReferenceBackend::kl_divergence(Stream&, int64_t rows, int64_t classes, DType type, const void* teacher,
                                     const void* student, double temperature, void* loss, void* dstudent) {
  require_double(type);
  out(loss)[0] = 0;
  auto size = static_cast<size_t>(classes);
  std::vector<double> scaled(size), log_p(size), log_q(size);
  for (int64_t r = 0; r < rows; ++r) {
    auto log_softmax = [&](const void* logits, std::vector<double>& result) {
      for (size_t c = 0; c < size; ++c) scaled[c] = (in(logits) + r * classes)[c] / temperature;
      reference::softmax(classes, true, scaled.data(), result.data());
    };
    log_softmax(teacher, log_p);
    log_softmax(student, log_q);
    for (size_t c = 0; c < size; ++c) {
      double p = std::exp(log_p[c]), q = std::exp(log_q[c]);
      if (p != 0) out(loss)[0] += temperature * temperature * p * (log_p[c] - log_q[c]);
      if (dstudent != nullptr) (out(dstudent) + r * classes)[c] = temperature * (q - p);
    }
  }
}

void ReferenceBackend::squared_error(Stream&, int64_t count, DType type, const void* student,
                                     const void* target, double scale, void* loss, void* dstudent) {
  require_double(type);
  out(loss)[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    double difference = in(student)[i] - in(target)[i];
    out(loss)[0] += scale * difference * difference;
    out(dstudent)[i] = 2 * scale * difference;
  }
}

void ReferenceBackend::imitation(Stream&, const ImitationShape& shape, DType type, const void* t,
                                 const void* u, const void* h, void* loss, void* dh) {
  require_double(type);
  auto [rows, wide, thin, scale] = shape;
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t w = 0; w < wide; ++w) sum += std::pow(in(t)[r * wide + w], 2);
    for (int64_t c = 0; c < thin; ++c) {
      double tu = 0;
      for (int64_t w = 0; w < wide; ++w) tu += in(t)[r * wide + w] * in(u)[w * thin + c];
      double difference = in(h)[r * thin + c] - tu;
      sum += difference * difference - tu * tu;
      out(dh)[r * thin + c] = 2 * scale * difference;
    }
  }
  out(loss)[0] = scale * sum;
}

void ReferenceBackend::imitation_free(Stream&, const ImitationShape& shape, DType type, const void* t,
                                      const void* u, const void* h, void* loss, void* dh, void* du) {
  require_double(type);
  auto [rows, wide, thin, scale] = shape;
  out(loss)[0] = 0;
  for (int64_t i = 0; i < rows * thin; ++i) out(dh)[i] = 0;
  // With e = h U^T - t the gradients are dh = 2 scale e U and dU = 2 scale e^T h.
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t w = 0; w < wide; ++w) {
      double error = -in(t)[r * wide + w];
      for (int64_t c = 0; c < thin; ++c) error += in(h)[r * thin + c] * in(u)[w * thin + c];
      out(loss)[0] += scale * error * error;
      for (int64_t c = 0; c < thin; ++c) {
        out(dh)[r * thin + c] += 2 * scale * error * in(u)[w * thin + c];
        out(du)[w * thin + c] += 2 * scale * error * in(h)[r * thin + c];
      }
    }
}

}  // namespace taper
