#include "kernels/optimizer.h"

#include <cmath>
#include <vector>

#include "kernels/reference/reference.h"

namespace taper {

using namespace reference;

void ReferenceBackend::sgd(Stream&, std::span<const Segment> segments, DType type, const Sgd& rule,
                           double gradient_scale, const void* gradient, void* momentum, void* parameter) {
  require_double(type);
  for (const Segment& segment : segments)
    for (int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      double g = in(gradient)[i] * gradient_scale + segment.weight_decay * in(parameter)[i];
      out(momentum)[i] = rule.momentum * in(momentum)[i] + g;
      double direction = rule.nesterov ? g + rule.momentum * in(momentum)[i] : in(momentum)[i];
      out(parameter)[i] -= rule.lr * direction;
    }
}

void ReferenceBackend::adamw(Stream&, std::span<const Segment> segments, DType type, const AdamW& rule,
                             double gradient_scale, const void* gradient, void* first_moment,
                             void* second_moment, void* parameter) {
  require_double(type);
  double correction1 = 1 - std::pow(rule.beta1, rule.step), correction2 = 1 - std::pow(rule.beta2, rule.step);
  for (const Segment& segment : segments)
    for (int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      double g = in(gradient)[i] * gradient_scale;
      double &m = out(first_moment)[i], &v = out(second_moment)[i], &p = out(parameter)[i];
      p -= rule.lr * segment.weight_decay * p;
      m = rule.beta1 * m + (1 - rule.beta1) * g;
      v = rule.beta2 * v + (1 - rule.beta2) * g * g;
      p -= rule.lr * (m / correction1) / (std::sqrt(v / correction2) + rule.eps);
    }
}

void ReferenceBackend::lamb(Stream&, std::span<const Segment> segments, DType type, const Lamb& rule,
                            double gradient_scale, const void* gradient, void* first_moment,
                            void* second_moment, void* parameter) {
  require_double(type);
  double correction1 = 1 - std::pow(rule.beta1, rule.step), correction2 = 1 - std::pow(rule.beta2, rule.step);
  for (const Segment& segment : segments) {
    std::vector<double> direction;
    double p_squares = 0, u_squares = 0;
    for (int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      double g = in(gradient)[i] * gradient_scale, p = in(parameter)[i];
      double &m = out(first_moment)[i], &v = out(second_moment)[i];
      m = rule.beta1 * m + (1 - rule.beta1) * g;
      v = rule.beta2 * v + (1 - rule.beta2) * g * g;
      direction.push_back((m / correction1) / (std::sqrt(v / correction2) + rule.eps) +
                          segment.weight_decay * p);
      p_squares += p * p;
      u_squares += direction.back() * direction.back();
    }
    double ratio = p_squares == 0 || u_squares == 0 ? 1 : std::sqrt(p_squares) / std::sqrt(u_squares);
    for (int64_t i = 0; i < segment.size; ++i)
      out(parameter)[segment.offset + i] -= rule.lr * ratio * direction[static_cast<size_t>(i)];
  }
}

void ReferenceBackend::sum_of_squares(Stream&, std::span<const Segment> segments, DType type, const void* x,
                                      double* squares) {
  require_double(type);
  for (size_t s = 0; s < segments.size(); ++s) {
    squares[s] = 0;
    for (int64_t i = segments[s].offset; i < segments[s].offset + segments[s].size; ++i)
      squares[s] += in(x)[i] * in(x)[i];
  }
}

}  // namespace taper
