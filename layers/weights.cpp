#include "layers/weights.h"

namespace taper {

std::vector<double> host_values(Stream& stream, const Parameter& parameter) {
  Tensor value = parameter.value();
  if (value.dtype() == DType::f64) return value.host<double>(stream);
  std::vector<float> values = value.host<float>(stream);
  return {values.begin(), values.end()};
}

void set_values(Stream& stream, Parameter& parameter, std::span<const double> values) {
  TAPER_CHECK(static_cast<int64_t>(values.size()) == parameter.size, "{} values for {}, which has {}",
              values.size(), parameter.name, parameter.size);
  Tensor value = parameter.value();
  if (value.dtype() == DType::f64) {
    stream.upload(value.data(), values.data(), value.bytes());
  } else {
    std::vector<float> rounded(values.begin(), values.end());
    stream.upload(value.data(), rounded.data(), value.bytes());
  }
  parameter.changed();
}

}  // namespace taper
